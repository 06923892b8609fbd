"""A run on shards behind a URL, stopped and resumed, is the run on the disk."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import run_command
from services.store_server import serving

from psla_wds.models.checkpoint import epoch_path, load_checkpoint

SETTINGS = ["--epochs=2", "--batch-size=6", "--log-every-steps=1", "--features.num-frames=64"]


def arguments(where: object, run_dir: Path, *more: str) -> list[str]:
    data = [f"--index={where}:train", f"--eval-index={where}:eval", f"--run-dir={run_dir}"]
    return ["demo", *data, *SETTINGS, *more]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_on_a_store_that_fails_stops_and_resumes_to_the_same_weights(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    run_command("train.main", *arguments(shards, tmp_path / "local"))
    run_dir, stage = tmp_path / "remote", tmp_path / "stage"
    with serving(shards) as store:
        store.fault = lambda path, number: ("503", "truncated", None)[number % 3]
        words = arguments(store.url(), run_dir, f"--stage={stage}")
        process = subprocess.Popen(
            [sys.executable, "-m", "train.main", *words], stderr=subprocess.PIPE, text=True
        )
        log = run_dir / "log.jsonl"
        while process.poll() is None and (not log.exists() or log.read_text().count("\n") < 2):
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        errors = process.communicate(timeout=120)[1]
        assert process.returncode == 128 + signal.SIGTERM, errors
        assert "trying again" in errors and "0 of 4 shards are staged at the start" in errors
        done = run_command("train.main", *words, "--resume")
    assert "wrote 2 epochs" in done.stdout
    assert sorted(copy.name for copy in stage.rglob("*.tar")) == [
        f"shard-{number:06d}.tar" for number in range(4)
    ]
    expected, weights = (
        load_checkpoint(epoch_path(tmp_path / run, 2)).weights for run in ("local", "remote")
    )
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
