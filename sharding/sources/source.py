"""What every source is, and how it looks at folders."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol, runtime_checkable

from psla_wds.errors import ManifestError
from psla_wds.folders import is_folder
from psla_wds.labels import ClassList
from psla_wds.locations import Location, is_url, member, parse_location
from psla_wds.manifest import Clip
from psla_wds.url_files import names_below


@runtime_checkable
class Source(Protocol):
    """Where labelled clips come from."""

    def read(self) -> tuple[ClassList, Iterable[Clip]]: ...


def require(condition: bool, what: str, where: object, fix: str) -> None:
    if not condition:
        raise ManifestError(what, where=where, fix=fix)


def require_folder(folder: Location, fix: str) -> None:
    require(is_folder(folder), "there is no such folder", folder, fix)


def named(root: Location, name: str) -> Location:
    """The file that a list names: a URL or an absolute path as it stands, others from `root` on."""
    if is_url(name):
        return parse_location(name)
    return Path(name) if name.startswith("/") else member(root, name)


def files_below(folder: Location) -> Iterator[tuple[str, Location]]:
    """Every file that is not hidden, and its name from `folder` on, in no order.

    `ManifestError` if a folder cannot be read.
    """
    if not isinstance(folder, Path):
        for name in names_below(folder):
            if name.rpartition("/")[2][0] != ".":
                yield name, folder / name
        return
    for parent, _, names in os.walk(folder, onerror=_refuse, followlinks=True):
        for name in names:
            path = Path(parent, name)
            if name[0] != "." and path.is_file():
                yield path.relative_to(folder).as_posix(), path


def _refuse(error: OSError) -> None:
    raise ManifestError(
        f"the folder cannot be read: {error.strerror}",
        where=error.filename,
        fix="give read access, or move it out of the data set",
    ) from None
