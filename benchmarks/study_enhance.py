"""What label enhancement is worth where the truth is known: mAP with and without, over seeds.

    python -m benchmarks.study_enhance --work data/study

Of a synthetic corpus, a known share of the labels is left out for training, and none for
evaluation. For each seed: a model is trained on what is left and scores its own training clips,
the labels are enhanced by these scores, and a second model is trained on them in the same way. A
class that is left without a label is never added.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

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


@dataclass(frozen=True, kw_only=True)
class Args:
    work: Path
    """Folder for corpus, shards, runs and scores."""
    clips: int = 1000
    eval_clips: int = 400
    seeds: int = 3
    epochs: int = 6
    missing_parents: float = 0.3
    missing_children: float = 0.3
    type: Literal["I", "II", "both"] = "both"
    threshold: str = "mean"
    """As of eval.enhance."""
    through_abstract: bool = True
    output: Path = RESULTS / "study_enhance.json"

    def __post_init__(self) -> None:
        check_seeds(self.seeds)


def study(args: Args) -> dict[str, Any]:
    """All steps of all seeds; the record for the results folder."""
    build_shards(
        args.work, "train", args.clips, families=True, missing_parents=args.missing_parents,
        missing_children=args.missing_children,
    )  # fmt: skip
    build_shards(args.work, "eval", args.eval_clips, families=True)
    runs = each(lambda seed: _one_seed(args, seed), range(args.seeds))
    return summary("Label enhancement on a synthetic corpus with missing labels", args, runs)


def _one_seed(args: Args, seed: int) -> dict[str, float]:
    folder, corpus, shards = (
        args.work / name for name in (f"seed-{seed}", "corpus/train", "shards")
    )
    train, evaluation = shards / "train", shards / "eval"
    overlay, scores = folder / "overlay", folder / "train.npz"
    settings = {"epochs": args.epochs, "seed": seed, "index": train}
    without = train_and_score(folder / "without", evaluation, **settings)
    once(scores, "eval.predict", folder / "without", index=train, output=scores)
    once(
        overlay / "report.json", "eval.enhance", scores, "--allow-empty-classes",
        *["--through-abstract"] * args.through_abstract, index=train, output=overlay,
        ontology=corpus / "ontology.json", type=args.type, threshold=args.threshold,
        truth=corpus / "truth.jsonl",
    )  # fmt: skip
    report = json.loads((overlay / "report.json").read_text())
    enhanced = train_and_score(folder / "with", evaluation, labels=overlay, **settings)
    return {
        "mAP_without": without,
        "mAP_with": enhanced,
        "labels_added_share": report["labels_added_share"],
        "precision": report["truth"]["precision"],
        "recall": report["truth"]["recall"],
    }


def main() -> None:
    args = cli.parse(Args, __doc__, prog="python -m benchmarks.study_enhance")
    content = study(args)
    show(content)
    write(content, args.output)


if __name__ == "__main__":
    cli.run(main)
