"""Interface of all sources, and how they list folders."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol, runtime_checkable

from psla_wds.audio.folders import is_leftover
from psla_wds.errors import ManifestError
from psla_wds.io.locations import Location, is_url, member, parse_location
from psla_wds.io.stores import at
from psla_wds.labels.class_list import ClassList
from psla_wds.labels.manifest import Clip


@runtime_checkable
class Source(Protocol):
    """A source of labelled clips."""

    def read(self) -> tuple[ClassList, Iterable[Clip]]: ...


def require(condition: bool, what: str, where: object, fix: str) -> None:
    if not condition:
        raise ManifestError(what, where=where, fix=fix)


def require_folder(folder: Location, fix: str) -> None:
    require(at(folder).is_folder(), "there is no such folder", folder, fix)


def named(root: Location, name: str) -> Location:
    """File named by a list: URLs and absolute paths as written, other paths from `root`."""
    if is_url(name):
        return parse_location(name)
    return Path(name) if name.startswith("/") else member(root, name)


def files_below(folder: Location) -> Iterator[str]:
    """Names, relative to `folder`, of all files but leftovers of other tools, in any order.

    `ConfigError` if a folder cannot be read.
    """
    return (name for name in at(folder).names_below() if not is_leftover(name))
