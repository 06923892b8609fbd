"""Files that are whole or absent: written under a temporary name, synced, then renamed; those
behind a URL are written here, then put there whole."""

import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from psla_wds.io.locations import Location, Url
from psla_wds.io.url_files import upload


@contextmanager
def atomic_open(location: Location, mode: str = "wb", *, shared: bool = False) -> Iterator[IO]:
    """Open a file for writing; it appears, complete and on disk, when the block ends well.

    Args:
        shared: other processes may write the same file meanwhile, each under a name of its own;
            what a killed one leaves is then for the caller to sweep.
    """
    encoding = None if "b" in mode else "utf-8"
    if isinstance(location, Path):
        writing = _renamed(location, mode, encoding, shared)
    else:
        writing = _uploaded(location, mode, encoding)
    with writing as file:
        yield file


@contextmanager
def _uploaded(url: Url, mode: str, encoding: str | None) -> Iterator[IO]:
    with tempfile.TemporaryDirectory(prefix="psla-wds-") as folder:
        path = Path(folder, "file" + url.suffix)
        with path.open(mode, encoding=encoding) as file:
            yield file
        upload(path, url)


@contextmanager
def _renamed(path: Path, mode: str, encoding: str | None, shared: bool) -> Iterator[IO]:
    mark = f".{secrets.token_hex(4)}" if shared else ""
    temporary = path.with_name(f"{path.name}{mark}.tmp")
    try:
        with temporary.open(mode, encoding=encoding) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    temporary.rename(path)
    sync_folder(path.parent)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A new folder to fill; it appears as `folder`, complete, when the block ends well."""
    temporary = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        publish_folder(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def publish_folder(temporary: Path, folder: Path) -> None:
    """Rename a folder of files, once they are on disk."""
    for path in temporary.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    sync_folder(temporary)
    temporary.rename(folder)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
