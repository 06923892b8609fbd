"""Average the scores of several models: epochs, seeds, settings.

    psla-wds ensemble A.npz B.npz ... --output E.npz

Any models may be averaged (PSLA III-E); clips are matched by clip id. The output is a row of the
paper's table XI: number of models, their mean and best mAP, and the mAP of the ensemble. With
--top-k it makes a teacher for psla-wds train --distill: a folder with the highest mean scores of
each clip.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Annotated

import numpy as np
from tyro.conf import Positional, arg

from psla_wds import cli
from psla_wds.config import Within
from psla_wds.errors import ScoreError
from psla_wds.evaluation.metrics import evaluate
from psla_wds.evaluation.score_folder import check_top_k
from psla_wds.evaluation.scores import Scores
from psla_wds.evaluation.teacher import joint_teacher
from psla_wds.printable import typed
from psla_wds.progress import progress_bar
from psla_wds.text_table import decimal, text_table


@dataclass(frozen=True)
class Args(cli.Overwrite):
    scores: Annotated[Positional[tuple[Path, ...]], arg(metavar="SCORES [SCORES ...]")]
    """Score files for the same clips, from psla-wds predict; with --top-k also top-k folders."""
    output: Annotated[Path, cli.New()]
    """Score file to write, .npz; with --top-k a folder."""
    top_k: Annotated[int | None, Within(1, 2**16)] = None
    """Number of highest mean scores to keep for each clip, as a teacher's."""

    def __post_init__(self) -> None:
        check_top_k(self.top_k, self.output)


def ensemble(paths: Sequence[Path]) -> tuple[Scores, list[float]]:
    """The mean score of every clip and class, in the order of the first file; each model's mAP."""
    first = Scores.load(paths[0])
    total, model_maps, origins = np.zeros(first.scores.shape), [], []
    for path in progress_bar(paths, desc="models", unit="model"):
        scores = Scores.load(path).aligned(first, where=path)
        total += scores.scores
        origins.append(scores.origins)
        model_maps.append(evaluate(scores.scores, scores.targets).mAP)
    mean = (total / len(paths)).astype(np.float32)
    known = tuple(chain(*origins)) if all(origins) else ()
    return replace(first, scores=mean, origins=known), model_maps


def table(scores: Scores, model_maps: list[float]) -> str:
    """A row of the paper's table XI."""
    mean = evaluate(scores.scores, scores.targets).mAP
    values = (sum(model_maps) / len(model_maps), max(model_maps), mean)
    head = ["models", "average mAP", "best", "ensemble"]
    return text_table([head, [str(len(model_maps)), *(decimal(v, 4) for v in values)]], ">")


def main() -> None:
    args = cli.parse(Args, __doc__, prog="ensemble")
    if len(args.scores) < 2:
        raise ScoreError(
            f"an ensemble needs at least two models, not {len(args.scores)}",
            where=" ".join(map(str, args.scores)),
            fix="name more score files",
        )
    if args.top_k is not None:
        num_clips = joint_teacher(args.scores, args.output, args.top_k)
        print(
            f"wrote the {args.top_k} highest mean scores of {len(args.scores)} models for "
            f"{num_clips:,} clips to {args.output}; next: psla-wds train RECIPE "
            f"--index SHARDS --distill {typed(args.output)}"
        )
        return
    scores, model_maps = ensemble(args.scores)
    scores.save(args.output)
    print(table(scores, model_maps))
    print(f"wrote {args.output}; next: psla-wds score {typed(args.output)} --output DIR")


if __name__ == "__main__":
    cli.run(main)
