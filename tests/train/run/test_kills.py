"""Runs that are killed again and again end as one that was left alone."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from fuzz.tally import TALLY

from psla_wds.models.checkpoint import load_checkpoint
from psla_wds.models.epochs import epoch_checkpoints
from train.run.log import read_run

MAIN = Path(__file__).parents[3] / "train" / "main.py"
EPOCHS, STEPS_PER_EPOCH = 15, 6


def command(shards: Path, run_dir: Path, processes: int, max_restarts: int = 0) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    launcher.append(f"--max-restarts={max_restarts}")
    words = [sys.executable, *launcher, str(MAIN), "demo", "--resume"]
    words += [f"--index={shards}:train", f"--eval-index={shards}:eval", f"--run-dir={run_dir}"]
    words += [
        f"--epochs={EPOCHS}",
        "--batch-size=6",
        "--log-every-steps=1",
        "--state-every-steps=1",
    ]
    return [*words, "--features.num-frames=64", "--model.batch-norm-momentum=1.0"]


def outcome(run_dir: Path) -> tuple[list[tuple[int, float]], list[tuple[int, float]], dict]:
    """Losses of all steps, mAP of all epochs, and the last weights."""
    log = read_run(run_dir)
    weights = load_checkpoint(max(epoch_checkpoints(run_dir).values())).weights
    losses, scores = [(r.step, r.loss) for r in log.steps], [(r.epoch, r.mAP) for r in log.epochs]
    return losses, scores, weights


def kill_while_it_runs(
    agent: subprocess.Popen, log: Path, rng: random.Random, *, spare_agent: bool = False
) -> bool:
    """Kill a random process of the run once it has got on by some records; False if it ended."""
    records = rng.randint(1, 4)
    size = log.stat().st_size if log.exists() else 0
    deadline = time.monotonic() + 120
    while not (log.exists() and log.read_bytes()[size:].count(b"\n") >= records):
        if agent.poll() is not None:
            return False
        assert time.monotonic() < deadline
        time.sleep(0.002)
    time.sleep(rng.uniform(0, 0.1))
    children = Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()
    ranks = list(map(int, children))
    os.kill(rng.choice(ranks if spare_agent else [agent.pid, *ranks]), signal.SIGKILL)
    TALLY["kills"] += 1
    return True


@pytest.fixture(scope="module")
def left_alone(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("runs") / "left alone"
    subprocess.run(command(shards, run_dir, 2), check=True, capture_output=True)
    return run_dir


def start(words: list[str]) -> subprocess.Popen:
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_twenty_kills_of_any_process_change_nothing(shards: Path, left_alone: Path, tmp_path: Path):
    killed, rng = tmp_path / "killed", random.Random(0)
    for _ in range(20):
        agent = start(command(shards, killed, 2))
        assert kill_while_it_runs(agent, killed / "log.jsonl", rng), "it ended too early"
        agent.wait(timeout=120)
    subprocess.run(command(shards, killed, 2), check=True, capture_output=True)
    losses, scores, weights = outcome(killed)
    expected_losses, expected_scores, expected_weights = outcome(left_alone)
    assert [step for step, _ in losses] == list(range(1, EPOCHS * STEPS_PER_EPOCH + 1))
    assert losses == expected_losses and scores == expected_scores
    assert all(torch.equal(weights[name], expected_weights[name]) for name in expected_weights)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_torchrun_restarts_a_killed_run_to_the_same_end(
    shards: Path, left_alone: Path, tmp_path: Path
):
    killed, rng = tmp_path / "killed", random.Random(0)
    agent = start(command(shards, killed, 2, max_restarts=3))
    for _ in range(3):
        assert kill_while_it_runs(agent, killed / "log.jsonl", rng, spare_agent=True)
    assert agent.wait(timeout=300) == 0
    assert outcome(killed)[:2] == outcome(left_alone)[:2]
