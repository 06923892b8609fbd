"""Whole files behind URLs, through fsspec: copied here, put there, deleted."""

from contextlib import suppress
from pathlib import Path

from psla_wds.errors import ConfigError, ShardError
from psla_wds.io.locations import Location, Url, is_http
from psla_wds.io.retries import ReadError
from psla_wds.io.url_ranges import (
    LISTING_TIMEOUT_S,
    REQUEST_TIMEOUT_S,
    answered,
    call,
    fetch_part,
    size_of,
)

PART_BYTES = 8 * 2**20
"""Copied here at a time, so that no file has to fit into memory."""
SLOWEST_BYTES_PER_S = 2**20
"""A network that is slower is given up."""


def download(url: Url, path: Path) -> None:
    """Copy a file here; `FileNotFoundError` where there is none."""
    size = answered(lambda: size_of(url), url)
    with path.open("wb") as file:
        for start in range(0, size, PART_BYTES):
            file.write(fetch_part(url, start, min(start + PART_BYTES, size)))


def upload(path: Path, url: Url) -> None:
    """Put a file there. Stores show it when it is whole, in place of what had its name."""
    size = path.stat().st_size
    timeout_s = REQUEST_TIMEOUT_S + size / SLOWEST_BYTES_PER_S

    def put() -> None:
        call(url, "put_file", timeout_s, str(path))
        if size_of(url) != size:
            raise ReadError("is not whole when it was written")

    try:
        answered(put, url)
    except FileNotFoundError:
        raise ShardError(
            "there is no such bucket", where=url, fix="make it first, or check the URL"
        ) from None


def upload_folder(source: Path, folder: Url, *, last: str) -> None:
    """Put the files of a folder there; without `last` they do not count, nor do older ones."""
    remove(folder / last)
    for path in sorted(source.iterdir(), key=lambda path: (path.name == last, path.name)):
        upload(path, folder / path.name)


def names_below(folder: Url) -> list[str]:
    """Names of all files in a folder and its subfolders, from the folder on."""
    require_listing(folder)
    folder.fs.invalidate_cache(folder.path)
    top = folder.path.rstrip("/") + "/"
    found = answered(lambda: call(folder, "find", LISTING_TIMEOUT_S), folder)
    return [path.removeprefix(top) for path in found if path.startswith(top) and path[-1] != "/"]


def remove(url: Url) -> None:
    """Delete a file, if it is there."""
    with suppress(FileNotFoundError):
        answered(lambda: call(url, "rm_file", REQUEST_TIMEOUT_S), url)


def require_listing(location: Url) -> None:
    """`ConfigError` for web addresses: their servers do not say what there is."""
    if is_http(location):
        raise ConfigError(
            "a web server does not list its files",
            where=location,
            fix="name each file in a manifest, or use s3:// or gs://",
        )


def require_writable(location: Location) -> None:
    """`ConfigError` for web addresses, which can be read alone."""
    if not isinstance(location, Path) and is_http(location):
        raise ConfigError(
            "web servers take no files", where=location, fix="use a folder, s3:// or gs://"
        )
