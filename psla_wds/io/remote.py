"""Files and folders behind URLs, by fsspec: in object stores and on the web.

Requests are bounded in time, and made again where that may help.
"""

import logging
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, Any, TypeVar

from psla_wds.errors import ConfigError, ShardError
from psla_wds.io.locations import Url, is_http
from psla_wds.io.regular import SMALL_BYTES

logger = logging.getLogger("reader")
T = TypeVar("T")

REQUEST_TIMEOUT_S = 60.0
"""Longest wait for one answer; then the request is made again."""
LISTING_TIMEOUT_S = 3600.0
"""Longest wait for the listing of a folder: stores send 1,000 names an answer."""
REQUESTS_AT_ONCE = 32
"""Requests for small things, such as sizes, that are made at the same time."""
PART_BYTES = 8 * 2**20
"""Bytes that are copied here at a time, so that a file need not fit into memory."""
SLOWEST_BYTES_PER_S = 2**20
"""Speed of a network below which an upload is given up."""
BUSY_STATUSES = (408, 425, 429)
"""Answers 4xx that mean: later. All others mean that the request is wrong."""
NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError")
"""Errors of botocore, which is not imported for their sake."""
MODIFIED = ("LastModified", "updated", "mtime", "created")
"""What s3fs, gcsfs and others call the time when a file was written."""

RETRY_PAUSES_S = (0.1, 0.5, 2.0, 8.0)
"""Pauses before a failed read is tried again: networks and file servers recover."""
JITTER = random.Random()
"""A generator of its own: what a training script does with `random` stays as it is."""


class ReadError(Exception):
    """A read failed, and may succeed when tried again; the message is one line."""


def retry(
    read: Callable[[], T],
    where: Callable[[], object],
    *,
    pause: Callable[[float], object] = time.sleep,
) -> T:
    """What `read` returns, tried again with growing pauses while it raises `ReadError`."""
    try:
        return read()
    except ReadError as failure:
        return try_again(read, where, failure, pause=pause)


def try_again(
    read: Callable[[], T],
    where: Callable[[], object],
    failure: ReadError,
    *,
    pause: Callable[[float], object] = time.sleep,
) -> T:
    """The rest of `retry`, for who has read once, with this failure."""
    for pause_s in RETRY_PAUSES_S:
        logger.warning("%s: %s; trying again", where(), failure)
        # When a store fails, many readers fail at once: they must not all come back at once.
        pause(pause_s * JITTER.uniform(0.5, 1.5))
        try:
            return read()
        except ReadError as again:
            failure = again
    raise failure


def request_timeout_s(read_s: float) -> float:
    """Longest wait for one answer, so that all tries of a read, and the pauses between them, fit
    into its time."""
    return min(REQUEST_TIMEOUT_S, read_s / 10)


_default_timeout_s = REQUEST_TIMEOUT_S


def expect_reads_within(read_s: float) -> None:
    """Let this process ask for sizes and indexes, too, by the clock of its reader."""
    global _default_timeout_s
    _default_timeout_s = request_timeout_s(read_s)


def remote(url: Url, timeout_s: float | None = None) -> "Remote":
    """The file or folder behind a URL, whose requests may take so long."""
    timeout_s = timeout_s or _default_timeout_s
    return Web(url, timeout_s) if is_http(url) else Remote(url, timeout_s)


