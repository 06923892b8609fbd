"""A folder per class."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from posixpath import splitext

from tyro.conf import Positional

from psla_wds.audio.folders import is_audio, is_leftover
from psla_wds.audio.kinds import kind_of
from psla_wds.cli import LocationArg
from psla_wds.io.locations import Location
from psla_wds.io.stores import at
from psla_wds.labels.class_list import ClassList, read_class_list
from psla_wds.labels.manifest import Clip, resolve_labels
from sharding.sources.source import files_below, require, require_folder

MAX_NAMED = 10
"""Most names in a warning."""

logger = logging.getLogger("sharding.sources")


@dataclass(frozen=True, kw_only=True)
class FolderSource:
    """A folder per class, with the clips of the class in it."""

    folder: Positional[LocationArg]
    """Folder whose subfolders with audio are the classes, named by mid, display name or, without
    --class-labels, by themselves. Other files are ignored and counted."""
    class_labels: LocationArg | None = None
    """CSV of the classes: index,mid,display_name."""

    def read(self) -> tuple[ClassList, Iterable[Clip]]:
        folders = class_folders(self.folder)
        if self.class_labels:
            classes = read_class_list(self.class_labels)
        else:
            names = tuple(folder.name for folder in folders)
            classes = ClassList(names, names)
        return classes, self._clips(folders, classes)

    def _clips(self, folders: list[Location], classes: ClassList) -> Iterator[Clip]:
        num_others, other = 0, ""
        for folder in folders:
            labels = resolve_labels([folder.name], classes, str(folder))
            for name in files_below(folder):
                if not _is_recording(folder, name):
                    num_others, other = num_others + 1, f"{folder.name}/{name}"
                    continue
                path = folder / name
                yield Clip(
                    clip_id=f"{folder.name}/{name}",
                    path=path,
                    labels=labels,
                    split="",
                    source=str(path),
                )
        if num_others:
            logger.warning("%d other files are ignored, such as %s", num_others, other)


def class_folders(folder: Location) -> list[Location]:
    """Subfolders with audio, by name. Warns of the others, and of audio beside them."""
    require_folder(folder, "check the path")
    found = {name: size for name, size in at(folder).entries().items() if not is_leftover(name)}
    names = sorted(name for name, size in found.items() if size is None)
    require(bool(names), "the folder has no subfolders", folder, "make one for each class")
    with_audio = [name for name in names if _has_audio(folder / name)]
    kinds = "wav, flac, mp3 or another audio suffix"
    require(bool(with_audio), "no subfolder has audio", folder, f"name files with {kinds}")
    empty = sorted(set(names).difference(with_audio))
    _warn("%d subfolders have no audio, so they are not classes: %s", empty)
    stray = sorted(name for name, size in found.items() if size is not None and is_audio(name))
    _warn("%d recordings lie beside the class folders and are not packed: %s", stray)
    return [folder / name for name in with_audio]


def _has_audio(folder: Location) -> bool:
    return any(_is_recording(folder, name) for name in files_below(folder))


def _is_recording(folder: Location, name: str) -> bool:
    """Whether a file is audio by its suffix or, on a disk and without one, by its content."""
    if is_audio(name) or splitext(name)[1] or not isinstance(folder, Path):
        return is_audio(name)
    try:
        with (folder / name).open("rb") as file:
            return kind_of(file) != ""
    except OSError:
        return False


def _warn(message: str, names: list[str]) -> None:
    if names:
        more = ", ..." if len(names) > MAX_NAMED else ""
        logger.warning(message, len(names), ", ".join(names[:MAX_NAMED]) + more)
