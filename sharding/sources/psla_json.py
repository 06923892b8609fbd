"""JSON lists of PSLA, AST and their descendants, with their CSV of weights."""

import json
import logging
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from tyro.conf import Positional

from psla_wds.cli import LocationArg
from psla_wds.errors import ManifestError
from psla_wds.io.locations import Location, member
from psla_wds.io.stores import at
from psla_wds.labels.class_list import ClassList, read_class_list
from psla_wds.labels.manifest import Clip, resolve_labels
from sharding.sources.rows import lines
from sharding.sources.source import named, require

WEIGHT_SCALE, COUNT_OFFSET = 1000.0, 0.01
"""A row's weight is the sum of 1000 / (count + 0.01) over its labels (official code)."""
WEIGHT_TOLERANCE = 1e-4
MOST_BYTES = 2**30
"""Size of a JSON file, which is read whole: that of 2 million clips has about 300 MB."""

logger = logging.getLogger("sharding.build")


@dataclass(frozen=True, kw_only=True)
class PslaJsonSource:
    """Clips of the JSON that PSLA, AST, CAV-MAE and Audio-MAE read.

    {"data": [{"wav": "/audio/a.wav", "labels": "/m/09x0r,/m/04rlf"}, ...]}. The clip id is the file
    name without suffix. If there is a NAME_weight.csv next to NAME.json, its weights are compared
    with those of the labels, and a difference is a warning; draws follow the labels.
    """

    file: Positional[LocationArg]
    """JSON file of one split."""
    class_labels: LocationArg
    """CSV of the classes: index,mid,display_name."""
    audio_root: LocationArg | None = None
    """Folder of the files, found by their names alone. Default: paths are taken as written, and
    relative ones start from the JSON's folder."""
    split: str = ""
    """Name of the split, such as train."""

    def read(self) -> tuple[ClassList, Iterable[Clip]]:
        classes = read_class_list(self.class_labels)
        return classes, self._clips(classes)

    def _clips(self, classes: ClassList) -> Iterator[Clip]:
        rows = _read(self.file)
        labels = [row["labels"].split(",") for row in rows]
        check_weights(self.file.with_name(f"{self.file.stem}_weight.csv"), labels)
        for number, (row, mids) in enumerate(zip(rows, labels, strict=True)):
            where, wav = f"{self.file}, data[{number}]", PurePath(row["wav"])
            by_name = self.audio_root and member(self.audio_root, wav.name)
            yield Clip(
                clip_id=wav.stem,
                path=by_name or named(self.file.parent, row["wav"]),
                labels=resolve_labels(mids, classes, where),
                split=self.split,
                source=where,
            )


def check_weights(path: Location, labels: list[list[str]]) -> bool:
    """Whether a CSV of weights, if there is one, fits these labels; warns if it does not."""
    if at(path).size() is None:
        return True
    counts = Counter(label for row in labels for label in row)
    expected = [
        sum(WEIGHT_SCALE / (counts[label] + COUNT_OFFSET) for label in row) for row in labels
    ]
    try:
        found = [float(line) for line in lines(path) if line.strip()]
    except ValueError as error:
        raise ManifestError(
            f"a weight is not a number: {error}", where=path, fix="delete it"
        ) from None
    if len(found) != len(expected):
        difference = f"it has {len(found):,} rows for {len(expected):,} clips"
    else:
        wrong = [
            row
            for row, (theirs, ours) in enumerate(zip(found, expected, strict=True))
            if not math.isclose(theirs, ours, rel_tol=WEIGHT_TOLERANCE)
        ]
        if not wrong:
            logger.info("%s has the weights of these labels, as they are computed here", path)
            return True
        difference = (
            f"{len(wrong):,} of {len(expected):,} rows differ, first row {wrong[0] + 1}: "
            f"{found[wrong[0]]:.6g} where the labels give {expected[wrong[0]]:.6g}"
        )
    logger.warning("%s was made for other labels: %s. Draws follow the labels", path, difference)
    return False


def _read(path: Location) -> list[dict[str, Any]]:
    form = 'write {"data": [{"wav": PATH, "labels": "mid,mid"}, ...]}'
    try:
        content = json.loads("".join(lines(path, most_bytes=MOST_BYTES)))
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"the file is not JSON: {error}", where=path, fix=form) from None
    rows = content.get("data") if isinstance(content, dict) else None
    if not isinstance(rows, list):
        raise ManifestError("the JSON has no list named data", where=path, fix=form)
    for number, row in enumerate(rows):
        right = isinstance(row, dict) and all(
            isinstance(row.get(k), str) for k in ("wav", "labels")
        )
        require(right, "the entry has no wav or labels", f"{path}, data[{number}]", form)
    return rows
