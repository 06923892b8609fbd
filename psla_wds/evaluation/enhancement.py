"""Label enhancement: labels that annotators missed, found by an ontology and a teacher's scores.

With a teacher (PSLA III-D), a clip gets class c if it has a class that implies c may be missing (a
parent: type I; a descendant: type II) and its score for c exceeds c's threshold, a statistic of the
scores of clips labelled c. Only original labels count: an added label does not lead to further
ones. Without a teacher, a clip gets every class that its classes imply.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Float64, Int64
from scipy.sparse import csr_array

from psla_wds.evaluation.score_folder import row_blocks
from psla_wds.labels.ontology import Pairs
from psla_wds.shards.index import ShardIndex
from psla_wds.text_table import text_table

Threshold = Literal["mean", "median"] | float
"""Statistic of scores; a number is a percentile."""
NUM_SHOWN = 15
"""Classes and pairs shown in the text report."""


@dataclass(frozen=True)
class Enhancement:
    """An index with added labels, and the reasons for them."""

    before: ShardIndex
    after: ShardIndex
    thresholds: Float64[np.ndarray, " classes"] | None
    """NaN for a class without clips, which is never added. None without a teacher."""
    pairs: dict[str, Int64[np.ndarray, "classes classes"]]
    """By type: [k, c] counts the clips of class k that got c because of it."""
    added: dict[str, Int64[np.ndarray, " classes"]]
    """By type: clips that got each class. A label can be of both types."""


@dataclass(frozen=True)
class Teacher:
    """Scores of the clips of an index, read block by block; they may be memory-mapped."""

    scores: Float[np.ndarray, "clips classes"]
    rows: Int64[np.ndarray, " clips"]
    """Row i of the index is row `rows[i]` of the scores."""


def enhance(
    index: ShardIndex, teacher: Teacher, pairs: dict[str, Pairs], threshold: Threshold
) -> Enhancement:
    """Add the labels that `pairs` (by type) allow and the teacher's scores support."""
    thresholds = class_thresholds(index, teacher, threshold)
    return _with_added(index, _labelled_blocks(index, teacher), pairs, thresholds)


def propagate(index: ShardIndex, pairs: dict[str, Pairs]) -> Enhancement:
    """Add all labels that `pairs` (by type) allow."""
    blocks = ((_labels(index, rows), None) for rows, _ in row_blocks(index.label_starts[:-1]))
    return _with_added(index, blocks, pairs, None)


def _with_added(
    index: ShardIndex,
    blocks: Iterator[tuple[csr_array, np.ndarray | None]],
    pairs: dict[str, Pairs],
    thresholds: Float64[np.ndarray, " classes"] | None,
) -> Enhancement:
    num_classes = len(index.classes)
    allowed = {kind: csr_array(matrix.astype(np.int32)) for kind, matrix in pairs.items()}
    pair_counts = {kind: np.zeros((num_classes, num_classes), np.int64) for kind in pairs}
    counts = {kind: np.zeros(num_classes, np.int64) for kind in pairs}
    parts = []
    for labels, block in blocks:
        enhanced = labels
        for kind, matrix in allowed.items():
            added = _added(labels, matrix, block, thresholds)
            pair_counts[kind] += (labels.T @ added).toarray() * pairs[kind]
            counts[kind] += added.sum(axis=0)
            enhanced = enhanced + added
        enhanced.sort_indices()
        parts.append((np.diff(enhanced.indptr), enhanced.indices.astype(np.uint16)))
    lengths, values = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return Enhancement(index, index.with_labels(starts, values), thresholds, pair_counts, counts)


def class_thresholds(
    index: ShardIndex, teacher: Teacher, threshold: Threshold
) -> Float64[np.ndarray, " classes"]:
    """Statistic over the scores of the clips of each class; NaN for a class without clips."""
    carried = [block[labels.nonzero()] for labels, block in _labelled_blocks(index, teacher)]
    label_scores = np.concatenate(carried).astype(np.float64)
    order = np.argsort(index.label_values, kind="stable")
    ends = np.cumsum(index.class_counts())
    by_class = np.split(label_scores[order], ends[:-1])
    return np.array(
        [_statistic(values, threshold) if len(values) else np.nan for values in by_class]
    )


def _statistic(values: Float64[np.ndarray, " labels"], threshold: Threshold) -> float:
    if threshold == "mean":
        return float(values.mean())
    return float(np.percentile(values, 50 if threshold == "median" else threshold))


def _labelled_blocks(index: ShardIndex, teacher: Teacher) -> Iterator[tuple[csr_array, np.ndarray]]:
    """Labels of some clips as a sparse matrix, and their scores."""
    for rows, block in row_blocks(teacher.scores, teacher.rows):
        yield _labels(index, rows), block


def _labels(index: ShardIndex, rows: slice) -> csr_array:
    """Labels of some clips: 1 where a clip has a class."""
    starts = index.label_starts[rows.start : rows.stop + 1]
    values = index.label_values[starts[0] : starts[-1]]
    columns = (np.ones(len(values), np.int32), values.astype(np.int32), starts - starts[0])
    return csr_array(columns, shape=(len(starts) - 1, len(index.classes)))


def _added(
    labels: csr_array,
    allowed: csr_array,
    scores: Float[np.ndarray, "clips classes"] | None,
    thresholds: Float64[np.ndarray, " classes"] | None,
) -> csr_array:
    """1 where a clip gets a class, by one type."""
    clips, classes = (labels @ allowed).nonzero()
    wanted = labels.toarray()[clips, classes] == 0
    if scores is not None and thresholds is not None:
        wanted &= scores[clips, classes] > thresholds[classes]
    places = (clips[wanted], classes[wanted])
    return csr_array((np.ones(wanted.sum(), np.int32), places), shape=labels.shape)


