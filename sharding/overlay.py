"""Give packed clips the labels of a table.

    psla-wds overlay SHARDS --labels TABLE --id-column clip_id --label-column labels
        [--confidence-column confidence --threshold 0.5] --output OVERLAY
    psla-wds overlay SHARDS --export LABELS.jsonl

The table has corrections, labels made anew, or those of a machine. The shards do not change: the
labels go to OVERLAY, for --labels of psla-wds train, predict and score. --export writes labels as a
table, to correct them by hand.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from jaxtyping import Int64
from tyro.conf import Positional, arg

from psla_wds import cli
from psla_wds.errors import ConfigError, LabelError
from psla_wds.io.atomic_files import disk_errors
from psla_wds.io.columns import gather_ragged
from psla_wds.io.locations import Location
from psla_wds.printable import typed
from psla_wds.shards.clip_ids import NOT_THERE, ClipIds
from psla_wds.shards.index import ShardIndex
from psla_wds.shards.index_files import open_indexes
from psla_wds.shards.overlay import apply_overlay, next_step, publish_overlay, write_label_rows
from psla_wds.text_table import text_table
from sharding.sources.new_labels import NewLabels, TableOptions, read_new_labels

NUM_SHOWN = 15
"""Classes shown in the text report."""
FEW = 5
"""Clips or labels shown in a message."""


@dataclass(frozen=True)
class Args(TableOptions):
    shards: Annotated[Positional[tuple[str, ...]], arg(metavar="SHARDS[:SPLIT,...] ...")]
    """Folders of shards, or their URLs; SHARDS:train,eval takes only these splits."""
    output: Annotated[Path | None, cli.New()] = None
    """Folder for the overlay; it must not exist."""
    missing: Literal["keep", "clear", "error"] = "keep"
    """Clips that the table lacks keep their labels, lose them, or are an error."""
    add: bool = False
    """Add the table's labels to those that the clips have, instead of replacing these."""
    repeated: Literal["error", "union", "last"] = "error"
    """Rows that give one clip different labels: an error, all of them (a row a label), or the last
    row alone (corrections at the end)."""
    unknown_labels: Literal["error", "skip"] = "error"
    """Labels that are not in the class list."""
    unknown_ids: Literal["error", "skip"] = "skip"
    """Rows whose clip is not in these shards."""
    base: Path | None = None
    """Label overlay to start from, in place of the labels in the shards."""
    export: Annotated[Path | None, cli.New()] = None
    """JSON lines file for the labels as they are then, with clip_id and labels (mids)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.shards:
            raise ConfigError("no shards are named", where="SHARDS", fix="name one or more folders")
        if (self.labels is None) != (self.output is None) or not (self.labels or self.export):
            raise ConfigError(
                "an overlay needs a table of labels and an output",
                where="--labels and --output",
                fix="set both, or only --export to write the labels that are there",
            )


def main() -> None:
    args = cli.parse(Args, __doc__, prog="overlay")
    if args.labels is None or args.output is None:
        print(export(args))
        return
    print(to_text(run(args, args.labels, args.output)))
    print(next_step(args.output, args.shards))


def export(args: Args) -> str:
    """Write the labels that clips have; returns what was written, and what to do next."""
    _, index = _opened(args)
    if args.export is not None:
        with disk_errors(args.export, "write the labels", then="run the command again"):
            write_label_rows(index, args.export)
    return (
        f"wrote the labels of {len(index):,} clips to {args.export}; next, once corrected: "
        f"psla-wds overlay {typed(*args.shards)} --labels {typed(args.export)} "
        "--output OVERLAY"
    )


def run(args: Args, table: Location, output: Path) -> dict[str, Any]:
    """Write the overlay, whole or not at all, and return its report."""
    shards, index = _opened(args)
    new = read_new_labels(table, args, index.classes)
    rows = new.rows_in(index.clip_ids)
    _check_labels(args, new, index)
    _check_ids(args, new, rows, index)
    labelled = relabelled(index, rows, new, args)
    report = _report(args, new, rows, (index, labelled))
    publish_overlay(output, (shards, labelled), report, to_text(report), export=args.export)
    return report


def _opened(args: Args) -> tuple[ShardIndex, ShardIndex]:
    """Index of the shards, and the same with the labels to start from."""
    shards = open_indexes(args.shards)
    return shards, apply_overlay(shards, args.base) if args.base else shards


def relabelled(
    index: ShardIndex, rows: Int64[np.ndarray, " rows"], new: NewLabels, args: Args
) -> ShardIndex:
    """Index with the labels of a table.

    Args:
        rows: row of the index for each row of the table, or `NOT_THERE`.
    """
    used = np.flatnonzero(rows != NOT_THERE)
    rows = rows[used]
    if args.repeated == "last":
        last = np.full(len(index), -1)
        np.maximum.at(last, rows, used)
        used = last[last >= 0]
        rows = np.flatnonzero(last >= 0)
    starts, values = gather_ragged(new.starts, new.values, used)
    keys = _unique(_keys(rows, starts, values, index))
    if args.repeated == "error":
        num_labels = np.bincount(keys // len(index.classes), minlength=len(index))
        _check_same(rows[np.diff(starts) < num_labels[rows]], index, args)
    in_table = np.zeros(len(index), bool)
    in_table[rows] = True
    if args.missing == "error":
        _check_missing(np.flatnonzero(~in_table), index, args)
    keeps = np.where(in_table, args.add, args.missing == "keep")
    kept = np.repeat(keeps, np.diff(index.label_starts))
    keys = _unique(np.concatenate([_own_keys(index)[kept], keys]))
    lengths = np.bincount(keys // len(index.classes), minlength=len(index))
    starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return index.with_labels(starts, (keys % len(index.classes)).astype(np.uint16))


def _keys(
    rows: Int64[np.ndarray, " rows"],
    starts: Int64[np.ndarray, " starts"],
    values: np.ndarray,
    index: ShardIndex,
) -> Int64[np.ndarray, " labels"]:
    """One number for each clip and class: row times the number of classes, plus the class."""
    return np.repeat(rows, np.diff(starts)) * len(index.classes) + values


def _unique(numbers: Int64[np.ndarray, " some"]) -> Int64[np.ndarray, " different"]:
    """As `np.unique`, which hashes from NumPy 2.3 on: 50 times slower for 4M different numbers."""
    ascending = np.sort(numbers)
    return ascending[np.diff(ascending, prepend=-1) > 0]


def _own_keys(index: ShardIndex) -> Int64[np.ndarray, " labels"]:
    return _keys(np.arange(len(index)), index.label_starts, index.label_values, index)


def _check_labels(args: Args, new: NewLabels, index: ShardIndex) -> None:
    skipped, classes = new.skipped, index.classes
    if skipped.num_unknown and args.unknown_labels == "error":
        first = next(iter(skipped.unknown))
        nearest = classes.nearest(first)
        hint = f"did you mean {nearest!r}? " if nearest else ""
        raise LabelError(
            f"{skipped.num_unknown:,} labels are not among the {len(classes):,} classes: "
            f"{_most_frequent(dict(skipped.unknown.most_common()))}",
            where=f"{args.labels}, column {args.label_column}",
            fix=f"{hint}--unknown-labels skip leaves them out; --separator splits them",
        )


def _check_ids(
    args: Args, new: NewLabels, rows: Int64[np.ndarray, " rows"], index: ShardIndex
) -> None:
    unknown = np.flatnonzero(rows == NOT_THERE)
    where = f"{args.labels}, column {args.id_column}"
    if not len(rows):
        raise LabelError(
            f"no label of the table is left: {new.skipped.num_below_threshold:,} are below the "
            f"threshold, {new.skipped.num_unknown:,} unknown",
            where=f"{args.labels}, column {args.label_column}",
            fix="lower --threshold, or name another --label-column",
        )
    if len(unknown) == len(rows):
        one = repr(index.clip_id(0)) if len(index) else "none"
        raise LabelError(
            f"the table has none of these {len(index):,} clips: it has {_some(new.ids, unknown)}; "
            f"the shards have {one}, for instance",
            where=where,
            fix="name another --id-column, or other shards",
        )
    if len(unknown) and args.unknown_ids == "error":
        raise LabelError(
            f"{len(unknown):,} rows have clips that are not in these shards: "
            f"{_some(new.ids, unknown)}",
            where=where,
            fix="--unknown-ids skip leaves them out",
        )


def _check_same(differing: np.ndarray, index: ShardIndex, args: Args) -> None:
    clips = _unique(differing)
    if len(clips):
        raise LabelError(
            f"rows give {len(clips):,} clips different labels: {_some(index.clip_ids, clips)}",
            where=args.labels,
            fix="keep one row a clip, or set --repeated: union for a row a label, last for "
            "corrections at the end",
        )


def _check_missing(missing: np.ndarray, index: ShardIndex, args: Args) -> None:
    if len(missing):
        raise LabelError(
            f"the table lacks {len(missing):,} of {len(index):,} clips: "
            f"{_some(index.clip_ids, missing)}",
            where=args.labels,
            fix="add them, or set --missing: keep leaves their labels, clear removes these",
        )


def _some(ids: ClipIds, rows: np.ndarray) -> str:
    """A few of the clips in these rows, and the number of the others."""
    more = f" (+{len(rows) - FEW:,} more)" if len(rows) > FEW else ""
    return ", ".join(repr(ids[row]) for row in rows[:FEW]) + more


def _most_frequent(labels: dict[str, int]) -> str:
    more = f" (+{len(labels) - FEW:,} more)" if len(labels) > FEW else ""
    some = list(labels.items())[:FEW]
    return ", ".join(f"{label!r:.80} ({number:,})" for label, number in some) + more


def _report(
    args: Args,
    new: NewLabels,
    rows: Int64[np.ndarray, " rows"],
    labelled: tuple[ShardIndex, ShardIndex],
) -> dict[str, Any]:
    """Settings, what the table has and lacks, and labels by class, as JSON values."""
    before, after = labelled
    keys, new_keys = _own_keys(before), _own_keys(after)
    added = np.setdiff1d(new_keys, keys, assume_unique=True)
    removed = np.setdiff1d(keys, new_keys, assume_unique=True)
    num_classes, unknown = len(before.classes), np.flatnonzero(rows == NOT_THERE)
    in_table = _unique(rows[rows != NOT_THERE])
    by_class = [np.bincount(some % num_classes, minlength=num_classes) for some in (added, removed)]
    counts = zip(before.class_counts(), *by_class, after.class_counts(), strict=True)
    names = ("before", "added", "removed", "after")
    changed = _unique(np.concatenate([added, removed]) // num_classes)
    settings = ("id_column", "label_column", "confidence_column", "threshold")
    choices = ("missing", "add", "repeated", "unknown_labels", "unknown_ids")
    return {
        "table": str(args.labels),
        "shards": list(args.shards),
        "base": str(args.base) if args.base else None,
        **{name: getattr(args, name) for name in (*settings, *choices)},
        "clips": len(before),
        "clips_in_table": len(in_table),
        "impacted_clips": len(changed),
        "labels_before": len(keys),
        "labels_added": len(added),
        "labels_removed": len(removed),
        "labels_below_threshold": new.skipped.num_below_threshold,
        "rows_without_usable_labels": new.skipped.num_empty_rows,
        "rows_of_other_clips": len(unknown),
        "other_clips": [new.ids[row] for row in unknown[:FEW]],
        "unknown_labels_found": new.skipped.num_unknown,
        "unknown_labels_by_frequency": dict(new.skipped.unknown.most_common()),
        "per_class": [
            {"mid": mid, "name": name} | dict(zip(names, map(int, numbers), strict=True))
            for mid, name, numbers in zip(
                before.classes.mids, before.classes.names, counts, strict=True
            )
        ],
    }


def to_text(report: dict[str, Any]) -> str:
    """Text report: totals, what was left out, then the classes that change most."""
    before, clips, missing = (report[name] for name in ("labels_before", "clips", "missing"))
    after = before + report["labels_added"] - report["labels_removed"]
    lacking = clips - report["clips_in_table"]
    touched = [row for row in report["per_class"] if row["added"] or row["removed"]]
    lines = [
        f"{report['clips_in_table']:,} of {clips:,} clips are in the table; {lacking:,} others "
        f"{'keep' if missing == 'keep' else 'lose'} their labels",
        f"{report['labels_added']:,} labels added to {before:,} and {report['labels_removed']:,} "
        f"removed, in {len(touched):,} of {len(report['per_class']):,} classes and "
        f"{report['impacted_clips']:,} clips: {before / max(clips, 1):.2f} to "
        f"{after / max(clips, 1):.2f} labels a clip",
    ]
    others = ", ".join(map(repr, report["other_clips"]))
    unknown = _most_frequent(report["unknown_labels_by_frequency"])
    left_out = (
        (report["rows_of_other_clips"], f"rows are of other clips, such as {others}"),
        (report["unknown_labels_found"], f"labels are not in the class list: {unknown}"),
        (report["labels_below_threshold"], f"labels are below {report['threshold']}"),
        (report["rows_without_usable_labels"], "rows have no label left, and count as missing"),
    )
    lines += [f"  {number:,} {what}" for number, what in left_out if number]
    touched.sort(key=lambda row: -row["added"] - row["removed"])
    table = [["class", "before", "added", "removed", "after"]]
    table += [[row["name"], *(f"{row[n]:,}" for n in table[0][1:])] for row in touched[:NUM_SHOWN]]
    return "\n".join([*lines, "", text_table(table)]) + "\n"


if __name__ == "__main__":
    cli.run(main)
