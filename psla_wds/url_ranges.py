"""Byte ranges and sizes of files behind URLs, through fsspec; every request is bounded in time."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from psla_wds.errors import ShardError
from psla_wds.locations import Url, is_http
from psla_wds.retries import ReadError, retry

T = TypeVar("T")

REQUEST_TIMEOUT_S = 60.0
"""Longest wait for one answer; then the request is made again."""
PROBES_AT_ONCE = 32
"""Requests for sizes: web servers have no listing that can be relied on."""
BUSY_STATUSES = (408, 425, 429)
"""Answers 4xx that mean: later. All others mean that the request is wrong."""
NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError")
"""Of botocore, which is not imported for their sake."""


def fetch(url: Url, start: int, stop: int, *, timeout_s: float = REQUEST_TIMEOUT_S) -> bytes:
    """Bytes `start` to `stop` of a file, or fewer where it ends.

    Raises `ReadError` where another try may help, and `ShardError` where it cannot.
    """
    options: dict[str, Any] = {"start": start, "end": stop}
    if is_http(url):
        options |= _PartialAnswer(stop - start).options()
    content = _call(url, "cat_file", timeout_s, **options)
    if len(content) > stop - start:
        raise _ignores_ranges(url)
    return content


def fetch_whole(url: Url, *, max_bytes: int) -> bytes:
    """A small file. Its size is checked before it is read; `ValueError` if it is too large."""
    size = _answered(lambda: _size_of(url), url)
    if size > max_bytes:
        raise ValueError(f"{url.name} has {size:,} bytes, where {max_bytes:,} are the most")

    def read() -> bytes:
        content = fetch(url, 0, size)
        if len(content) < size:
            raise ReadError("is cut short")
        return content

    return _answered(read, url)


def file_sizes(folder: Url, names: list[str]) -> list[int | None]:
    """Bytes of files of one folder; None for those that are not there."""
    if is_http(folder):
        with ThreadPoolExecutor(PROBES_AT_ONCE) as pool:
            return list(pool.map(lambda name: _size_if_there(folder / name), names))
    folder.fs.invalidate_cache(folder.path)
    try:
        listing = _answered(lambda: _call(folder, "ls", REQUEST_TIMEOUT_S, detail=True), folder)
    except FileNotFoundError:
        return [None] * len(names)
    sizes = {info["name"].rpartition("/")[2]: info["size"] for info in listing}
    return [sizes.get(name) for name in names]


def _size_if_there(url: Url) -> int | None:
    try:
        return _answered(lambda: _size_of(url), url)
    except FileNotFoundError:
        return None


def _size_of(url: Url) -> int:
    if not is_http(url):
        return _call(url, "info", REQUEST_TIMEOUT_S)["size"]
    # The answer to a request for the first byte shows that parts are served, too.
    answer = _PartialAnswer(1)
    _call(url, "cat_file", REQUEST_TIMEOUT_S, start=0, end=1, **answer.options())
    if answer.file_size is None:
        raise ShardError(
            "the server does not say how long the file is",
            where=url,
            fix="use one that says so in Content-Range, such as nginx",
        )
    return answer.file_size


def _answered(read: Callable[[], T], url: Url) -> T:
    """What a store answers at last, before training; it may fail for a moment."""
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
            response.raise_for_status()
            length = response.content_length
            if response.status != 206 or length is None or length > self._num_bytes:
                raise _ignores_ranges(response.url)
        except BaseException:
            response.close()  # or a whole shard would still arrive
            raise
        total = response.headers.get("Content-Range", "").rpartition("/")[2]
        self.file_size = int(total) if total.isdigit() else None


def _call(url: Url, name: str, timeout_s: float, **options: Any) -> Any:
    """Call a method of the URL's file system; only asynchronous ones can be bounded in time."""
    from fsspec.asyn import sync

    fs = url.fs
    method: Callable[..., Any] = getattr(fs, f"_{name}" if fs.async_impl else name)
    try:
        if fs.async_impl:
            return sync(fs.loop, method, url.path, timeout=timeout_s, **options)
        return method(url.path, **options)
    except Exception as error:  # file systems raise what their libraries do
        raise _explained(error, url, timeout_s) from None


def _explained(error: Exception, url: Url, timeout_s: float) -> Exception:
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
            fix="give credentials that may read it, as to the store's own tools",
        )
    if isinstance(status, int) and 400 <= status < 500 and status not in BUSY_STATUSES:
        return ShardError(f"the store refuses the request: {error}", where=url, fix="check the URL")
    if isinstance(error, TimeoutError):
        return ReadError(f"did not answer for {timeout_s:g} s")
    return ReadError(f"could not be read: {type(error).__name__}: {error}")


def _ignores_ranges(where: object) -> ShardError:
    return ShardError(
        "the server sends whole files where parts of them are asked for",
        where=where,
        fix="serve the shards by one that answers range requests, such as nginx or an object store",
    )
