"""ESC-50, as in its repository."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePath

from tyro.conf import Positional

from psla_wds.cli import LocationArg
from psla_wds.io.locations import member
from psla_wds.labels.class_list import ClassList
from psla_wds.labels.manifest import Clip
from sharding.sources.rows import csv_rows
from sharding.sources.source import require, require_folder

COLUMNS = ("filename", "fold", "target", "category")


@dataclass(frozen=True, kw_only=True)
class Esc50Source:
    """ESC-50: five splits, fold1 to fold5, which must not be shuffled, and 50 classes of its
    own."""

    folder: Positional[LocationArg]
    """Unpacked repository, with meta/esc50.csv and audio/."""

    def read(self) -> tuple[ClassList, Iterable[Clip]]:
        require_folder(self.folder, "check the path")
        rows = list(csv_rows(self.folder / "meta" / "esc50.csv", COLUMNS))
        names = _class_names(rows)
        return ClassList(names, names), self._clips(rows)

    def _clips(self, rows: list[tuple[str, dict[str, str]]]) -> Iterator[Clip]:
        audio = self.folder / "audio"
        require_folder(audio, "unpack the audio next to meta/")
        for where, row in rows:
            yield Clip(
                clip_id=PurePath(row["filename"]).stem,
                path=member(audio, PurePath(row["filename"]).name),
                labels=(int(row["target"]),),
                split=f"fold{row['fold']}",
                source=where,
            )


def _class_names(rows: list[tuple[str, dict[str, str]]]) -> tuple[str, ...]:
    """Categories in the order of their targets, 0, 1, 2, ..."""
    names: dict[str, str] = {}
    for where, row in rows:
        name = names.setdefault(row["target"], row["category"])
        fix = "download esc50.csv again"
        require(name == row["category"], f"target {row['target']} has two names", where, fix)
    numbers = [str(number) for number in range(len(names))]
    where = rows[0][0] if rows else "esc50.csv"
    fix = "download esc50.csv again"
    require(sorted(names) == sorted(numbers), "targets are not 0, 1, 2, ...", where, fix)
    return tuple(names[number] for number in numbers)
