"""Small runs of training on the shared shards, as a user starts them, and what they leave."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from conftest import run

from psla_wds.features.config import FeatureConfig
from psla_wds.models.checkpoint import load_checkpoint
from psla_wds.models.epochs import epoch_checkpoints
from psla_wds.reading.config import ReaderConfig
from train.config import TrainConfig
from train.recipes import DEMO
from train.run.log import read_run

MAIN = Path(__file__).parents[1] / "train" / "main.py"
SETTINGS = {
    "epochs": 2,
    "batch-size": 6,
    "log-every-steps": 1,
    "state-every-steps": 1,
    "features.num-frames": 64,
    # So short a run else scores all clips alike: its running statistics are not settled.
    "model.batch-norm-momentum": 1.0,
}


def arguments(shards: object, run_dir: Path, *more: str) -> list[str]:
    flags = [f"--{name}={value}" for name, value in SETTINGS.items()]
    data = [f"--index={shards}:train", f"--eval-index={shards}:eval", f"--run-dir={run_dir}"]
    return ["demo", *data, *flags, *more]


def config_of(shards: Path, run_dir: Path, **changes: object) -> TrainConfig:
    """One epoch of six steps, without evaluation."""
    config = replace(
        DEMO,
        index=(f"{shards}:train",),
        run_dir=run_dir,
        epochs=1,
        batch_size=6,
        features=FeatureConfig(num_frames=64),
        reader=ReaderConfig(decode_threads=1),
    )
    return replace(config, **changes)


def torchrun(
    processes: int, words: list[str], *, program: Path = MAIN, **options: object
) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return run([*launcher, f"--nproc-per-node={processes}", str(program), *words], **options)


def start(shards: object, run_dir: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "train.main", *arguments(shards, run_dir, *more)]
    # With as many threads as the tests' own process, since sums round by their number.
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.002)


def records(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "log.jsonl").open()]


def num_logged(run_dir: Path) -> int:
    log = run_dir / "log.jsonl"
    return log.read_text().count("\n") if log.exists() else 0


def logged_losses(run_dir: Path) -> list[tuple[int, float, float]]:
    return [(r.step, r.loss, r.learning_rate) for r in read_run(run_dir).steps]


def final_weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(max(epoch_checkpoints(run_dir).values())).weights


def same_weights(run_dir: Path, other: Path) -> bool:
    expected = final_weights(other)
    return all(torch.equal(t, expected[name]) for name, t in final_weights(run_dir).items())
