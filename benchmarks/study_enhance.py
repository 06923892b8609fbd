"""What label enhancement is worth where the truth is known: mAP with and without, over seeds.

    python -m benchmarks.study_enhance --work data/study

Of a synthetic corpus, a known share of the labels is left out for training, and none for
evaluation. For each seed: a model is trained on what is left and scores its own training clips,
the labels are enhanced by these scores, and a second model is trained on them in the same way.
A step whose output stands is not done again.
"""

import json
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.harness import RESULTS, machine, write
from psla_wds import cli
from psla_wds.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Args:
    work: Path
    """Folder for corpus, shards, runs and scores."""
    clips: int = 1500
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
        if self.seeds < 2:
            raise ConfigError("one seed has no spread", where="--seeds", fix="set it to 3")


def study(args: Args) -> dict[str, Any]:
    """All steps of all seeds; the record for the results folder."""
    train = _shards(args, "train", args.clips, args.missing_parents, args.missing_children)
    evaluation = _shards(args, "eval", args.eval_clips, 0.0, 0.0)
    runs = [_one_seed(args, seed, train, evaluation) for seed in range(args.seeds)]
    gains = [run["mAP_with"] - run["mAP_without"] for run in runs]
    settings = {
        name: value for name, value in asdict(args).items() if name not in ("work", "output")
    }
    return {
        "title": "Label enhancement on a synthetic corpus with missing labels",
        "settings": settings,
        "runs": runs,
        "mean": {name: statistics.mean(run[name] for run in runs) for name in runs[0]},
        "gain": {"mean": statistics.mean(gains), "stdev": statistics.stdev(gains)},
        "machine": machine(),
    }


def _shards(
    args: Args, split: str, clips: int, missing_parents: float, missing_children: float
) -> Path:
    corpus, shards = args.work / "corpus" / split, args.work / "shards" / split
    _once(
        corpus / "segments.csv", "sharding.synthesize", corpus, "--families", clips=clips,
        seed=int(split == "eval"), missing_parents=missing_parents,
        missing_children=missing_children,
    )  # fmt: skip
    _once(
        shards / "index" / "meta.json", "sharding.build", "audioset", output=shards,
        segments=corpus / "segments.csv", audio_root=corpus / "audio", clips_per_shard=250,
        class_labels=corpus / "class_labels_indices.csv",
    )  # fmt: skip
    return shards


def _one_seed(args: Args, seed: int, train: Path, evaluation: Path) -> dict[str, float]:
    folder = args.work / f"seed-{seed}"
    overlay, scores = folder / "overlay", folder / "train.npz"
    without = _train_and_score(args, seed, folder / "without", evaluation, index=train)
    _once(scores, "eval.predict", folder / "without", index=train, output=scores)
    _once(
        overlay / "report.json", "eval.enhance", scores,
        *["--through-abstract"] * args.through_abstract, index=train, output=overlay,
        ontology=args.work / "corpus/train/ontology.json", type=args.type,
        threshold=args.threshold, truth=args.work / "corpus/train/truth.jsonl",
    )  # fmt: skip
    report = json.loads((overlay / "report.json").read_text())
    enhanced = _train_and_score(
        args, seed, folder / "with", evaluation, index=train, labels=overlay
    )
    return {
        "mAP_without": without,
        "mAP_with": enhanced,
        "labels_added_share": report["labels_added_share"],
        "precision": report["truth"]["precision"],
        "recall": report["truth"]["recall"],
    }


def _train_and_score(
    args: Args, seed: int, run: Path, evaluation: Path, **settings: object
) -> float:
    """mAP of the last epoch of a run."""
    scores, metrics = run / "scores.npz", run / "metrics.json"
    last = run / "checkpoints" / f"epoch-{args.epochs:03d}.pt"
    _once(
        last, "train.main", "demo", "--resume", run_dir=run, seed=seed, epochs=args.epochs,
        **settings,
    )  # fmt: skip
    _once(scores, "eval.predict", run, index=evaluation, output=scores)
    _once(metrics, "eval.score", scores, output=run)
    return json.loads(metrics.read_text())["mAP"]


def _once(result: Path, module: str, *words: object, **settings: object) -> None:
    """Run a command unless its result stands; its own error is shown, and ends the study."""
    if result.exists():
        return
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    command = [sys.executable, "-m", module, *map(str, words), *flags]
    done = subprocess.run(command, stdout=subprocess.DEVNULL)
    if done.returncode:
        sys.exit(done.returncode)


def main() -> None:
    args = cli.parse(Args, __doc__, prog="python -m benchmarks.study_enhance")
    content = study(args)
    for seed, run in enumerate(content["runs"]):
        print(f"seed {seed}: " + ", ".join(f"{name} {value:.4f}" for name, value in run.items()))
    gain = content["gain"]
    print(f"gain in mAP: {gain['mean']:+.4f}, standard deviation {gain['stdev']:.4f}")
    write(content, args.output)


if __name__ == "__main__":
    cli.run(main)
