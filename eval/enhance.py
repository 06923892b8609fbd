"""Add labels that annotators missed, where a teacher's scores and an ontology agree (PSLA III-D).

    python -m eval.enhance P.npz --index SHARDS --ontology ontology.json --output OVERLAY

P.npz holds the teacher's scores for the clips of --index, from eval.predict. The shards do not
change: the labels go to OVERLAY, for --labels of train/main.py and eval.predict.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tyro.conf import Positional

from psla_wds import cli
from psla_wds.errors import ConfigError, LabelError
from psla_wds.evaluation.enhancement import (
    Teacher,
    Threshold,
    against_truth,
    enhance,
    enhancement_report,
    to_text,
)
from psla_wds.evaluation.scores import Scores
from psla_wds.io.atomic_files import atomic_folder, disk_errors
from psla_wds.labels.ontology import Pairs, read_ontology
from psla_wds.shards.index import ShardIndex
from psla_wds.shards.index_files import open_indexes
from psla_wds.shards.overlay import read_label_rows, write_label_rows, write_overlay


@dataclass(frozen=True, kw_only=True)
class Args:
    scores: Positional[Path]
    """Teacher scores: a file or folder from eval.predict."""
    index: cli.Shards
    """Shards whose labels are enhanced, the same as for eval.predict."""
    ontology: Path
    """AudioSet's ontology.json, or another list of nodes with id, child_ids and restrictions."""
    output: Path
    """Folder for the overlay; it must not exist."""
    type: Literal["I", "II", "both"] = "both"
    """Labels to add. I: children of a class of the clip. II: classes above a class of the clip."""
    threshold: Threshold = "mean"
    """Statistic that a score must exceed, over the clips with the class: mean, median, or a
    percentile, such as 25."""
    through_abstract: bool = False
    """Go through abstract nodes such as Music genre, where the official code stops."""
    allow_empty_classes: bool = False
    """Accept classes without clips. They have no threshold, so they are never added."""
    truth: Path | None = None
    """Complete labels (JSON lines) to compare the added labels with."""
    export: Path | None = None
    """JSON lines file for the enhanced labels, in addition to the overlay."""

    def __post_init__(self) -> None:
        if isinstance(self.threshold, float) and not 0 <= self.threshold <= 100:
            raise ConfigError(
                f"{self.threshold:g} is not a percentile",
                where="--threshold",
                fix="set it to mean, median, or a number from 0 to 100",
            )
        if self.output.exists():
            raise ConfigError(
                "the output exists already", where=self.output, fix="choose another --output"
            )


def main() -> None:
    args = cli.parse(Args, __doc__, prog="python -m eval.enhance")
    report = run(args)
    print(to_text(report))
    labels = " ".join(f"--index {spec}" for spec in args.index)
    print(
        f"wrote {args.output} (report.json, report.txt); next: "
        f"torchrun train/main.py RECIPE {labels} --labels {args.output}"
    )


def run(args: Args) -> dict[str, Any]:
    """Write the overlay, whole or not at all, and return its report."""
    index = open_indexes(args.index)
    pairs = _pairs(args, index)
    truth = read_label_rows(args.truth, index) if args.truth else None
    scores = Scores.load(args.scores)
    scores.check_classes(index.classes.mids, where=args.scores)
    clip_ids = [index.clip_id(row) for row in range(len(index))]
    teacher = Teacher(scores.scores, scores.rows_of(clip_ids, where=args.scores))
    done = enhance(index, teacher, pairs, args.threshold)
    report = _settings(args) | enhancement_report(done)
    report["origins"] = [str(origin) for origin in scores.origins]
    if truth:
        report["truth"] = against_truth(done, truth)
    errors = disk_errors(args.output, "write the labels", then="run the command again")
    with errors, atomic_folder(args.output) as folder:
        write_overlay(folder, index, done.after)
        (folder / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
        (folder / "report.txt").write_text(to_text(report))
        if args.export:
            write_label_rows(done.after, args.export)
    return report


def _pairs(args: Args, index: ShardIndex) -> dict[str, Pairs]:
    """Pairs of a class and a class that it may add, by type; an added class needs a threshold."""
    ontology = read_ontology(args.ontology)
    ontology.check_classes(index.classes, where=args.ontology)
    ways = {"I": ontology.child_pairs, "II": ontology.ancestor_pairs}
    pairs = {
        kind: way(index.classes, through_abstract=args.through_abstract)
        for kind, way in ways.items()
        if args.type in (kind, "both")
    }
    counts = index.class_counts()
    if not counts.any():
        raise LabelError("no clip has labels", where=args.index, fix="check --index")
    wanted = np.any([matrix[counts > 0].any(axis=0) for matrix in pairs.values()], axis=0)
    empty = [index.classes.names[k] for k in np.flatnonzero(wanted & (counts == 0))]
    if empty and not args.allow_empty_classes:
        raise LabelError(
            f"{len(empty)} classes that could be added have no clips, so they have no threshold: "
            f"{', '.join(empty[:5])}",
            where=" ".join(args.index),
            fix="add shards with such clips, or set --allow-empty-classes: they are never added",
        )
    return pairs


def _settings(args: Args) -> dict[str, Any]:
    return {
        "scores": str(args.scores),
        "index": list(args.index),
        "ontology": str(args.ontology),
        "type": args.type,
        "threshold": args.threshold,
        "through_abstract": args.through_abstract,
    }


if __name__ == "__main__":
    cli.run(main)
