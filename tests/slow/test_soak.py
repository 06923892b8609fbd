"""Two thousand steps through all that goes wrong at once end as those of a run left alone."""

import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from services.store_server import Fault, serving

from psla_wds.models.checkpoint import load_checkpoint
from psla_wds.models.epochs import epoch_checkpoints
from psla_wds.shards.index_files import open_indexes
from train.run.log import read_run

EPOCHS, STEPS_PER_EPOCH, BATCH = 11, 182, 2
STEPS = EPOCHS * STEPS_PER_EPOCH
KILLS = 8
KILLED_UNTIL = STEPS // 2
"""From here on the process is left alone, and what it takes is watched."""
DAMAGED = (5, 17, 30)
"""Rows of the training clips."""


def command(where: object, run_dir: Path) -> list[str]:
    """Small clips and a small batch: a step takes some 40 ms on one core."""
    words = [sys.executable, "-m", "train.main", "demo", "--resume", f"--run-dir={run_dir}"]
    words += [f"--index={where}:train", f"--eval-index={where}:eval", f"--epochs={EPOCHS}"]
    words += [f"--batch-size={BATCH}", f"--sampler.draws-per-epoch={BATCH * STEPS_PER_EPOCH}"]
    words += ["--log-every-steps=1", "--state-every-steps=50"]
    words += ["--features.num-frames=32", "--features.num-mels=32", "--augment.time-mask=4"]
    words += ["--model.backbone=mobilenet-v2", "--model.drop-connect-rate=None"]
    return [*words, "--reader.max-damaged=3", "--reader.decode-threads=1"]


def damage(shards: Path) -> list[str]:
    """Overwrite some clips; their ids."""
    index = open_indexes([f"{shards}:train"])
    for row in DAMAGED:
        with index.shards[index.shard[row]].open("r+b") as tar:
            tar.seek(index.offset[row] + 100)
            tar.write(b"damage")
    return [index.clip_id(row) for row in DAMAGED]


def faults(rng: random.Random) -> object:
    """One request in fifty fails, in a way of real stores; and a third of them are slow."""

    def fault(path: str, _: int) -> Fault | None:
        if not path.endswith(".tar"):
            return None
        if rng.random() < 0.02:
            return rng.choice(["503", "429", "reset", "truncated"])
        return "slow" if rng.random() < 0.3 else None

    return fault


@dataclass
class Taken:
    """What a process takes, at each of many moments."""

    rss_mib: list[float] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)

    def note(self, pid: int) -> None:
        status = Path(f"/proc/{pid}/status").read_text()
        numbers = dict(line.split(":", 1) for line in status.splitlines())
        self.rss_mib.append(int(numbers["VmRSS"].split()[0]) / 1024)
        self.threads.append(int(numbers["Threads"]))
        self.files.append(len(os.listdir(f"/proc/{pid}/fd")))


def steps_logged(run_dir: Path) -> int:
    """The step of the last record."""
    log = run_dir / "log.jsonl"
    lines = log.read_bytes().splitlines() if log.exists() else []
    return max((json.loads(line)["step"] for line in lines[-3:-1]), default=0)


def run_until(step: int, words: list[str], run_dir: Path, taken: Taken) -> subprocess.Popen[bytes]:
    """The process of a run, once it has logged a step, or has ended."""
    with (run_dir.parent / "errors.txt").open("ab") as errors:
        process = subprocess.Popen(words, stdout=errors, stderr=errors)
    deadline = time.monotonic() + 600
    while process.poll() is None and steps_logged(run_dir) < step:
        assert time.monotonic() < deadline
        time.sleep(0.2)
        if step > KILLED_UNTIL and process.poll() is None:
            taken.note(process.pid)
    return process


def last_weights(run_dir: Path) -> dict[str, torch.Tensor]:
    checkpoints = epoch_checkpoints(run_dir)
    assert sorted(checkpoints) == list(range(1, EPOCHS + 1))
    return load_checkpoint(checkpoints[EPOCHS]).weights


def growth(values: list[float]) -> float:
    """Of the last quarter over the second: the first one fills caches."""
    quarter = len(values) // 4
    return statistics.median(values[-quarter:]) - statistics.median(values[quarter : 2 * quarter])


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_kills_faults_and_damage_do_not_change_a_long_run(shards: Path, tmp_path: Path):
    rng, copied = random.Random(0), shutil.copytree(shards, tmp_path / "shards")
    damaged = damage(copied)
    alone, run_dir, taken = tmp_path / "alone", tmp_path / "disturbed", Taken()
    subprocess.run(command(copied, alone), check=True, capture_output=True)
    with serving(copied) as store:
        store.latency_s, store.fault = 0.005, faults(rng)
        words = command(store.url(), run_dir)
        for step in sorted(rng.sample(range(20, KILLED_UNTIL), KILLS)):
            process = run_until(step, words, run_dir, taken)
            assert process.poll() is None, (tmp_path / "errors.txt").read_text()[-3000:]
            time.sleep(rng.uniform(0, 0.1))
            process.send_signal(signal.SIGKILL)
            process.wait()
        process = run_until(STEPS, words, run_dir, taken)
        assert process.wait(timeout=120) == 0, (tmp_path / "errors.txt").read_text()[-3000:]

    log, expected = read_run(run_dir), read_run(alone)
    assert [record.step for record in log.steps] == list(range(1, STEPS + 1))
    assert [(r.step, r.loss) for r in log.steps] == [(r.step, r.loss) for r in expected.steps]
    records = [json.loads(line) for line in (run_dir / "log.jsonl").open()]
    assert {r["clip_id"] for r in records if r["event"] == "damaged"} == set(damaged)
    weights, undisturbed = last_weights(run_dir), last_weights(alone)
    assert all(torch.equal(weights[name], undisturbed[name]) for name in undisturbed)

    print(f"RSS {taken.rss_mib[0]:.0f}..{taken.rss_mib[-1]:.0f} MiB, {len(taken.rss_mib)} looks,",
          f"{set(taken.files)} files, {set(taken.threads)} threads")  # fmt: skip
    assert len(taken.rss_mib) > 40
    assert growth(taken.rss_mib) < 20
    assert growth(taken.files) < 8 and growth(taken.threads) < 8
