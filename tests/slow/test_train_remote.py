"""A run on shards behind a URL, stopped and resumed, is the run on the disk."""

import signal
from pathlib import Path

import pytest
from services.store_server import serving
from training_runs import arguments, num_logged, same_weights, start, wait_until

from train.main import parse
from train.start import train


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_on_a_store_that_fails_stops_and_resumes(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    train(parse(arguments(shards, tmp_path / "local")))
    run_dir, stage = tmp_path / "remote", tmp_path / "stage"
    with serving(shards) as store:
        store.fault = lambda path, number: ("503", "truncated", None)[number % 3]
        words = arguments(store.url(), run_dir, f"--stage={stage}")
        process = start(store.url(), run_dir, f"--stage={stage}")
        wait_until(lambda: num_logged(run_dir) >= 2, process)
        process.send_signal(signal.SIGTERM)
        errors = process.communicate(timeout=120)[1]
        assert process.returncode == 128 + signal.SIGTERM, errors
        assert "trying again" in errors and "0 of 4 shards are staged at the start" in errors
        train(parse([*words, "--resume"]))
    assert sorted(copy.name for copy in stage.rglob("*.tar")) == [
        f"shard-{number:06d}.tar" for number in range(4)
    ]
    assert same_weights(run_dir, tmp_path / "local")
