"""The steps of a study: commands on a small synthetic corpus, each done once.

A step whose output stands is not done again, so a study that was stopped goes on. With two cores
two steps run at a time, in one thread each, which is faster than one step in two threads.
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.harness import machine
from psla_wds.errors import ConfigError

T = TypeVar("T")

AT_ONCE = min(2, len(os.sched_getaffinity(0)))
SMALL_RUN = {
    "features.num_frames": 128,
    "features.num_mels": 64,
    "augment.freq_mask": 4,
    "augment.time_mask": 8,
    "log_every_steps": 50,
}
"""Of the demo's recipe, a quarter of the spectrogram: what a few minutes allow."""
CLIP_S = 1.25


def once(result: Path, module: str, *words: object, **settings: object) -> None:
    """Run a command unless its result stands; its own error is shown, and ends the study."""
    if result.exists():
        return
    flags = [_flag(name, value) for name, value in settings.items()]
    command = [sys.executable, "-m", module, *map(str, words), *flags]
    done = subprocess.run(
        command, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    if done.returncode:
        raise SystemExit(done.returncode)


def _flag(name: str, value: object) -> str:
    words = f"--{name.replace('_', '-')}"
    return words if value is True else f"{words}={value}"


def each(body: Callable[[int], T], seeds: Sequence[int]) -> list[T]:
    """What `body` gives for each seed, as many at a time as there are cores for."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(body, seeds))


def build_shards(work: Path, split: str, clips: int, **labels: object) -> Path:
    """Shards of a synthetic corpus; `labels` are settings of sharding.synthesize."""
    corpus, shards = work / "corpus" / split, work / "shards" / split
    once(
        corpus / "segments.csv", "sharding.synthesize", corpus, clips=clips, clip_s=CLIP_S,
        seed=int(split == "eval"), **labels,
    )  # fmt: skip
    once(
        shards / "index" / "meta.json", "sharding.build", "audioset", output=shards,
        segments=corpus / "segments.csv", audio_root=corpus / "audio", clips_per_shard=250,
        class_labels=corpus / "class_labels_indices.csv",
    )  # fmt: skip
    return shards


def train_and_score(run: Path, evaluation: Path, *, epochs: int, **settings: object) -> float:
    """mAP of the last epoch of a small run."""
    scores, metrics = run / "scores.npz", run / "metrics.json"
    last = run / "checkpoints" / f"epoch-{epochs:03d}.pt"
    once(last, "train.main", "demo", "--resume", run_dir=run, epochs=epochs,
         **{"reader.decode_threads": 1}, **SMALL_RUN | settings)  # fmt: skip
    once(scores, "eval.predict", run, index=evaluation, output=scores)
    once(metrics, "eval.score", scores, output=run)
    return json.loads(metrics.read_text())["mAP"]


def summary(title: str, args: Any, runs: list[dict[str, float]], **more: object) -> dict[str, Any]:
    """The record of a study whose runs have `mAP_with` and `mAP_without`."""
    gains = [run["mAP_with"] - run["mAP_without"] for run in runs]
    settings = {
        name: value for name, value in asdict(args).items() if name not in ("work", "output")
    }
    return {
        "title": title,
        "settings": settings,
        "small_run": SMALL_RUN | {"clip_s": CLIP_S},
        "runs": runs,
        "mean": {name: statistics.mean(run[name] for run in runs) for name in runs[0]},
        "gain": {"mean": statistics.mean(gains), "stdev": statistics.stdev(gains)},
        **more,
        "machine": machine(),
    }


def show(content: dict[str, Any]) -> None:
    """Print what each seed reached, and the gain."""
    for seed, run in enumerate(content["runs"]):
        print(f"seed {seed}: " + ", ".join(f"{name} {value:.4f}" for name, value in run.items()))
    gain = content["gain"]
    print(f"gain in mAP: {gain['mean']:+.4f}, standard deviation {gain['stdev']:.4f}")


def check_seeds(seeds: int) -> None:
    if seeds < 2:
        raise ConfigError("one seed has no spread", where="--seeds", fix="set it to 3")