class Remote:
    """A file or folder in an object store; for the methods that `Disk` has too, see there.

    Raises `ShardError` where a store refuses, or does not answer after several tries.
    """

    is_local = False

    def __init__(self, url: Url, timeout_s: float) -> None:
        self.url, self._timeout_s = url, timeout_s

    def address(self) -> str:
        return str(self.url)

    def entries(self) -> dict[str, int | None]:
        listing: list[dict[str, Any]] = self._if_there(lambda: self._list("ls", detail=True), [])
        found = {info["name"].rstrip("/"): info for info in listing}
        found.pop(self.url.path.rstrip("/"), None)  # an object that stands for the folder itself
        return {
            path.rpartition("/")[2]: None if info["type"] == "directory" else info["size"]
            for path, info in found.items()
        }

    def names_below(self) -> Iterator[str]:
        top = self.url.path.rstrip("/") + "/"
        for path in self._answered(lambda: self._list("find")):
            if path.startswith(top) and path[-1] != "/":
                yield path.removeprefix(top)

    def is_folder(self) -> bool:
        return self._if_there(lambda: self._info()["type"] == "directory", False)

    def size(self) -> int | None:
        return self._if_there(self._size, None)

    def sizes(self, names: Sequence[str]) -> list[int | None]:
        found = self.entries()
        return [found.get(name) for name in names]

    def modified_s(self) -> float:
        info = self._answered(self._info)
        when = next(info[key] for key in MODIFIED if key in info)
        return (datetime.fromisoformat(when) if isinstance(when, str) else when).timestamp()

    def read(self, *, max_bytes: int = SMALL_BYTES) -> bytes:
        size = self._answered(self._size)
        if size > max_bytes:
            raise ValueError(f"{self.url.name} has {size:,} bytes; at most {max_bytes:,} are read")
        return self.read_range(0, size)

    view = read

    def read_range(self, offset: int, size: int) -> bytes:
        def read() -> bytes:
            content = self._fetch(offset, offset + size)
            if len(content) < size:
                raise ReadError("is cut short")
            return content

        return self._answered(read) if size else b""

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """One request, which is not made again here."""
        try:
            content = self._fetch(offset, offset + len(buffer))
        except FileNotFoundError:
            raise ShardError(
                "there is no such shard", where=self.url, fix="copy the shards there again"
            ) from None
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        """Nothing: connections belong to the file system, which all files of a store share."""

    @contextmanager
    def local_copy(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="psla-wds-") as folder:
            copy = Path(folder, "copy" + self.url.suffix)
            size = self._answered(self._size)
            with copy.open("wb") as file:
                for start in range(0, size, PART_BYTES):
                    file.write(self.read_range(start, min(PART_BYTES, size - start)))
            yield copy

    def require_writable(self) -> None:
        """Nothing: whether a store can be written to shows when it is."""

    @contextmanager
    def write(self, mode: str = "wb", *, shared: bool = False, first: bool = False) -> Iterator[IO]:
        with tempfile.TemporaryDirectory(prefix="psla-wds-") as folder:
            path = Path(folder, "file" + self.url.suffix)
            with path.open(mode, encoding=None if "b" in mode else "utf-8") as file:
                yield file
            self.put(path)

    @contextmanager
    def write_folder(self, *, last: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="psla-wds-") as folder:
            yield Path(folder)
            remote(self.url / last).remove()
            for path in sorted(Path(folder).iterdir(), key=lambda p: (p.name == last, p.name)):
                remote(self.url / path.name).put(path)

    def put(self, path: Path) -> None:
        """Upload a file. Stores show it when it is whole, in place of what had its name."""
        size = path.stat().st_size

        def put() -> None:
            self._call("put_file", REQUEST_TIMEOUT_S + size / SLOWEST_BYTES_PER_S, str(path))
            if self._size() != size:
                raise ReadError("is not whole when it was written")

        try:
            self._answered(put)
        except FileNotFoundError:
            raise ShardError(
                "there is no such bucket", where=self.url, fix="make it first, or check the URL"
            ) from None

    def remove(self) -> None:
        self._if_there(lambda: self._call("rm_file", REQUEST_TIMEOUT_S), None)

    def sweep(self) -> None:
        """Nothing: stores show no file before it is whole."""

    def _fetch(self, start: int, stop: int, **options: Any) -> bytes:
        """Bytes `start` to `stop` of the file, or fewer where it ends; asked for once.

        Raises `ReadError` where another try may help, and `ShardError` where it cannot.
        """
        content = self._call("cat_file", self._timeout_s, start=start, end=stop, **options)
        if len(content) > stop - start:
            raise _ignores_ranges(self.url)
        return content

    def _size(self) -> int:
        info = self._info()
        if info["type"] == "directory":
            raise FileNotFoundError(str(self.url))
        return info["size"]

    def _info(self) -> dict[str, Any]:
        self._forget(self.url.parent.path)
        return self._call("info", self._timeout_s)

    def _list(self, method: str, **options: Any) -> Any:
        self._forget(self.url.path)
        return self._call(method, LISTING_TIMEOUT_S, **options)

    def _forget(self, path: str) -> None:
        """Let the file system ask again what is there, since others may have written."""
        try:
            self.url.fs.invalidate_cache(path)  # Hugging Face's asks at once
        except Exception as error:
            raise _explained(error, self.url, self._timeout_s, "read") from None

    def _if_there(self, request: Callable[[], T], otherwise: T) -> T:
        try:
            return self._answered(request)
        except FileNotFoundError:
            return otherwise

    def _answered(self, request: Callable[[], T]) -> T:
        """What a store answers at last; it may fail for a moment."""
        try:
            return retry(request, lambda: self.url)
        except ReadError as failure:
            raise ShardError(
                f"this {failure}, also when asked again",
                where=self.url,
                fix="check that the store can be reached from here",
            ) from None

    def _call(self, name: str, timeout_s: float, *before: str, **options: Any) -> Any:
        """Call a method of the file system; only asynchronous ones can be bounded in time.

        Args:
            before: arguments that come before the URL's path.
        """
        from fsspec.asyn import sync

        fs, path = self.url.fs, self.url.path
        method: Callable[..., Any] = getattr(fs, f"_{name}" if fs.async_impl else name)
        try:
            if fs.async_impl:
                return sync(fs.loop, method, *before, path, timeout=timeout_s, **options)
            return method(*before, path, **options)
        except Exception as error:  # file systems raise what their libraries do
            doing = "written" if name in ("put_file", "rm_file") else "read"
            raise _explained(error, self.url, timeout_s, doing) from None


