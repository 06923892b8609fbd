"""FSD50K, as its archives unpack."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

from tyro.conf import Positional

from psla_wds.cli import LocationArg
from psla_wds.errors import ManifestError
from psla_wds.io.locations import Location, member
from psla_wds.io.stores import at
from psla_wds.labels.class_list import ClassList, read_class_list
from psla_wds.labels.manifest import Clip, resolve_labels
from sharding.sources.rows import csv_rows, csv_values
from sharding.sources.source import require, require_folder

Split = Literal["train", "val", "eval"]
SPLITS: tuple[Split, ...] = ("train", "val", "eval")
PARTS = {"dev": ("fname", "mids", "split"), "eval": ("fname", "mids")}
"""Lists of clips and their columns that are used."""


@dataclass(frozen=True, kw_only=True)
class Fsd50kSource:
    """FSD50K: splits train and val, of its dev.csv, and eval."""

    folder: Positional[LocationArg]
    """Folder with FSD50K.dev_audio, FSD50K.eval_audio and FSD50K.ground_truth."""
    class_labels: LocationArg | None = None
    """CSV of the classes: index,mid,display_name. Default: its 200 classes in the order of
    vocabulary.csv."""
    splits: tuple[Split, ...] = SPLITS
    """Splits to pack."""

    def read(self) -> tuple[ClassList, Iterable[Clip]]:
        require_folder(self.folder, "check the path")
        lists = self._subfolder("ground_truth")
        if self.class_labels:
            classes = read_class_list(self.class_labels)
        else:
            classes = _vocabulary(lists / "vocabulary.csv")
        return classes, self._clips(lists, classes)

    def _clips(self, lists: Location, classes: ClassList) -> Iterator[Clip]:
        for part, columns in PARTS.items():
            if not {"dev": {"train", "val"}, "eval": {"eval"}}[part].intersection(self.splits):
                continue
            audio = self._subfolder(f"{part}_audio")
            for where, row in csv_rows(lists / f"{part}.csv", columns):
                split = row.get("split", "eval")
                require(split in SPLITS, f"split {split!r}", where, "download the lists again")
                if split in self.splits:
                    yield Clip(
                        clip_id=row["fname"],
                        path=member(audio, f"{PurePath(row['fname']).name}.wav"),
                        labels=resolve_labels(row["mids"].split(","), classes, where),
                        split=split,
                        source=where,
                    )

    def _subfolder(self, name: str) -> Location:
        """Path of FSD50K.NAME, or of NAME alone."""
        for path in (self.folder / f"FSD50K.{name}", self.folder / name):
            if at(path).is_folder():
                return path
        raise ManifestError(
            f"there is no folder FSD50K.{name}", where=self.folder, fix="unpack its archive there"
        )


def _vocabulary(path: Location) -> ClassList:
    """`idx,label,mid`, without a header."""
    names, mids = [], []
    for number, (where, row) in enumerate(csv_values(path)):
        right = len(row) == 3 and row[0] == str(number)
        require(right, f"the row is not {number},label,mid", where, "download the lists again")
        names.append(row[1])
        mids.append(row[2])
    require(bool(names), "the vocabulary is empty", path, "download the lists again")
    return ClassList(tuple(mids), tuple(names))
