"""Average the scores of several models: epochs of a run, seeds, settings, any list (PSLA III-E).

    python -m eval.ensemble A.npz B.npz ... --output E.npz

Clips are matched by clip id. Prints a line of the paper's table XI: how many models, their mean
and best mAP, and the ensemble's. With --top-k it makes a teacher of them, for train/main.py
--distill: a folder of the highest mean scores of each clip.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
from tyro.conf import Positional

from eval.page import decimal
from psla_wds import cli
from psla_wds.errors import ScoreError
from psla_wds.evaluation.metrics import evaluate
from psla_wds.evaluation.score_folder import check_top_k
from psla_wds.evaluation.scores import Scores
from psla_wds.evaluation.teacher import joint_teacher
from psla_wds.progress import progress_bar


@dataclass(frozen=True)
class Args:
    scores: Positional[tuple[Path, ...]]
    """Score files of one set of clips, by eval.predict; with --top-k also those of its --top-k."""
    output: Path
    """Score file to write, .npz; with --top-k a folder."""
    top_k: int | None = None
    """Keep so many mean scores of each clip, the highest, as a teacher's."""

    def __post_init__(self) -> None:
        check_top_k(self.top_k, self.output)


@dataclass(frozen=True)
class Committee:
    """Several models, and their mean."""

    scores: Scores
    """Of the ensemble."""
    model_mAPs: tuple[float, ...]  # noqa: N815 (the field's name)

    @property
    def mAP(self) -> float:  # noqa: N802 (the field's name)
        return evaluate(self.scores.scores, self.scores.targets).mAP


def ensemble(paths: Sequence[Path]) -> Committee:
    """The mean score of every clip and class over score files, in the order of the first file."""
    check_several(paths)
    first = Scores.load(paths[0])
    total, model_maps, origins = np.zeros(first.scores.shape), [], []
    for path in progress_bar(paths, desc="models", unit="model"):
        scores = Scores.load(path).aligned(first, where=path)
        total += scores.scores
        origins.append(scores.origins)
        model_maps.append(evaluate(scores.scores, scores.targets).mAP)
    mean = (total / len(paths)).astype(np.float32)
    known = tuple(chain(*origins)) if all(origins) else ()
    return Committee(replace(first, scores=mean, origins=known), tuple(model_maps))


def check_several(paths: Sequence[Path]) -> None:
    if len(paths) < 2:
        raise ScoreError(
            f"an ensemble has two models at least, and here is {len(paths)}",
            where=" ".join(map(str, paths)),
            fix="name more score files",
        )


def table(committee: Committee) -> str:
    """A line as in the paper's table XI."""
    maps = committee.model_mAPs
    values = (sum(maps) / len(maps), max(maps), committee.mAP)
    return (
        f"{'models':>8}{'average':>10}{'best':>10}{'ensemble':>10}   mAP\n"
        f"{len(maps):>8}{''.join(f'{decimal(value, 4):>10}' for value in values)}"
    )


def main() -> None:
    args = cli.parse(Args, __doc__, prog="python -m eval.ensemble")
    if args.top_k is not None:
        check_several(args.scores)
        num_clips = joint_teacher(args.scores, args.output, args.top_k)
        print(
            f"wrote the {args.top_k} highest mean scores of {len(args.scores)} models for "
            f"{num_clips:,} clips to {args.output}; next: torchrun train/main.py RECIPE "
            f"--index SHARDS --distill {args.output}"
        )
        return
    committee = ensemble(args.scores)
    committee.scores.save(args.output)
    print(table(committee))
    print(f"wrote {args.output}; next: python -m eval.score {args.output} --output DIR")


if __name__ == "__main__":
    cli.run(main)
