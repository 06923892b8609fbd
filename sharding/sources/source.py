"""What every source is, and how it looks at folders."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol, runtime_checkable

from psla_wds.errors import ManifestError
from psla_wds.io.folders import is_folder
from psla_wds.io.locations import Location, is_url, member, parse_location
from psla_wds.io.url_files import names_below
from psla_wds.labels.class_list import ClassList
from psla_wds.labels.manifest import Clip


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


def files_below(folder: Location) -> Iterator[str]:
    """The name, from `folder` on, of every file that is not hidden, in no order.

    `ManifestError` if a folder cannot be read.
    """
    names = _names_on_disk(folder, "") if isinstance(folder, Path) else names_below(folder)
    return (name for name in names if name.rpartition("/")[2][0] != ".")


def _names_on_disk(folder: Path | str, prefix: str) -> Iterator[str]:
    """One after another: `os.walk` lists a folder, which may hold millions, before it goes on."""
    try:
        with os.scandir(folder) as found:
            for entry in found:
                if entry.is_file(follow_symlinks=False) or os.path.isfile(entry.path):
                    yield prefix + entry.name
                elif os.path.isdir(entry.path):
                    yield from _names_on_disk(entry.path, f"{prefix}{entry.name}/")
    except OSError as error:
        raise ManifestError(
            f"the folder cannot be read: {error.strerror}",
            where=folder,
            fix="give read access, or move it out of the data set",
        ) from None
