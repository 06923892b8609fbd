"""Shards as files that are read by byte range: local ones, and those behind a URL."""

import os
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Protocol, runtime_checkable

from psla_wds.errors import ShardError
from psla_wds.io.locations import Location, Url
from psla_wds.io.retries import ReadError
from psla_wds.io.url_ranges import fetch, file_sizes


@runtime_checkable
class ShardFile(Protocol):
    """A shard that several threads may read from."""

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Fill the buffer from this byte on; returns how many bytes there were.

        Raises `ReadError` where another try may help, and `ShardError` where it cannot.
        """
        ...

    def close(self) -> None: ...


def open_shard(location: Location, *, request_timeout_s: float) -> ShardFile:
    """Nothing is read, nor looked for, before the first use."""
    if isinstance(location, Path):
        return LocalShard(location)
    return UrlShard(location, request_timeout_s)


class LocalShard:
    """A tar on a disk or a mounted file system."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = Lock()
        self._descriptor: int | None = None

    def read_into(self, offset: int, buffer: memoryview) -> int:
        descriptor = self._descriptor
        if descriptor is None:
            descriptor = self._open()
        try:
            return os.preadv(descriptor, [buffer], offset)
        except OSError as error:
            raise ReadError(f"cannot be read: {error.strerror}") from None

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = None

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


class UrlShard:
    """A tar in an object store or on a web server; every read is a request."""

    def __init__(self, url: Url, request_timeout_s: float) -> None:
        self._url, self._timeout_s = url, request_timeout_s

    def read_into(self, offset: int, buffer: memoryview) -> int:
        stop = offset + len(buffer)
        try:
            content = fetch(self._url, offset, stop, timeout_s=self._timeout_s)
        except FileNotFoundError:
            raise ShardError(
                "there is no such shard", where=self._url, fix="copy the shards there again"
            ) from None
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        """Connections belong to the file system, which the shards of a store share."""


def sizes_of(locations: Sequence[Location]) -> list[int | None]:
    """Bytes of each shard, None where there is none."""
    folders: dict[str, list[Location]] = {}
    for location in locations:
        folders.setdefault(str(location.parent), []).append(location)
    found: dict[Location, int | None] = {}
    for members in folders.values():
        found.update(zip(members, _sizes_in_one_folder(members), strict=True))
    return [found[location] for location in locations]


def _sizes_in_one_folder(members: Sequence[Location]) -> list[int | None]:
    urls = [member for member in members if not isinstance(member, Path)]
    if urls:
        return file_sizes(urls[0].parent, [url.name for url in urls])
    paths = [member for member in members if isinstance(member, Path)]
    return [path.stat().st_size if path.exists() else None for path in paths]
