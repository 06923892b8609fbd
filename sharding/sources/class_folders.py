"""A folder per class."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tyro.conf import Positional

from psla_wds.cli import LocationArg
from psla_wds.io.locations import Location
from psla_wds.io.stores import at
from psla_wds.labels.class_list import ClassList, read_class_list
from psla_wds.labels.manifest import Clip, resolve_labels
from sharding.sources.source import files_below, require, require_folder


@dataclass(frozen=True, kw_only=True)
class FolderSource:
    """A folder per class, with the clips of the class in it."""

    folder: Positional[LocationArg]
    """Folder whose subfolders are the classes, named by mid, display name or, without
    --class-labels, by themselves. Files that are not audio are refused by name."""
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
        for folder in folders:
            labels = resolve_labels([folder.name], classes, str(folder))
            for name in files_below(folder):
                path = folder / name
                yield Clip(
                    clip_id=f"{folder.name}/{name}",
                    path=path,
                    labels=labels,
                    split="",
                    source=str(path),
                )


def class_folders(folder: Location) -> list[Location]:
    require_folder(folder, "check the path")
    found = at(folder).entries().items()
    names = sorted(name for name, size in found if size is None and name[0] != ".")
    require(bool(names), "the folder has no subfolders", folder, "make one for each class")
    return [folder / name for name in names]
