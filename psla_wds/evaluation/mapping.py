"""Scores on a data set with other classes, by a mapping from the model's classes.

A mapping is an editable CSV: `class` (of the data set), `mids` (the model's classes for it, best
first, separated by |), `match` (a note for people), `used` (yes or no). Mappings from AudioSet's
classes to esc50 and fsd50k are in psla_wds/evaluation/mappings.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float32

from psla_wds.errors import ScoreError
from psla_wds.evaluation.scores import Scores, targets_of
from psla_wds.io.regular import CLASSES_BYTES, open_text
from psla_wds.labels.class_list import ClassList
from psla_wds.shards.index import ShardIndex

COLUMNS = ("class", "mids", "match", "used")
SHIPPED = Path(__file__).parent / "mappings"

Several = Literal["first", "max"]


@dataclass(frozen=True)
class Mapping:
    """From a model's classes to a data set's."""

    path: Path
    mids: dict[str, tuple[str, ...]]
    """The model's classes for each class used."""
    left_out: tuple[str, ...]
    """Classes of the data set that are not used."""


def read_mapping(name: str) -> Mapping:
    """A built-in mapping by name, or another one by its path."""
    path = SHIPPED / f"{name}.csv" if (SHIPPED / f"{name}.csv").is_file() else Path(name)
    shipped = ", ".join(sorted(file.stem for file in SHIPPED.glob("*.csv")))
    fix = f"give {shipped}, or a CSV with the columns {','.join(COLUMNS)}"
    try:
        with open_text(path, max_bytes=CLASSES_BYTES) as file:
            rows = [{name: row[name].strip() for name in COLUMNS} for row in csv.DictReader(file)]
    except (OSError, KeyError, ValueError, AttributeError) as error:
        raise ScoreError(f"the mapping cannot be read: {error!r}", where=path, fix=fix) from None
    used = {row["class"]: tuple(row["mids"].split("|")) for row in rows if row["used"] == "yes"}
    for row in rows:
        if row["used"] not in ("yes", "no") or (row["used"] == "yes" and not row["mids"]):
            raise ScoreError(
                f"class {row['class']} has used={row['used']!r} and mids={row['mids']!r}",
                where=path,
                fix="used is yes or no, and a class that is used has mids",
            )
    if not used or len({row["class"] for row in rows}) < len(rows):
        raise ScoreError("no class is used, or one is listed twice", where=path, fix=fix)
    return Mapping(path, used, tuple(row["class"] for row in rows if row["used"] == "no"))


def map_scores(scores: Scores, index: ShardIndex, mapping: Mapping, several: Several) -> Scores:
    """Scores and targets for the data set's classes, on the clips that have one of them."""
    targets = _columns(mapping, tuple(mapping.mids), index.classes, "the shards have")
    sources = [
        _columns(mapping, mids, ClassList(scores.mids, scores.names), "the model has")
        for mids in mapping.mids.values()
    ]
    clip_ids = tuple(index.clip_id(row) for row in range(len(index)))
    rows = scores.rows_of(clip_ids, where=mapping.path)
    carried = index.targets(np.arange(len(index)))[:, targets].astype(np.uint8)
    kept = np.flatnonzero(carried.any(axis=1))
    if not len(kept):
        raise ScoreError(
            "no clip carries a class that the mapping uses",
            where=mapping.path,
            fix="use the mapping of this data set",
        )
    return replace(
        scores,
        clip_ids=tuple(clip_ids[row] for row in kept),
        scores=_mapped(scores.scores[rows[kept]], sources, several),
        targets=carried[kept],
        mids=tuple(index.classes.mids[k] for k in targets),
        names=tuple(index.classes.names[k] for k in targets),
    )


def _mapped(
    scores: Float32[np.ndarray, "clips model_classes"], sources: list[list[int]], several: Several
) -> Float32[np.ndarray, "clips classes"]:
    columns = [
        scores[:, source[0]] if several == "first" else scores[:, source].max(axis=1)
        for source in sources
    ]
    return np.stack(columns, axis=1)


def _columns(
    mapping: Mapping, labels: Sequence[str], classes: ClassList, who_has: str
) -> list[int]:
    found = {label: classes.find(label) for label in labels}
    unknown = [label for label, position in found.items() if position is None]
    if unknown:
        raise ScoreError(
            f"{who_has} no class {unknown[0]} ({len(unknown)} of {len(found)} are unknown)",
            where=mapping.path,
            fix="use a mapping between these classes, or write used=no in that line",
        )
    return [position for position in found.values() if position is not None]


def with_targets(scores: Scores, index: ShardIndex, *, where: object) -> Scores:
    """The same scores with an index's labels, such as enhanced ones."""
    scores.check_classes(index.classes.mids, where=where)
    clip_ids = [index.clip_id(row) for row in range(len(index))]
    rows = np.argsort(
        scores.rows_of(clip_ids, where=where)
    )  # row of the index for each scored clip
    return replace(scores, targets=targets_of(index, rows, index.classes))
