"""Parquet files with the bytes of audio files in a column: one row of them, in any order.

Parquet gives whole groups of rows, of 100 MB and more, and clips are packed in random order. So the
first clip of a group has the whole group looked through, once for all processes that share a
TMPDIR (else /var/tmp): bytes that lie in a local file as they are, as `datasets` 5 writes audio,
are later read from there; all others are unpacked into that folder.
"""

import io
import mmap
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from psla_wds.errors import ClipRefusedError, ConfigError, ManifestError, optional_package
from psla_wds.io.atomic_files import GO_ON, atomic_open, disk_errors
from psla_wds.io.locations import Location, parse_location
from psla_wds.io.regular import open_regular
from psla_wds.io.remote import PART_BYTES
from psla_wds.io.stores import at
from psla_wds.labels.manifest import Cell

ROWS_AT_ONCE = 8
"""Rows of audio in memory, where the pages of the file are not larger."""
PREFIX_BYTES = 64
"""Bytes of a value that are searched for before the whole is compared."""
NULL, COPIED = -1, -2
"""Offsets of values that are null, or not in the file as they are."""


@contextmanager
def open_parquet(location: Location, **options: Any) -> Iterator[Any]:
    """Open a file as `pyarrow.parquet.ParquetFile`; `ManifestError` for one that is missing or
    damaged, also where the damage shows within the block."""
    parquet = optional_package(
        "pyarrow.parquet", "Parquet files", where=location, install="pyarrow"
    )
    import pyarrow

    try:
        source = str(location) if isinstance(location, Path) else _File(location)
        if isinstance(location, Path):
            open_regular(location).close()
        with parquet.ParquetFile(source, page_checksum_verification=True, **options) as file:
            yield file
    except (FileNotFoundError, IsADirectoryError):
        raise ManifestError("there is no such file", where=location, fix="check the path") from None
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ManifestError(
            f"the Parquet file cannot be read: {str(error).splitlines()[0]:.200}",
            where=location,
            fix="copy or write it again",
        ) from None


class _File(io.RawIOBase):
    """A file behind a URL, in requests that are bounded and made again as those for shards are."""

    def __init__(self, location: Location) -> None:
        size = at(location).size()
        if size is None:
            raise FileNotFoundError(str(location))
        self._store, self._size, self._position = at(location), size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + (0, self._position, self._size)[whence]
        return self._position

    def read(self, size: int = -1) -> bytes:
        stop = self._size if size < 0 else min(self._position + size, self._size)
        parts = range(self._position, stop, PART_BYTES)
        self._position = max(stop, self._position)
        return b"".join(
            self._store.read_range(start, min(PART_BYTES, stop - start)) for start in parts
        )


def read_cell(location: Location, cell: Cell) -> bytes | None:
    """Bytes of the audio in a cell, None if it is null; `ClipRefusedError` if its group of rows is
    damaged."""
    folder = _folder_of(location, cell.column)
    places, audio = folder / f"{cell.group}.npy", folder / f"{cell.group}.audio"

    def content() -> bytes | None:
        is_copied, offset, size = np.load(places, mmap_mode="r")[cell.row].tolist()
        if offset == NULL:
            return None
        return at(audio if is_copied else location).read_range(offset, size)

    try:
        return content()
    except FileNotFoundError:  # the first clip of its group, or another build has cleaned up
        _unpack(location, cell, places, audio)
        return content()


def remove_unpacked(location: Location) -> None:
    """Delete what was unpacked of a file, but not what another build is unpacking now."""
    scratch = _scratch()
    for folder in scratch.glob(f"{_name_of(location)}-*"):
        for pattern in ("*.npy", "*.audio"):
            for path in folder.glob(pattern):
                path.unlink(missing_ok=True)
        with suppress(OSError):
            folder.rmdir()
    with suppress(OSError):
        scratch.rmdir()


