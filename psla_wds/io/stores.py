"""Files and folders wherever they are, by one set of methods, such as `at(tar).size()`."""

import mmap
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import groupby
from pathlib import Path
from threading import Lock
from typing import IO, TypeAlias

from psla_wds.errors import ConfigError, ShardError
from psla_wds.io.atomic_files import atomic_folder, atomic_open
from psla_wds.io.locations import Location
from psla_wds.io.regular import SMALL_BYTES, open_regular, read_small
from psla_wds.io.remote import ReadError, Remote, remote

MAPPED_BYTES = 2**25
"""Files up to this size (32 MiB: a column of 4 million clips) are read instead of mapped: whoever
shortens a mapped file in place kills all processes that have it."""


class Disk:
    """A file or folder on a disk or a mounted file system."""

    is_local = True
    """Whether reads are so fast that requests need not be under way at the same time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = Lock()
        self._descriptor: int | None = None

    def address(self) -> str:
        """The same text wherever a process works and by whichever link it comes."""
        return str(self.path.resolve())

    def entries(self) -> dict[str, int | None]:
        """Names in a folder, with the bytes of files and None for folders; none if it is not there.

        `ConfigError` if it cannot be listed.
        """
        try:
            with os.scandir(self.path) as found:
                return {
                    entry.name: entry.stat().st_size if entry.is_file() else None
                    for entry in found
                    if entry.is_file() or entry.is_dir()
                }
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError as error:
            raise _unreadable(self.path, error) from None

    def names_below(self) -> Iterator[str]:
        """Names of all files in a folder and its subfolders, from the folder on, in any order.

        One after another: a folder may hold millions. `ConfigError` if one cannot be listed.
        """
        return _names_below(self.path, "")

    def is_folder(self) -> bool:
        """Whether there is such a folder; any may be one on the web, where it cannot be known."""
        return self.path.is_dir()

    def size(self) -> int | None:
        """Bytes of a file, None if it is not there."""
        return self.path.stat().st_size if self.path.is_file() else None

    def sizes(self, names: Sequence[str]) -> list[int | None]:
        """Bytes of files of this folder, None for those that are not there."""
        return [at(self.path / name).size() for name in names]

    def modified_s(self) -> float:
        """When a file was written last, in seconds since 1970; whole ones in some stores."""
        return self.path.stat().st_mtime

    def read(self, *, max_bytes: int = SMALL_BYTES) -> bytes:
        """A small file; `FileNotFoundError` where there is none, `OSError` or `ValueError` if it is
        larger, or on a disk not a regular file."""
        return read_small(self.path, max_bytes=max_bytes)

    def view(self, *, max_bytes: int = SMALL_BYTES) -> bytes | mmap.mmap:
        """The bytes of a file; on a disk, many are mapped, whatever their number."""
        with open_regular(self.path) as file:
            if os.fstat(file.fileno()).st_size <= MAPPED_BYTES:
                return file.read()
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def read_range(self, offset: int, size: int) -> bytes:
        """So many bytes from `offset` on, or as many as there are on a disk."""
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Fill the buffer from this byte on, in any thread; returns how many bytes there were.

        The file stays open until `close`. Raises `ReadError` where another try may help, and
        `ShardError` where it cannot.
        """
        descriptor = self._descriptor
        if descriptor is None:
            descriptor = self._open()
        try:
            return os.preadv(descriptor, [buffer], offset)
        except OSError as error:
            raise ReadError(f"cannot be read: {error.strerror}") from None

    def _open(self) -> int:
        with self._lock:
            if self._descriptor is None:
                try:
                    descriptor = os.open(self.path, os.O_RDONLY)
                except OSError as error:
                    raise ShardError(
                        f"cannot open the shard: {error.strerror}",
                        where=self.path,
                        fix="mount or copy the shards again",
                    ) from None
                # Clips are read in random order: reading ahead in the file would be in vain.
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
                self._descriptor = descriptor
            return self._descriptor

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = None

    @contextmanager
    def local_copy(self) -> Iterator[Path]:
        """The file itself, or a copy of what is behind a URL for as long as the block lasts;
        `FileNotFoundError` where a URL has no file."""
        yield self.path

    def require_writable(self) -> None:
        """`ConfigError` if this is a folder in which nothing can be written."""
        if not self.path.is_dir():
            return
        try:
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except OSError as error:
            raise ConfigError(
                f"files cannot be written here: {error.strerror}",
                where=self.path,
                fix="give write access, or link the files (ln -s) into a folder that has it",
            ) from None

    def write(
        self, mode: str = "wb", *, shared: bool = False, first: bool = False
    ) -> AbstractContextManager[IO]:
        """A file open for writing, as `atomic_open` has it; in stores, the last writer wins."""
        return atomic_open(self.path, mode, shared=shared, first=first)

    @contextmanager
    def write_folder(self, *, last: str) -> Iterator[Path]:
        """A new folder of files to fill, in place of this one when the block ends well.

        An interruption at that moment leaves a folder without the file `last`, or none.
        """
        with atomic_folder(self.path) as temporary:
            yield temporary
            shutil.rmtree(self.path, ignore_errors=True)

    def remove(self) -> None:
        """Delete a file, if it is there."""
        self.path.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Delete what killed writers have left in a folder to which nobody writes now."""
        for path in self.path.glob("*.tmp"):
            if path.is_file():
                path.unlink(missing_ok=True)


Store: TypeAlias = Disk | Remote


def at(location: Location, timeout_s: float | None = None) -> Store:
    """The file or folder at a location, which need not be there.

    Args:
        timeout_s: longest wait for the answer to one request behind a URL. Default: that of
            `expect_reads_within`.
    """
    return Disk(location) if isinstance(location, Path) else remote(location, timeout_s)


def sizes_of(locations: Sequence[Location]) -> list[int | None]:
    """Bytes of each file, None where there is none; files of one folder are asked for together."""
    sizes: list[int | None] = []
    for _, group in groupby(locations, key=lambda location: str(location.parent)):
        members = list(group)
        sizes += at(members[0].parent).sizes([member.name for member in members])
    return sizes


def _names_below(folder: Path | str, prefix: str) -> Iterator[str]:
    """Without `os.walk`, which lists a whole folder before it goes on."""
    try:
        with os.scandir(folder) as found:
            for entry in found:
                if entry.is_file(follow_symlinks=False) or os.path.isfile(entry.path):
                    yield prefix + entry.name
                elif os.path.isdir(entry.path):
                    yield from _names_below(entry.path, f"{prefix}{entry.name}/")
    except OSError as error:
        raise _unreadable(folder, error) from None


def _unreadable(folder: Path | str, error: OSError) -> ConfigError:
    return ConfigError(
        f"the folder cannot be read: {error.strerror}",
        where=folder,
        fix="give read access, or move it away",
    )
