"""What an enhancement did: labels added in total, per class and per pair of classes."""

import math
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from psla_wds.evaluation.enhancement import Enhancement
from psla_wds.shards.index import ShardIndex

NUM_SHOWN = 15


def enhancement_report(done: Enhancement) -> dict[str, Any]:
    """The numbers, as values that JSON knows; a threshold that is not defined is null."""
    classes = done.before.classes
    before, after = done.before.class_counts(), done.after.class_counts()
    rows = zip(classes.mids, classes.names, done.thresholds.tolist(), strict=True)
    num_before, num_added = int(before.sum()), int(after.sum() - before.sum())
    return {
        "clips": len(done.before),
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
                "threshold": None if math.isnan(threshold) else threshold,
                "before": int(before[k]),
                "after": int(after[k]),
                "added": int(after[k] - before[k]),
            }
            for k, (mid, name, threshold) in enumerate(rows)
        ],
        "pairs": [pair for kind in done.pairs for pair in _pairs(done, kind)],
    }


def _pairs(done: Enhancement, kind: str) -> list[dict[str, Any]]:
    """Pairs of classes by which labels were added, the most frequent first."""
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
    """How many of the added labels are right, and how many of the missing ones were added."""
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
    values = index.label_values.astype(np.int32)
    columns = (np.ones(len(values), np.int32), values, index.label_starts)
    return csr_array(columns, shape=(len(index), len(index.classes)))


def _share(part: int | np.integer, whole: int | np.integer) -> float | None:
    return float(part / whole) if whole else None


def to_text(report: dict[str, Any]) -> str:
    """The report for people: totals, then the classes and pairs with most labels added."""
    lines = [
        f"{report['labels_added']:,} labels added to {report['labels_before']:,} "
        f"({report['labels_added_share']:.1%}), in {report['impacted_classes']:,} of "
        f"{len(report['per_class']):,} classes"
    ]
    lines += [
        f"  type {kind:<3}{part['labels_added']:>12,} in {part['impacted_classes']:,} classes"
        for kind, part in report["types"].items()
    ]
    if "truth" in report:
        lines.append(_truth_line(report["truth"]))
    empty = [row["name"] for row in report["per_class"] if row["threshold"] is None]
    if empty:
        lines.append(f"  {len(empty)} classes have no clip, so none was added: {', '.join(empty)}")
    lines += ["", f"{'class':<36}{'before':>11}{'added':>11}{'after':>11}{'threshold':>11}"]
    ranked = sorted(report["per_class"], key=lambda row: -row["added"])
    lines += [
        f"{row['name'][:34]:<36}{row['before']:>11,}{row['added']:>11,}{row['after']:>11,}"
        f"{row['threshold']:>11.4f}"
        for row in ranked[:NUM_SHOWN]
        if row["added"]
    ]
    lines += ["", f"{'carried':<34}{'added':<34}{'type':<6}{'labels':>9}"]
    pairs = sorted(report["pairs"], key=lambda pair: -pair["labels"])
    lines += [
        f"{pair['carried_name'][:32]:<34}{pair['added_name'][:32]:<34}{pair['type']:<6}"
        f"{pair['labels']:>9,}"
        for pair in pairs[:NUM_SHOWN]
    ]
    return "\n".join(lines) + "\n"


def _truth_line(truth: dict[str, Any]) -> str:
    precision, recall = (
        "none" if truth[name] is None else f"{truth[name]:.3f}" for name in ("precision", "recall")
    )
    return (
        f"  against the truth: {truth['right']:,} of {truth['added']:,} added are right "
        f"(precision {precision}), of {truth['missing']:,} missing (recall {recall})"
    )