def _folder_of(location: Location, column: int) -> Path:
    """Folder for what is found of a column, the same for all processes with one TMPDIR."""
    scratch = _scratch()
    folder = scratch / f"{_name_of(location)}-{column}"
    with disk_errors(scratch, "make the folder", then="set TMPDIR"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if scratch.stat().st_uid != os.getuid():
        raise ConfigError("another user made this folder", where=scratch, fix="set TMPDIR")
    return folder


def _scratch() -> Path:
    return Path(os.environ.get("TMPDIR", "/var/tmp"), f"psla-wds-parquet-{os.getuid()}")


def _name_of(location: Location) -> str:
    """A name that changes with the file."""
    if isinstance(location, Path):
        status = location.stat()
        text = f"{location.resolve()} {status.st_size} {status.st_mtime_ns}"
    else:
        text = f"{location} {_remote_size(str(location))}"
    return sha256(text.encode(errors="surrogateescape")).hexdigest()[:32]


@cache
def _remote_size(url: str) -> int | None:
    return at(parse_location(url)).size()


def _unpack(location: Location, cell: Cell, places: Path, audio: Path) -> None:
    """Write where the audio of each row of a group is: (is it copied, offset, size)."""
    then = f"set TMPDIR to a folder that has room; {GO_ON}"
    with disk_errors(places.parent, "unpack audio", then=then), ExitStack() as stack:
        verbatim = _Verbatim(location, cell, stack)
        with atomic_open(audio, shared=True) as file:
            found = []
            for content in _contents(location, cell):
                if content is None:
                    found.append((False, NULL, 0))
                    continue
                offset = verbatim.find(content)
                is_copied = offset == COPIED
                if is_copied:
                    offset = file.tell()
                    file.write(content)
                found.append((is_copied, offset, len(content)))
        with atomic_open(places, shared=True) as file:
            np.save(file, np.array(found, np.int64))


def _contents(location: Location, cell: Cell) -> Iterator[bytes | None]:
    """Audio of each row of a group, None where it is null; `ClipRefusedError` if damaged."""
    import pyarrow.compute

    try:
        # Without these settings, pyarrow keeps all of a group in memory.
        with open_parquet(location, pre_buffer=False, buffer_size=PART_BYTES) as file:
            names = [file.schema.column(cell.column).path]
            for batch in file.iter_batches(ROWS_AT_ONCE, [cell.group], names, use_threads=False):
                values = batch.column(0)
                if pyarrow.types.is_struct(values.type):
                    values = pyarrow.compute.struct_field(values, [0])
                for value in values:
                    yield _bytes_of(value)
    except ManifestError as error:
        raise ClipRefusedError("unreadable", str(error).splitlines()[0]) from None


def _bytes_of(value: Any) -> bytes | None:
    """Bytes of a scalar, which may be a list of them."""
    if value.is_valid and hasattr(value, "values"):
        return value.values.to_numpy(zero_copy_only=False).tobytes()
    return value.as_py()


class _Verbatim:
    """The bytes of a column in a group of rows, where values may lie as they are."""

    def __init__(self, location: Location, cell: Cell, stack: ExitStack) -> None:
        with open_parquet(location) as file:
            chunk = file.metadata.row_group(cell.group).column(cell.column)
        self._position = chunk.dictionary_page_offset or chunk.data_page_offset
        self._end = self._position + chunk.total_compressed_size
        self._bytes = None
        if isinstance(location, Path) and chunk.compression == "UNCOMPRESSED":
            with open_regular(location) as raw:
                mapped = mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ)
            self._bytes = stack.enter_context(mapped)

    def find(self, content: bytes) -> int:
        """Place in the file of the next value, `COPIED` if it is elsewhere or encoded; then those
        after it are not searched for."""
        begin = len(content).to_bytes(4, "little") + content[:PREFIX_BYTES]
        while self._bytes is not None:
            place = self._bytes.find(begin, self._position, self._end) + 4
            if place < 4:
                self._bytes = None
            elif self._bytes[place : place + len(content)] == content:
                self._position = place + len(content)
                return place
            else:
                self._position = place
        return COPIED
