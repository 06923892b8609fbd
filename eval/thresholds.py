"""Fit the score from which each class counts as present.

    psla-wds thresholds VALIDATION.npz --output T.json
    psla-wds thresholds VALIDATION.npz --precision 0.9 --validate TEST.npz --output T.json

Thresholds have the highest F1, or a given precision. They are chosen to suit the clips that they
are fitted on: --validate states what they give on others. A score at its threshold is not
a probability. Next: psla-wds export RUN --thresholds T.json --output MODEL.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from tyro.conf import Positional

from psla_wds import cli
from psla_wds.config import Within, check_ranges
from psla_wds.evaluation.scores import Scores
from psla_wds.evaluation.thresholds import (
    MIN_POSITIVES,
    Decisions,
    Fit,
    Quality,
    decide,
    f1_intervals,
    fit_thresholds,
)
from psla_wds.printable import typed
from psla_wds.text_table import decimal, text_table

FORMAT_VERSION = 1
NUM_LISTED = 20
"""Names of classes in a list on the screen."""

logger = logging.getLogger("thresholds")


@dataclass(frozen=True)
class Args(cli.Overwrite):
    scores: Positional[Path]
    """Score file (.npz) or folder of labelled clips, from psla-wds predict or ensemble."""
    output: Annotated[Path, cli.New()]
    """File to write: JSON with the threshold of each class."""
    precision: Annotated[float | None, Within(0, 1, without=(0,))] = None
    """Take the lowest threshold with at least this precision. A class for which none has it is
    never present. Default: the threshold with the highest F1."""
    min_positives: Annotated[int, Within(1, 10**9)] = MIN_POSITIVES
    """Positives that a class needs for a threshold of its own; others take that of all classes
    together. With 25, the standard error of a class's recall is at most 0.1."""
    bootstrap: Annotated[int, Within(20, 10_000)] = 200
    """Resamples of the clips for the 95 % interval of each F1."""
    validate: Path | None = None
    """Scores of other clips, to state precision, recall and F1 on them."""

    def __post_init__(self) -> None:
        check_ranges(self)


def main() -> None:
    args = cli.parse(Args, __doc__, prog="thresholds")
    # Imported here, since it takes seconds.
    from eval.pages.page import json_text, write_texts

    scores = Scores.load(args.scores)
    fit = fit_thresholds(
        scores.scores,
        scores.targets,
        scores.mids,
        precision=args.precision,
        min_positives=args.min_positives,
    )
    values = fit.thresholds.values
    decisions = {"fitted": decide(scores.scores, scores.targets, values)}
    ends = f1_intervals(scores.scores, scores.targets, values, resamples=args.bootstrap)
    if args.validate:
        others = Scores.load(args.validate)
        others.check_classes(scores.mids, where=args.validate)
        shared = len(set(scores.clip_ids).intersection(others.clip_ids))
        if shared:
            logger.warning("%d of the clips to validate on are those of the fit", shared)
        decisions["validation"] = decide(others.scores, others.targets, values)
    rows = class_rows(scores, fit, decisions, ends)
    record = {
        "format_version": FORMAT_VERSION,
        "goal": "highest F1" if args.precision is None else f"precision {args.precision:g}",
        "min_positives": args.min_positives,
        "pooled_threshold": fit.pooled,
        "origins": [str(origin) for origin in scores.origins],
        "clips": len(scores),
        **{name: {"micro": d.micro, "macro": d.macro} for name, d in decisions.items()},
        "per_class": rows,
    }
    write_texts({args.output: json_text(record)}, "thresholds")
    print(to_text(decisions, rows, args.min_positives, fit.pooled))
    print(
        f"wrote {args.output}; next: psla-wds export MODEL --thresholds {typed(args.output)} "
        "--output FOLDER"
    )


def class_rows(
    scores: Scores,
    fit: Fit,
    decisions: dict[str, Decisions],
    ends: np.ndarray,
) -> list[dict[str, Any]]:
    """What the file says of each class."""
    fitted, other = decisions["fitted"], decisions.get("validation")
    columns: dict[str, Any] = {
        "mid": np.array(scores.mids),
        "name": np.array(scores.names),
        "threshold": fit.thresholds.values,
        "pooled": fit.takes_pooled,
        **{name: getattr(fitted, name) for name in ("positives", "precision", "recall", "f1")},
        "f1_low": ends[0],
        "f1_high": ends[1],
    }
    if other:
        names = ("positives", "precision", "recall", "f1")
        columns |= {f"validation_{name}": getattr(other, name) for name in names}
    lists = [column.tolist() for column in columns.values()]
    return [dict(zip(columns, row, strict=True)) for row in zip(*lists, strict=True)]


def to_text(
    decisions: dict[str, Decisions],
    rows: Sequence[dict[str, Any]],
    min_positives: int,
    pooled: float,
) -> str:
    """Means at the thresholds, then the classes without a threshold of their own."""
    table = [["", "precision", "recall", "F1"]]
    for name, found in decisions.items():
        table.append([f"{name}, micro", *_cells(found.micro)])
        table.append([f"{name}, macro", *_cells(found.macro)])
    lines = [text_table(table)]
    few = [row["name"] for row in rows if row["pooled"]]
    never = [row["name"] for row in rows if row["threshold"] == np.inf]
    if few:
        threshold = "none" if pooled == np.inf else f"{pooled:.4f}"
        lines.append(
            f"{len(few):,} of {len(rows):,} classes have fewer than {min_positives} positives and "
            f"take the pooled threshold, {threshold}: {_listed(few)}"
        )
    if never:
        lines.append(f"{len(never):,} classes reach this precision nowhere: {_listed(never)}")
    return "\n".join(lines)


def _cells(quality: Quality) -> list[str]:
    return [decimal(value, 4) for value in (quality.precision, quality.recall, quality.f1)]


def _listed(names: Sequence[str]) -> str:
    more = f"; and {len(names) - NUM_LISTED:,} more" if len(names) > NUM_LISTED else ""
    return "; ".join(names[:NUM_LISTED]) + more


if __name__ == "__main__":
    cli.run(main)
