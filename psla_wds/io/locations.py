"""Where shards are: a local path, or a URL that fsspec knows."""

from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable
from urllib.parse import quote

from psla_wds.errors import ConfigError

PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "hf": "huggingface_hub"}
"""Packages that a scheme of URLs needs."""
USE_STORES = "use s3://, gs://, hf:// or https://"
STORES = (
    *("s3", "s3a", "gs", "gcs", "hf", "az", "adl", "abfs", "abfss", "oss", "oci", "http", "https"),
    *("hdfs", "webhdfs", "sftp", "ssh", "smb", "memory", "file", "local"),
)
"""Schemes of URLs with files that can be asked for by name and range. fsspec has others, for
archives, caches and what else can be seen as a folder."""


@runtime_checkable
class Url(Protocol):
    """What is used of a `upath.UPath`; that and fsspec take 70 ms to import."""

    @property
    def name(self) -> str: ...
    @property
    def stem(self) -> str: ...
    @property
    def suffix(self) -> str: ...
    @property
    def parent(self) -> "Url": ...
    @property
    def path(self) -> str: ...
    @property
    def protocol(self) -> str: ...
    @property
    def fs(self) -> Any: ...
    def is_absolute(self) -> bool: ...
    def __truediv__(self, name: str) -> "Url": ...
    def with_name(self, name: str) -> "Url": ...


Location: TypeAlias = Path | Url


def parse_location(text: str) -> Location:
    """A local path, or a URL such as s3://bucket/shards; raises `ConfigError`."""
    if not is_url(text):
        return Path(text)
    if text.split("://")[0].lower() not in STORES:
        raise ConfigError("this kind of URL is not read", where=text, fix=USE_STORES)
    from upath import UPath

    try:
        location = UPath(text.rstrip("/"))
        if location.protocol in ("", "file", "local"):
            return Path(location.path)
        _ = location.fs  # what its file system needs may be missing
    except ImportError as error:
        package = PACKAGES.get(text.split("://")[0])
        fix = f"python -m pip install {package}" if package else "install what the message names"
        raise ConfigError(f"this URL needs a package: {error}", where=text, fix=fix) from None
    except Exception as error:  # file systems raise what their libraries do
        raise ConfigError(f"this URL cannot be read: {error}", where=text, fix=USE_STORES) from None
    return location


def is_url(text: str) -> bool:
    return "://" in text


def is_http(location: Location) -> bool:
    return not isinstance(location, Path) and location.protocol in ("http", "https")


def member(folder: Location, name: str) -> Location:
    """The file of this name; quoted in web addresses, where some characters have a meaning."""
    return folder / (quote(name) if is_http(folder) else name)


def split_spec(spec: str) -> tuple[Location, list[str] | None]:
    """Location and splits of `SHARDS[:split,...]`. The colon of a port does not begin splits."""
    head, colon, splits = spec.rpartition(":")
    if not is_url(spec):
        whole = not colon or Path(spec).exists()
    else:
        is_port = splits.isdigit() and "/" not in head.split("://", 1)[-1]
        whole = "/" in splits or is_port
    return (parse_location(spec), None) if whole else (parse_location(head), splits.split(","))
