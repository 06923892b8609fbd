"""New labels for clips that are packed, from a table: a row a clip, or a row a label."""

import math
from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
from jaxtyping import Int64, UInt16

from psla_wds.cli import LocationArg
from psla_wds.config import Within, check_ranges
from psla_wds.errors import ConfigError, ManifestError
from psla_wds.io.locations import Location
from psla_wds.labels.class_list import ClassList
from psla_wds.labels.manifest import LabelError, label_entries, positions_of, short_id
from psla_wds.progress import progress_bar
from psla_wds.shards.clip_ids import NOT_THERE, ClipIds
from sharding.foreign.tar_members import is_text
from sharding.sources.label_table import without_suffix
from sharding.sources.rows import table_rows
from sharding.sources.source import require

MOST_UNKNOWN = 10_000
"""Different unknown labels that are listed; all are counted."""


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """A table with labels, and which of its columns hold what."""

    labels: LocationArg | None = None
    """Table with the labels, one row a clip or one a label (.csv, .jsonl or .parquet)."""
    id_column: str = "clip_id"
    """Column with the ids of the clips; suffixes of audio files, such as .wav, may differ."""
    label_column: str = "labels"
    """Column with the labels: mids, names, indices, or a 0 or 1 for each class."""
    separator: str = "|"
    """Separator of several labels, or confidences, in a text; a comma for FSD50K."""
    confidence_column: str | None = None
    """Column with the confidence of a row, or a list of one for each of its labels."""
    threshold: Annotated[float | None, Within(-1e300, 1e300)] = None
    """Confidence that a label must have; labels below it are left out."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if (self.confidence_column is None) != (self.threshold is None):
            raise ConfigError(
                "a threshold needs confidences, and confidences a threshold",
                where="--confidence-column and --threshold",
                fix="set both, or none",
            )
        if not self.separator:
            raise ConfigError(
                "the separator is empty", where="--separator", fix='leave it out: it is "|"'
            )

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.id_column, self.label_column, *filter(None, [self.confidence_column]))


@dataclass
class Skipped:
    """What a table has and an overlay has not."""

    unknown: Counter[str] = field(default_factory=Counter)
    """Labels that are not in the class list, the first `MOST_UNKNOWN` of them."""
    num_unknown: int = 0
    num_below_threshold: int = 0
    num_empty_rows: int = 0
    """Rows whose labels are all unknown or below the threshold; they say nothing of their clip."""

    def add_unknown(self, label: str) -> None:
        self.num_unknown += 1
        if label in self.unknown or len(self.unknown) < MOST_UNKNOWN:
            self.unknown[label] += 1


@dataclass(frozen=True)
class NewLabels:
    """Labels by clip id; row i has `values[starts[i]:starts[i + 1]]`."""

    ids: ClipIds
    starts: Int64[np.ndarray, " starts"]
    values: UInt16[np.ndarray, " labels"]
    skipped: Skipped

    def rows_in(self, clip_ids: ClipIds) -> Int64[np.ndarray, " rows"]:
        """Row of an index for each row of the table; `NOT_THERE` for an id that is not among these.

        An id that is not there counts without the suffix of an audio file, on both sides, unless
        it could then be several clips.
        """
        rows = clip_ids.rows_of(self.ids)
        lost = np.flatnonzero(rows == NOT_THERE)
        if len(lost):
            short = ClipIds.of(map(without_suffix, clip_ids))
            wanted = ClipIds.of(without_suffix(self.ids[i]) for i in lost)
            twice = ClipIds.of(short[row] for row in short.repeated())
            found = short.rows_of(wanted)
            rows[lost] = np.where(twice.rows_of(wanted) == NOT_THERE, found, NOT_THERE)
        return rows


def read_new_labels(table: Location, options: TableOptions, classes: ClassList) -> NewLabels:
    """The labels in a table; `ManifestError` names a row that cannot be read.

    Rows become entries of arrays one by one: 2M rows of two labels take 60 MB.
    """
    ids, id_ends, values, ends = bytearray(), array("q", [0]), array("H"), array("q", [0])
    skipped, num_rows = Skipped(), 0
    rows = table_rows(table, options.columns)
    for where, row in progress_bar(rows, desc="reading labels", unit="row"):
        num_rows += 1
        clip_id = _clip_id(row, options.id_column, where)
        found = _positions(row, options, classes, skipped, where)
        if found is None:
            skipped.num_empty_rows += 1
            continue
        ids += short_id(clip_id).encode()
        id_ends.append(len(ids))
        values.extend(found)
        ends.append(len(values))
    require(num_rows > 0, "the table has no rows", table, "check the file")
    return NewLabels(
        ClipIds(np.array(id_ends, np.int64), np.frombuffer(ids, np.uint8)),
        np.array(ends, np.int64),
        np.array(values, np.uint16),
        skipped,
    )


def _clip_id(row: dict[str, Any], column: str, where: str) -> str:
    value = row[column]
    is_id = isinstance(value, str | int) and value != ""
    require(is_id, f"the row has no {column}", where, "fill it in, or leave the row out")
    clip_id = str(value)
    require(is_text(clip_id), f"the {column} is not text that UTF-8 can hold", where, "rename it")
    return clip_id


def _positions(
    row: dict[str, Any], options: TableOptions, classes: ClassList, skipped: Skipped, where: str
) -> tuple[int, ...] | None:
    """Classes of a row; None if it has labels, none of which is left."""
    value = row[options.label_column]
    if isinstance(value, str) and classes.named(value.strip()) is None:
        value = value.split(options.separator)
    try:
        entries = label_entries(value, classes)
        wanted = entries
        if options.confidence_column is not None:
            confidences = _confidences(row[options.confidence_column], options, where)
            wanted = _confident(entries, confidences, options, where)
            skipped.num_below_threshold += len(entries) - len(wanted)
        found = positions_of(wanted, classes, skipped.add_unknown)
    except LabelError as error:
        raise ManifestError(str(error), where=where, fix=error.fix) from None
    return found if found or not entries else None


def _confidences(value: Any, options: TableOptions, where: str) -> list[float]:
    as_text = isinstance(value, str)
    parts = [part for part in value.split(options.separator) if part.strip()] if as_text else value
    try:
        numbers = [float(number) for number in (parts if isinstance(parts, list) else [parts])]
    except (TypeError, ValueError, OverflowError):
        numbers = [math.nan]
    require(
        not any(map(math.isnan, numbers)),
        f"{options.confidence_column} is not a number: {value!r:.80}",
        where,
        "write a number, or one for each label",
    )
    return numbers


def _confident(
    entries: list[Any], confidences: list[float], options: TableOptions, where: str
) -> list[Any]:
    """Labels with at least the threshold; one confidence counts for all labels of a row."""
    if len(confidences) == 1:
        confidences *= len(entries)
    require(
        len(confidences) == len(entries),
        f"{len(confidences)} confidences for {len(entries)} labels",
        where,
        f"write one number, or one for each label, into {options.confidence_column}",
    )
    pairs = zip(entries, confidences, strict=True)
    return [entry for entry, number in pairs if number >= (options.threshold or 0)]
