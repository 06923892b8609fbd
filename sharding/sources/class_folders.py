"""A folder per class."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from psla_wds.labels import ClassList, read_class_list
from psla_wds.manifest import Clip, resolve_labels
from sharding.sources.source import files_below, require, require_folder


@dataclass(frozen=True, kw_only=True)
class FolderSource:
    """A folder per class, with the clips of the class in it."""

    folder: Positional[Path]
    """Its subfolders are the classes, named by mid, display name or, without --class-labels,
    by themselves. A file that is no audio is refused by name."""
    class_labels: Path | None = None
    """CSV of the classes: index,mid,display_name."""

    def read(self) -> tuple[ClassList, Iterable[Clip]]:
        folders = class_folders(self.folder)
        if self.class_labels:
            classes = read_class_list(self.class_labels)
        else:
            names = tuple(folder.name for folder in folders)
            classes = ClassList(names, names)
        return classes, self._clips(folders, classes)

    def _clips(self, folders: list[Path], classes: ClassList) -> Iterator[Clip]:
        for folder in folders:
            labels = resolve_labels([folder.name], classes, str(folder))
            for path in sorted(files_below(folder)):
                yield Clip(
                    clip_id=path.relative_to(self.folder).as_posix(),
                    path=path,
                    labels=labels,
                    split="",
                    source=str(path),
                )


def class_folders(folder: Path) -> list[Path]:
    require_folder(folder, "check the path")
    folders = sorted(p for p in folder.iterdir() if p.is_dir() and p.name[0] != ".")
    require(bool(folders), "the folder has no subfolder", folder, "make one for each class")
    return folders