class Web(Remote):
    """A file or folder on a web server, which can only be read, and not be listed."""

    def entries(self) -> dict[str, int | None]:
        raise ConfigError(
            "a web server does not list its files",
            where=self.url,
            fix="name each file in a manifest, or use s3:// or gs://",
        )

    def names_below(self) -> Iterator[str]:
        return iter(self.entries())

    def is_folder(self) -> bool:
        return True  # for all that can be known

    def sizes(self, names: Sequence[str]) -> list[int | None]:
        with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
            return list(pool.map(lambda name: remote(self.url / name).size(), names))

    def require_writable(self) -> None:
        raise ConfigError(
            "web servers take no files", where=self.url, fix="use a folder, s3:// or gs://"
        )

    def _fetch(self, start: int, stop: int, **options: Any) -> bytes:
        return super()._fetch(start, stop, **_PartialAnswer(stop - start).options(), **options)

    def _size(self) -> int:
        # The answer to a request for the first byte shows that parts are served, too.
        answer = _PartialAnswer(1)
        try:
            self._call("cat_file", self._timeout_s, start=0, end=1, **answer.options())
        except ShardError:
            if answer.file_size != 0:  # an empty file has no first byte to be asked for
                raise
        if answer.file_size is None:
            raise ShardError(
                "the server does not say how long the file is",
                where=self.url,
                fix="use one that says so in Content-Range, such as nginx",
            )
        return answer.file_size


class _PartialAnswer:
    """Refuses an answer over HTTP before its body is read, if it is not the part asked for."""

    def __init__(self, num_bytes: int) -> None:
        self._num_bytes = num_bytes
        self.file_size: int | None = None

    def options(self) -> dict[str, Any]:
        """For aiohttp, by way of fsspec; a compressed answer would have other byte numbers."""
        return {"raise_for_status": self._check, "headers": {"Accept-Encoding": "identity"}}

    async def _check(self, response: Any) -> None:
        try:
            length = response.content_length
            total = response.headers.get("Content-Range", "").rpartition("/")[2]
            if response.status == 416 and total == "0":
                self.file_size = 0
            response.raise_for_status()
            if response.status != 206 or length is None or length > self._num_bytes:
                raise _ignores_ranges(response.url)
        except BaseException:
            response.close()  # or a whole shard would still arrive
            raise
        self.file_size = int(total) if total.isdigit() else None


def _explained(error: Exception, url: Url, timeout_s: float, doing: str) -> Exception:
    """The error to raise for one of a file system: ours, `FileNotFoundError`, or `ReadError`."""
    status = getattr(error, "status", None) or getattr(
        getattr(error, "response", None), "status_code", None
    )
    if isinstance(error, ShardError):
        return error
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        return FileNotFoundError(str(url))
    no_credentials = type(error).__name__ in NO_CREDENTIALS
    if isinstance(error, PermissionError) or status in (401, 403, 407) or no_credentials:
        return ShardError(
            f"the store refuses access: {error}",
            where=url,
            fix=f"give credentials by which it may be {doing}, as to the store's own tools",
        )
    if isinstance(status, int) and 400 <= status < 500 and status not in BUSY_STATUSES:
        return ShardError(f"the store refuses the request: {error}", where=url, fix="check the URL")
    if isinstance(error, TimeoutError):
        return ReadError(f"did not answer for {timeout_s:g} s")
    return ReadError(f"could not be {doing}: {type(error).__name__}: {error}")


def _ignores_ranges(where: object) -> ShardError:
    return ShardError(
        "the server sends whole files where parts of them are asked for",
        where=where,
        fix="serve the shards by one that answers range requests, such as nginx or an object store",
    )
