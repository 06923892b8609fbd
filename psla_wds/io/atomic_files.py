"""Files and folders on disks that are whole or absent: written under a temporary name, synced, then
renamed."""

import errno
import hashlib
import logging
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import IO

from psla_wds.errors import PslaError
from psla_wds.io.regular import open_regular

logger = logging.getLogger("files")

GO_ON = "run the same command again: it goes on"


@contextmanager
def disk_errors(where: object, what: str, *, then: str = GO_ON) -> Iterator[None]:
    """Report an `OSError` in the block as a full disk or missing access, which users can mend."""
    try:
        yield
    except OSError as error:
        raise PslaError(
            f"cannot {what}: {error.strerror or error}",
            where=error.filename or where,
            fix=f"make room or give write access, and {then}",
        ) from None


@contextmanager
def atomic_open(
    path: Path, mode: str = "wb", *, shared: bool = False, first: bool = False
) -> Iterator[IO]:
    """Open a file for writing; it appears, complete and on disk, when the block ends well. The
    folders that it lies in are made.

    Args:
        shared: other processes may write the same file meanwhile, each under a name of its own;
            `Disk.sweep` deletes what a killed one leaves.
        first: the first of several writers wins; the file of the others is not kept.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    mark = f".{secrets.token_hex(4)}" if shared else ""
    temporary = path.with_name(f"{path.name}{mark}.tmp")
    try:
        with temporary.open(mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if not (first and _linked(temporary, path)):
            temporary.rename(path)
    except BaseException as error:
        if isinstance(error, OSError) and error.filename in (None, str(temporary)):
            error.filename = str(path)
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def _linked(temporary: Path, path: Path) -> bool:
    """Give a file its name unless there is one of this name; False where disks have no links."""
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        pass
    except OSError:
        return False
    temporary.unlink()
    return True


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A new folder to fill; it appears as `folder`, complete, when the block ends well.

    Several processes may write it, each under a name of its own: the first that ends wins, and the
    others get a `PslaError`. What a killed one left is deleted.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    _sweep_folders(folder)
    temporary = folder.with_name(f"{folder.name}.{secrets.token_hex(4)}.tmp")
    temporary.mkdir()
    lock = lock_folder(temporary)
    try:
        yield temporary
        publish_folder(temporary, folder)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise PslaError(
                "another process has written this folder meanwhile",
                where=folder,
                fix="look at it; choose another --output for a second one",
            ) from None
        raise
    finally:
        if lock is not None:
            os.close(lock)


def _sweep_folders(folder: Path) -> None:
    """Delete temporary folders for `folder` that no living process fills."""
    for left in folder.parent.glob(f"{escape(folder.name)}.*.tmp"):
        with suppress(OSError):
            lock = lock_folder(left)
            if lock is not None:
                os.close(lock)
                shutil.rmtree(left, ignore_errors=True)


def publish_folder(temporary: Path, folder: Path) -> None:
    """Rename a folder of files, once they are on disk."""
    for path in temporary.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    sync_folder(temporary)
    temporary.rename(folder)
    sync_folder(folder.parent)


def lock_folder(folder: Path) -> int | None:
    """A descriptor that keeps other processes out of a folder for as long as it is open; it ends
    with the process, however that ends. None if another process has it."""
    import fcntl  # which Windows lacks; nothing that only reads gets here

    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    except OSError as error:  # some network file systems have no locks
        logger.warning("%s cannot be locked: %s", folder, error.strerror)
    return lock


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
