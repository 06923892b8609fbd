"""A manifest: a file that lists clips."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from tyro.conf import Positional

from psla_wds.cli import LocationArg
from psla_wds.io.locations import Location
from psla_wds.labels.class_list import ClassList, read_class_list
from psla_wds.labels.manifest import Clip, resolve_labels
from sharding.sources.rows import csv_rows, jsonl_rows, seconds
from sharding.sources.source import named, require, require_folder


@dataclass(frozen=True, kw_only=True)
class ManifestSource:
    """Clips listed in a .jsonl or .csv file, one a row."""

    file: Positional[LocationArg]
    """File with columns or keys path (or URL), labels, and optionally clip_id, start_s, end_s,
    split. Labels are mids, display names or indices: a list (or a 0 or 1 for each class) in JSONL,
    separated by --separator in CSV."""
    class_labels: LocationArg
    """CSV of the classes: index,mid,display_name."""
    audio_root: LocationArg | None = None
    """Folder or URL that relative paths start from. Default: the folder of the file."""
    separator: str = "|"
    """Separator of the labels in a text."""
    group_column: str | None = None
    """Column or key of a group, such as recording or speaker: --eval-share puts all clips of a
    group into one split. Rows where it is empty are groups by themselves."""

    def read(self) -> tuple[ClassList, Iterable[Clip]]:
        classes = read_class_list(self.class_labels)
        return classes, self._clips(classes)

    def _clips(self, classes: ClassList) -> Iterator[Clip]:
        root = self.audio_root or self.file.parent
        require_folder(root, "set --audio-root")
        for where, row in _rows(self.file, self.group_column):
            group = _given(row, self.group_column, "") if self.group_column else ""
            labels = row.get("labels")
            if isinstance(labels, str) and self.separator != "|":
                row = row | {"labels": labels.split(self.separator)}
            yield replace(_clip_of_row(row, classes, root, where), group=str(group))


def _rows(path: Location, group: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
    known = path.suffix in (".jsonl", ".csv")
    require(known, "the manifest is neither .jsonl nor .csv", path, "rename or convert it")
    if path.suffix == ".csv":
        yield from csv_rows(path, ("path", "labels", *filter(None, [group])))
        return
    for where, row in jsonl_rows(path):
        fix = "fill it in (null for none), or name another --group-column"
        require(group is None or group in row, f"the row has no {group}", where, fix)
        yield where, row


def _clip_of_row(row: dict[str, Any], classes: ClassList, root: Location, where: str) -> Clip:
    path = str(_given(row, "path", ""))
    require(bool(path), "the row has no path", where, "fill in path and labels")
    return Clip(
        clip_id=str(_given(row, "clip_id", path)),
        path=named(root, path),
        labels=resolve_labels(row.get("labels"), classes, where),
        split=str(_given(row, "split", "")),
        source=where,
        start_s=seconds(_given(row, "start_s", 0), where),
        end_s=seconds(_given(row, "end_s", math.inf), where),
    )


def _given(row: dict[str, Any], key: str, default: Any) -> Any:
    """Value of a key, which may be 0; None if it is absent, null or empty."""
    value = row.get(key)
    return default if value is None or value == "" else value
