"""Add labels that annotators missed, by a teacher and an ontology.

    psla-wds enhance P.npz --index SHARDS --ontology ontology.json --output OVERLAY
    psla-wds enhance --hierarchy --index SHARDS --ontology ontology.json --output OVERLAY

A label is added where a teacher's scores and the ontology agree (PSLA III-D). P.npz holds these
scores for the clips of --index, from psla-wds predict. --hierarchy needs no teacher: each clip gets
all classes above its own. The shards do not change: the labels go to OVERLAY, for --labels of
psla-wds train, predict and score.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from tyro.conf import Positional

from psla_wds import cli
from psla_wds.config import Within, check_ranges
from psla_wds.errors import ConfigError, LabelError
from psla_wds.evaluation.enhancement import (
    Enhancement,
    Teacher,
    Threshold,
    against_truth,
    enhance,
    enhancement_report,
    propagate,
    to_text,
)
from psla_wds.evaluation.scores import Scores
from psla_wds.labels.ontology import Ontology, Pairs, read_ontology
from psla_wds.shards.index import ShardIndex
from psla_wds.shards.index_files import open_indexes
from psla_wds.shards.overlay import apply_overlay, next_step, publish_overlay, read_label_rows


@dataclass(frozen=True, kw_only=True)
class Args:
    scores: Positional[Path | None] = None
    """Teacher scores: a file or folder from psla-wds predict."""
    index: cli.Shards
    """Shards whose labels are enhanced, the same as for psla-wds predict."""
    ontology: Path
    """AudioSet's ontology.json, or another list of nodes with id, child_ids and restrictions."""
    output: Annotated[Path, cli.New()]
    """Folder for the overlay; it must not exist."""
    hierarchy: bool = False
    """Add all classes above those of a clip, without a teacher."""
    labels: Path | None = None
    """Label overlay to start from, in place of the labels in the shards."""
    type: Literal["I", "II", "both"] = "both"
    """Labels to add. I: children of a class of the clip. II: classes above a class of the clip."""
    threshold: Annotated[Threshold, Within(0, 100)] = "mean"
    """Statistic that a score must exceed, over the clips with the class: mean, median, or a
    percentile, such as 25."""
    through_abstract: bool = False
    """Go through abstract nodes such as Music genre, where the official code stops."""
    single_parent: bool = False
    """With --hierarchy: stop at nodes with several parents, such as Growling (Dog, Cat, ...), of
    which a clip may have only one."""
    allow_empty_classes: bool = False
    """Accept classes without clips. They have no threshold, so they are never added."""
    truth: Path | None = None
    """Complete labels (JSON lines) to compare the added labels with."""
    export: Annotated[Path | None, cli.New()] = None
    """JSON lines file for the enhanced labels, in addition to the overlay."""

    def __post_init__(self) -> None:
        self._check_way()
        check_ranges(self)

    def _check_way(self) -> None:
        """Raise `ConfigError` unless there is a teacher or --hierarchy, with its own settings."""
        if self.hierarchy == (self.scores is not None):
            raise ConfigError(
                "labels are added by a teacher's scores or by --hierarchy",
                where="SCORES and --hierarchy",
                fix="give one of them: scores from psla-wds predict, or --hierarchy",
            )
        unused = {
            "--single-parent": self.single_parent and not self.hierarchy,
            "--type I": self.hierarchy and self.type == "I",
            "--threshold": self.hierarchy and self.threshold != "mean",
            "--allow-empty-classes": self.hierarchy and self.allow_empty_classes,
        }
        if any(unused.values()):
            raise ConfigError(
                f"this setting has no meaning {'with' if self.hierarchy else 'without'} "
                "--hierarchy",
                where=", ".join(name for name, is_unused in unused.items() if is_unused),
                fix="leave it out",
            )


def main() -> None:
    args = cli.parse(Args, __doc__, prog="enhance")
    report = run(args)
    print(to_text(report))
    print(next_step(args.output, args.index))


def run(args: Args) -> dict[str, Any]:
    """Write the overlay, whole or not at all, and return its report."""
    shards = open_indexes(args.index)
    index = apply_overlay(shards, args.labels) if args.labels else shards
    if not len(index.label_values):
        raise LabelError("no clip has labels", where=" ".join(args.index), fix="check --index")
    truth = read_label_rows(args.truth, index) if args.truth else None
    done, origins = _enhanced(args, index)
    report = _settings(args) | enhancement_report(done) | {"origins": origins}
    if truth:
        report["truth"] = against_truth(done, truth)
    labelled = (shards, done.after)
    publish_overlay(args.output, labelled, report, to_text(report), export=args.export)
    return report


def _enhanced(args: Args, index: ShardIndex) -> tuple[Enhancement, list[str]]:
    """The enhancement, and which weights its scores are from."""
    ontology = read_ontology(args.ontology)
    ontology.check_classes(index.classes, where=args.ontology)
    if args.scores is None:
        above = ontology.ancestor_pairs(
            index.classes,
            through_abstract=args.through_abstract,
            single_parent=args.single_parent,
        )
        return propagate(index, {"II": above}), []
    pairs = _pairs(args, index, ontology)
    scores = Scores.load(args.scores)
    scores.check_classes(index.classes.mids, where=args.scores)
    clip_ids = [index.clip_id(row) for row in range(len(index))]
    teacher = Teacher(scores.scores, scores.rows_of(clip_ids, where=args.scores))
    done = enhance(index, teacher, pairs, args.threshold)
    return done, [str(origin) for origin in scores.origins]


def _pairs(args: Args, index: ShardIndex, ontology: Ontology) -> dict[str, Pairs]:
    """Pairs of a class and a class that it may add, by type; an added class needs a threshold."""
    ways = {"I": ontology.child_pairs, "II": ontology.ancestor_pairs}
    pairs = {
        kind: way(index.classes, through_abstract=args.through_abstract)
        for kind, way in ways.items()
        if args.type in (kind, "both")
    }
    counts = index.class_counts()
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
        "scores": str(args.scores) if args.scores else None,
        "index": list(args.index),
        "labels": str(args.labels) if args.labels else None,
        "ontology": str(args.ontology),
        "hierarchy": args.hierarchy,
        "type": "II" if args.hierarchy else args.type,
        "threshold": None if args.hierarchy else args.threshold,
        "through_abstract": args.through_abstract,
        "single_parent": args.single_parent,
    }


if __name__ == "__main__":
    cli.run(main)
