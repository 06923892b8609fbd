"""Byte ranges, sizes and listings of files behind URLs, by fsspec; requests are bounded in time."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, TypeVar

from psla_wds.errors import ShardError
from psla_wds.io.locations import Url, is_http
from psla_wds.io.retries import ReadError, retry

T = TypeVar("T")

REQUEST_TIMEOUT_S = 60.0
"""Longest wait for one answer; then the request is made again."""
LISTING_TIMEOUT_S = 3600.0
"""Of a folder: stores tell 1,000 names an answer."""
PROBES_AT_ONCE = 32
"""Requests for sizes: web servers have no listing that can be relied on."""
BUSY_STATUSES = (408, 425, 429)
"""Answers 4xx that mean: later. All others mean that the request is wrong."""
NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError")
"""Of botocore, which is not imported for their sake."""
MODIFIED = ("LastModified", "updated", "mtime", "created")
"""What s3fs, gcsfs and others call the time when a file was written."""
WRITING = ("put_file", "rm_file")
"""Methods of file systems that change what is there."""


def fetch(url: Url, start: int, stop: int, *, timeout_s: float = REQUEST_TIMEOUT_S) -> bytes:
    """Bytes `start` to `stop` of a file, or fewer where it ends.

    Raises `ReadError` where another try may help, and `ShardError` where it cannot.
    """
    options: dict[str, Any] = {"start": start, "end": stop}
    if is_http(url):
        options |= _PartialAnswer(stop - start).options()
    content = call(url, "cat_file", timeout_s, **options)
    if len(content) > stop - start:
        raise _ignores_ranges(url)
    return content


def fetch_part(url: Url, start: int, stop: int) -> bytes:
    """Bytes `start` to `stop` of a file, all of them, tried again until they arrive."""

    def read() -> bytes:
        content = fetch(url, start, stop)
        if len(content) < stop - start:
            raise ReadError("is cut short")
        return content

    return answered(read, url) if start < stop else b""


def fetch_whole(url: Url, *, max_bytes: int) -> bytes:
    """A small file. Its size is checked before it is read; `ValueError` if it is too large."""
    size = answered(lambda: size_of(url), url)
    if size > max_bytes:
        raise ValueError(f"{url.name} has {size:,} bytes, where {max_bytes:,} are the most")
    return fetch_part(url, 0, size)


def file_sizes(folder: Url, names: list[str]) -> list[int | None]:
    """Bytes of files of one folder; None for those that are not there."""
    if is_http(folder):
        with ThreadPoolExecutor(PROBES_AT_ONCE) as pool:
            return list(pool.map(lambda name: size_if_there(folder / name), names))
    sizes = entries(folder)
    return [sizes.get(name) for name in names]


def is_folder(url: Url) -> bool:
    """Whether there is a folder of this name in a store."""
    try:
        return answered(lambda: _info(url), url)["type"] == "directory"
    except FileNotFoundError:
        return False


def modified_s(url: Url) -> float:
    """When a file in a store was written last, in seconds since 1970."""
    info = answered(lambda: _info(url), url)
    when = next(info[key] for key in MODIFIED if key in info)
    return (datetime.fromisoformat(when) if isinstance(when, str) else when).timestamp()


def entries(folder: Url) -> dict[str, int | None]:
    """Names in a folder, with the bytes of files and None for folders; none if it is not there."""
    folder.fs.invalidate_cache(folder.path)  # others may have written there
    try:
        listing = answered(lambda: call(folder, "ls", LISTING_TIMEOUT_S, detail=True), folder)
    except FileNotFoundError:
        return {}
    found = {info["name"].rstrip("/"): info for info in listing}
    found.pop(folder.path.rstrip("/"), None)  # an object that stands for the folder itself
    return {
        path.rpartition("/")[2]: None if info["type"] == "directory" else info["size"]
        for path, info in found.items()
    }


def size_if_there(url: Url) -> int | None:
    """Bytes of a file, None if it is not there."""
    try:
        return answered(lambda: size_of(url), url)
    except FileNotFoundError:
        return None


def size_of(url: Url) -> int:
    """Bytes of a file; raises as `fetch` does, and `FileNotFoundError`."""
    if not is_http(url):
        info = _info(url)
        if info["type"] == "directory":
            raise FileNotFoundError(str(url))
        return info["size"]
    # The answer to a request for the first byte shows that parts are served, too.
    answer = _PartialAnswer(1)
    try:
        call(url, "cat_file", REQUEST_TIMEOUT_S, start=0, end=1, **answer.options())
    except ShardError:
        if answer.file_size != 0:  # an empty file has no first byte to be asked for
            raise
    if answer.file_size is None:
        raise ShardError(
            "the server does not say how long the file is",
            where=url,
            fix="use one that says so in Content-Range, such as nginx",
        )
    return answer.file_size


def _info(url: Url) -> dict[str, Any]:
    """What a store says of a file or folder."""
    url.fs.invalidate_cache(url.parent.path)  # others may have written there
    return call(url, "info", REQUEST_TIMEOUT_S)


def answered(read: Callable[[], T], url: Url) -> T:
    """What a store answers at last; it may fail for a moment."""
    try:
        return retry(read, lambda: url)
    except ReadError as failure:
        raise ShardError(
            f"this {failure}, also when asked again",
            where=url,
            fix="check that the store can be reached from here",
        ) from None


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


def call(url: Url, name: str, timeout_s: float, *before: str, **options: Any) -> Any:
    """Call a method of the URL's file system; only asynchronous ones can be bounded in time.

    Args:
        before: arguments that stand before the URL's path.
    """
    from fsspec.asyn import sync

    fs = url.fs
    method: Callable[..., Any] = getattr(fs, f"_{name}" if fs.async_impl else name)
    try:
        if fs.async_impl:
            return sync(fs.loop, method, *before, url.path, timeout=timeout_s, **options)
        return method(*before, url.path, **options)
    except Exception as error:  # file systems raise what their libraries do
        doing = "written" if name in WRITING else "read"
        raise _explained(error, url, timeout_s, doing) from None


def _explained(error: Exception, url: Url, timeout_s: float, doing: str) -> Exception:
    status = getattr(error, "status", None)
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
