"""Compare models on the clips that all of them scored, such as two downloads of one set.

    python -m eval.compare A.npz B.npz ...

Clips are lost from web data over time, so evaluation sets of two groups differ. Prints the mAP of
each model on all its clips and on the common ones, and how alike the models' classes rank.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tyro.conf import Positional

from eval.correlations import correlate
from eval.ensemble import aligned
from eval.metrics import Metrics, evaluate
from eval.report import decimal, without_nan
from eval.scores import Scores
from psla_wds import cli
from psla_wds.errors import ScoreError
from psla_wds.files import atomic_open


@dataclass(frozen=True)
class Args:
    scores: Positional[tuple[Path, ...]]
    """Score files of models with the same classes."""
    output: Path | None = None
    """JSON file to write the comparison to."""


def compare(paths: Sequence[Path]) -> dict[str, Any]:
    """What each model reaches on its clips and on the common ones; correlations of class AP."""
    if len(paths) < 2:
        raise ScoreError("there is nothing to compare", where=paths, fix="name two score files")
    models = [Scores.load(path) for path in paths]
    common = set.intersection(*(set(scores.clip_ids) for scores in models))
    if not common:
        raise ScoreError(
            "no clip is in all of them",
            where=" ".join(map(str, paths)),
            fix="compare scores of one evaluation set",
        )
    first = _only(models[0], common)
    metrics = [
        _metrics(aligned(_only(scores, common), first, where=path))
        for scores, path in zip(models, paths, strict=True)
    ]
    rows = zip(paths, models, metrics, strict=True)
    return {
        "common_clips": len(common),
        "models": [
            without_nan(
                {
                    "scores": str(path),
                    "clips": len(scores),
                    "mAP": _metrics(scores).mAP,
                    "mAP_common": on_common.mAP,
                }
            )
            for path, scores, on_common in rows
        ],
        "class_AP_correlation": [
            without_nan(asdict(correlate(metrics[0].average_precision, other.average_precision)))
            for other in metrics[1:]
        ],
    }


def _metrics(scores: Scores) -> Metrics:
    return evaluate(scores.scores, scores.targets)


def _only(scores: Scores, clip_ids: set[str]) -> Scores:
    rows = np.flatnonzero([clip_id in clip_ids for clip_id in scores.clip_ids])
    return replace(
        scores,
        clip_ids=tuple(scores.clip_ids[row] for row in rows),
        scores=scores.scores[rows],
        targets=scores.targets[rows],
    )


def to_text(found: dict[str, Any]) -> str:
    lines = [f"{'scores':<40}{'clips':>9}{'mAP':>9}{'mAP of the common':>19}"]
    lines += [
        f"{model['scores'][-38:]:<40}{model['clips']:>9,}{_number(model['mAP']):>9}"
        f"{_number(model['mAP_common']):>19}"
        for model in found["models"]
    ]
    lines.append(f"{found['common_clips']:,} clips are common to all")
    for model, c in zip(found["models"][1:], found["class_AP_correlation"], strict=True):
        lines.append(
            f"class AP of the first and of {model['scores']}: correlation "
            f"{_number(c['pearson'])}, of ranks {_number(c['spearman'])}, "
            f"{c['classes']} classes"
        )
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return decimal(float("nan") if value is None else value, 4)


def main() -> None:
    args = cli.parse(Args, __doc__, prog="python -m eval.compare")
    found = compare(args.scores)
    print(to_text(found))
    if args.output:
        with atomic_open(args.output, "w") as file:
            json.dump(found, file, indent=1)
        print(f"wrote {args.output}")


if __name__ == "__main__":
    cli.run(main)