def enhancement_report(done: Enhancement) -> dict[str, Any]:
    """Totals of an enhancement, and its counts per class and per pair of classes, as JSON
    values."""
    classes = done.before.classes
    before, after = done.before.class_counts(), done.after.class_counts()
    num_before, num_added = int(before.sum()), int(after.sum() - before.sum())
    more = np.diff(done.after.label_starts) > np.diff(done.before.label_starts)
    return {
        "clips": len(done.before),
        "impacted_clips": int(np.count_nonzero(more)),
        "labels_before": num_before,
        "labels_added": num_added,
        "labels_added_share": num_added / num_before,
        "impacted_classes": int(np.count_nonzero(after > before)),
        "types": {
            kind: {
                "labels_added": int(counts.sum()),
                "impacted_classes": int(np.count_nonzero(counts)),
            }
            for kind, counts in done.added.items()
        },
        "per_class": [
            {
                "mid": mid,
                "name": name,
                "before": int(before[k]),
                "after": int(after[k]),
                "added": int(after[k] - before[k]),
            }
            | _threshold(done, k)
            for k, (mid, name) in enumerate(zip(classes.mids, classes.names, strict=True))
        ],
        "pairs": [pair for kind in done.pairs for pair in _pairs(done, kind)],
    }


def _threshold(done: Enhancement, k: int) -> dict[str, float | None]:
    if done.thresholds is None:
        return {}
    return {"threshold": None if math.isnan(done.thresholds[k]) else float(done.thresholds[k])}


def _pairs(done: Enhancement, kind: str) -> list[dict[str, Any]]:
    """Pairs of classes through which labels were added, the most frequent first."""
    classes, counts = done.before.classes, done.pairs[kind]
    found = sorted(np.argwhere(counts).tolist(), key=lambda pair: -counts[*pair])
    return [
        {
            "type": kind,
            "carried": classes.mids[k],
            "carried_name": classes.names[k],
            "added": classes.mids[c],
            "added_name": classes.names[c],
            "labels": int(counts[k, c]),
        }
        for k, c in found
    ]


def against_truth(done: Enhancement, truth: ShardIndex) -> dict[str, Any]:
    """Precision and recall of the added labels against the true ones."""
    before, after, right = (_matrix(index) for index in (done.before, done.after, truth))
    added, missing = after - before, right - right.multiply(before)
    hits = added.multiply(right)
    return {
        "missing": int(missing.sum()),
        "added": int(added.sum()),
        "right": int(hits.sum()),
        "precision": _share(hits.sum(), added.sum()),
        "recall": _share(hits.sum(), missing.sum()),
        "per_class": [
            {"mid": mid, "missing": int(m), "added": int(a), "right": int(h)}
            for mid, m, a, h in zip(
                done.before.classes.mids,
                *(matrix.sum(axis=0) for matrix in (missing, added, hits)),
                strict=True,
            )
            if m or a
        ],
    }


def _matrix(index: ShardIndex) -> csr_array:
    return _labels(index, slice(0, len(index)))


def _share(part: int | np.integer, whole: int | np.integer) -> float | None:
    return float(part / whole) if whole else None


def to_text(report: dict[str, Any]) -> str:
    """Text report: totals, then the classes and pairs with the most added labels."""
    before, clips = report["labels_before"], report["clips"]
    after = before + report["labels_added"]
    lines = [
        f"{report['labels_added']:,} labels added to {before:,} "
        f"({report['labels_added_share']:.1%}), in {report['impacted_classes']:,} of "
        f"{len(report['per_class']):,} classes and {report['impacted_clips']:,} of {clips:,} "
        f"clips: {before / clips:.2f} to {after / clips:.2f} labels a clip"
    ]
    lines += [
        f"  type {kind:<3}{part['labels_added']:>12,} in {part['impacted_classes']:,} classes"
        for kind, part in report["types"].items()
    ]
    if "truth" in report:
        lines.append(_truth_line(report["truth"]))
    empty = [r["name"] for r in report["per_class"] if r.get("threshold", 0) is None]
    if empty:
        lines.append(f"  {len(empty)} classes have no clip, so none was added: {', '.join(empty)}")
    rows = [["class", "before", "added", "after"]]
    rows[0] += ["threshold"] if "threshold" in report["per_class"][0] else []
    rows += [
        [row["name"], *(f"{row[n]:,}" for n in ("before", "added", "after")),
         *([f"{row['threshold']:.4f}"] if "threshold" in row else [])]
        for row in sorted(report["per_class"], key=lambda row: -row["added"])[:NUM_SHOWN]
        if row["added"]
    ]  # fmt: skip
    lines += ["", text_table(rows), ""]
    rows = [["carried", "added", "type", "labels"]]
    rows += [
        [pair["carried_name"], pair["added_name"], pair["type"], f"{pair['labels']:,}"]
        for pair in sorted(report["pairs"], key=lambda pair: -pair["labels"])[:NUM_SHOWN]
    ]
    lines.append(text_table(rows, "<<<>"))
    return "\n".join(lines) + "\n"


def _truth_line(truth: dict[str, Any]) -> str:
    precision, recall = (
        "none" if truth[name] is None else f"{truth[name]:.3f}" for name in ("precision", "recall")
    )
    return (
        f"  against the truth: {truth['right']:,} of {truth['added']:,} added are right "
        f"(precision {precision}), of {truth['missing']:,} missing (recall {recall})"
    )
