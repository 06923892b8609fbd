"""Files and folders wherever they lie, on a disk or behind a URL: listed, read, copied here."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from psla_wds.errors import ConfigError
from psla_wds.io import url_files, url_ranges
from psla_wds.io.locations import Location, is_http
from psla_wds.io.url_ranges import fetch_part

MAX_FILE_BYTES = 2**30
"""Of a file behind a URL that is read into memory, such as a sidecar."""


def entries(folder: Location) -> dict[str, int | None]:
    """Names in a folder, with the bytes of files and None for folders; none if it is not there."""
    if isinstance(folder, Path):
        return _entries_on_disk(folder)
    url_files.require_listing(folder)
    return url_ranges.entries(folder)


def _entries_on_disk(folder: Path) -> dict[str, int | None]:
    try:
        with os.scandir(folder) as found:
            return {
                entry.name: entry.stat().st_size if entry.is_file() else None
                for entry in found
                if entry.is_file() or entry.is_dir()
            }
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise ConfigError(
            f"the folder cannot be read: {error.strerror}", where=folder, fix="give read access"
        ) from None


def file_size(location: Location) -> int | None:
    """Bytes of a file, None if it is not there."""
    if isinstance(location, Path):
        return location.stat().st_size if location.is_file() else None
    return url_ranges.size_if_there(location)


def modified_s(location: Location) -> float:
    """When a file was written last, in seconds since 1970; whole ones on some stores."""
    if isinstance(location, Path):
        return location.stat().st_mtime
    return url_ranges.modified_s(location)


def is_folder(location: Location) -> bool:
    """Whether there is such a folder; on the web nothing tells, so any may be one."""
    if isinstance(location, Path):
        return location.is_dir()
    return is_http(location) or url_ranges.is_folder(location)


def read_file(location: Location) -> bytes:
    """A small file; `FileNotFoundError` where there is none."""
    if isinstance(location, Path):
        return location.read_bytes()
    return url_ranges.fetch_whole(location, max_bytes=MAX_FILE_BYTES)


@contextmanager
def local_copy(location: Location) -> Iterator[Path]:
    """The file itself, or a copy for as long as the block lasts; `FileNotFoundError` where a URL
    has no file."""
    if isinstance(location, Path):
        yield location
        return
    with tempfile.TemporaryDirectory(prefix="psla-wds-") as folder:
        copy = Path(folder, "copy" + location.suffix)
        url_files.download(location, copy)
        yield copy


def read_range(location: Location, offset: int, size: int) -> bytes:
    """So many bytes from `offset` on, or as many as there are on a disk."""
    if not isinstance(location, Path):
        return fetch_part(location, offset, offset + size)
    with location.open("rb") as file:
        file.seek(offset)
        return file.read(size)


def remove(location: Location) -> None:
    """Delete a file, if it is there."""
    if isinstance(location, Path):
        location.unlink(missing_ok=True)
    else:
        url_files.remove(location)


def remove_folder(folder: Location) -> None:
    """Delete a folder of files, if it is there."""
    if isinstance(folder, Path):
        shutil.rmtree(folder, ignore_errors=True)
    else:
        for name in entries(folder):
            url_files.remove(folder / name)
