"""What a small model gains from learning an ensemble's scores: mAP with and without, over seeds.

    python -m benchmarks.study_distill --work data/distill

On a synthetic corpus, some models (EfficientNet-B0) are trained and score their own training
clips; the highest of their mean scores are the teacher. For each seed a small model (MobileNetV2)
is trained on the labels alone, and on labels and teacher, otherwise in the same way.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import RESULTS, write
from benchmarks.study_steps import (
    build_shards,
    check_seeds,
    each,
    once,
    show,
    summary,
    train_and_score,
)
from psla_wds import cli
from psla_wds.errors import ConfigError
from train.config import TrainConfig

STUDENT = {"model.backbone": "mobilenet-v2", "model.head": "linear"}


@dataclass(frozen=True, kw_only=True)
class Args:
    work: Path
    """Folder for corpus, shards, runs and scores."""
    clips: int = 1000
    eval_clips: int = 400
    seeds: int = 3
    """Students with and without a teacher."""
    teachers: int = 2
    """Models of the ensemble."""
    epochs: int = 6
    top_k: int = 20
    weight: float = TrainConfig.distill_weight
    """Of the teacher in the loss."""
    output: Path = RESULTS / "study_distill.json"

    def __post_init__(self) -> None:
        check_seeds(self.seeds)
        if self.teachers < 2:
            raise ConfigError("one model is no ensemble", where="--teachers", fix="set it to 2")


def study(args: Args) -> dict[str, Any]:
    """All steps of all seeds; the record for the results folder."""
    train = build_shards(args.work, "train", args.clips)
    build_shards(args.work, "eval", args.eval_clips)
    teachers = each(lambda number: _teacher(args, number), range(args.teachers))
    joint = args.work / "teacher"
    once(joint / "scores.json", "eval.ensemble", *(folder for _, folder in teachers),
         output=joint, top_k=args.top_k)  # fmt: skip
    together = args.work / "teachers.npz"
    evaluated = [folder.parent / "scores.npz" for _, folder in teachers]
    once(together, "eval.ensemble", *evaluated, output=together)
    once(args.work / "metrics.json", "eval.score", together, output=args.work)
    runs = each(lambda seed: _one_seed(args, seed, train, joint), range(args.seeds))
    return summary(
        "A small model with an ensemble for its teacher, on a synthetic corpus",
        args,
        runs,
        teachers=_mean_ap(args.work, [value for value, _ in teachers]),
    )


def _mean_ap(work: Path, single: list[float]) -> dict[str, Any]:
    ensemble = json.loads((work / "metrics.json").read_text())["mAP"]
    return {"mAP": single, "ensemble_mAP": ensemble}


def _teacher(args: Args, number: int) -> tuple[float, Path]:
    """mAP of a model of the ensemble, and its scores of the training clips."""
    run = args.work / f"teacher-{number}"
    shards = args.work / "shards"
    value = train_and_score(
        run, shards / "eval", epochs=args.epochs, seed=1000 + number, index=shards / "train"
    )
    scores = run / "top"
    once(scores / "scores.json", "eval.predict", run, index=shards / "train", output=scores,
         top_k=args.top_k)  # fmt: skip
    return value, scores


def _one_seed(args: Args, seed: int, train: Path, teacher: Path) -> dict[str, float]:
    folder, evaluation = args.work / f"seed-{seed}", args.work / "shards" / "eval"
    settings: dict[str, Any] = {"epochs": args.epochs, "seed": seed, "index": train, **STUDENT}
    taught = {"distill": teacher, "distill_weight": args.weight}
    return {
        "mAP_without": train_and_score(folder / "without", evaluation, **settings),
        "mAP_with": train_and_score(folder / "with", evaluation, **settings, **taught),
    }


def main() -> None:
    args = cli.parse(Args, __doc__, prog="python -m benchmarks.study_distill")
    content = study(args)
    show(content)
    teachers = content["teachers"]
    single = ", ".join(f"{value:.4f}" for value in teachers["mAP"])
    print(f"teachers: {single}; their ensemble {teachers['ensemble_mAP']:.4f}")
    write(content, args.output)


if __name__ == "__main__":
    cli.run(main)
