"""Add labels that annotators missed, where a teacher's scores and an ontology agree (PSLA III-D).

    python -m eval.enhance P.npz --index SHARDS --ontology ontology.json --output OVERLAY

P.npz is the teacher's scores of the very clips of --index, by eval.predict. No shard is changed:
the labels stand in OVERLAY, which train/main.py and eval.predict take by --labels.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from tyro.conf import Positional, UseAppendAction, arg

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
    """The teacher's scores: a file or folder by eval.predict."""
    index: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="SHARDS[:SPLIT,...]")]
    """Shards whose labels are enhanced, as given to eval.predict."""
    ontology: Path
    """AudioSet's ontology.json, or another list of nodes with id, child_ids and restrictions."""
    output: Path
    """Folder for the overlay; it must not exist."""
    type: Literal["I", "II", "both"] = "both"
    """I: children of a class that a clip carries. II: classes above one that it carries."""
    threshold: Threshold = "mean"
    """A score must be above this statistic over the clips which carry the class: mean, median, or
    a percentile, such as 25."""
    through_abstract: bool = False
    """Go through abstract nodes such as Music genre, where the official code stops."""
    allow_empty_classes: bool = False
    """Go on where a class has no clip, and so no threshold: it is never added."""
    truth: Path | None = None
    """Complete labels (JSON lines) that the added ones are compared with."""
    export: Path | None = None
    """File to write the enhanced labels to as JSON lines, beside the overlay."""

    def __post_init__(self) -> None:
        if isinstance(self.threshold, float) and not 0 <= self.threshold <= 100:
            raise ConfigError(
                f"there is no percentile {self.threshold:g}",
                where="--threshold",
                fix="set it to mean, median, or a number from 0 to 100",
            )
        if self.output.exists():
            raise ConfigError(
                "something is there already", where=self.output, fix="choose another --output"
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
    """Write the overlay, all of it or nothing; its report."""
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
    told = disk_errors(args.output, "write the labels", then="run the command again")
    with told, atomic_folder(args.output) as folder:
        write_overlay(folder, index, done.after)
        (folder / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
        (folder / "report.txt").write_text(to_text(report))
        if args.export:
            write_label_rows(done.after, args.export)
    return report


def _pairs(args: Args, index: ShardIndex) -> dict[str, Pairs]:
    """What may go with what, by type; every class that could be added must have a threshold."""
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
        raise LabelError("no clip carries a label", where=args.index, fix="check --index")
    wanted = np.any([matrix[counts > 0].any(axis=0) for matrix in pairs.values()], axis=0)
    empty = [index.classes.names[k] for k in np.flatnonzero(wanted & (counts == 0))]
    if empty and not args.allow_empty_classes:
        raise LabelError(
            f"{len(empty)} classes that could be added have no clip, so they have no threshold: "
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
