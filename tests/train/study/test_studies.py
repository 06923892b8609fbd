"""The studies at toy size: as a user starts one, and all of them to their tables."""

import importlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from conftest import assert_user_error, run_command
from label_overlays import write_ontology

from psla_wds import cli
from psla_wds.commands import MODULES
from psla_wds.errors import PslaError
from train.study.__main__ import main
from train.study.paper import STUDIES, data_sets

NOTHING = "no-mixup-no-masking-no-sampling"  # of the method, on the demo's random weights
TREE = {"/t/3": ["/t/0", "/t/1", "/t/2"]}  # all sounds are noise
TINY = (
    "--epochs=1", "--batch-size=18", "--features.num-frames=64", "--features.num-mels=32",
    "--reader.decode-threads=1", "--model.batch-norm-momentum=1.0",
)  # fmt: skip
REASONS = (
    "nothing differs here", "several of its models are the same here", "there is no --esc50-index",
    "there is no --fsd50k-index", "there are only 36 clips", "the result is nan",
)  # fmt: skip


def options(shards: Path, work: Path, data_set: str, *more: str) -> list[str]:
    data = [f"--index={shards}:train", f"--eval-index={shards}:eval", f"--work={work}"]
    drawn = "shuffle" if data_set == "balanced" else "balanced"
    return ["--base=demo", f"--set={data_set}", *data, f"--sampler.sampling={drawn}", *TINY, *more]


def in_this_process(command: Sequence[str]) -> int:
    """Run `python -m psla_wds ...` here, to not import torch for each of two hundred commands."""
    _, _, _, name, *words = command
    before, sys.argv = sys.argv, [name, *words]
    try:
        cli.run(importlib.import_module(MODULES[name]).main)
    except SystemExit as ended:
        return int(ended.code or 0)
    finally:
        sys.argv = before
    return 0


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def run(*words: str) -> None:
        monkeypatch.setattr(sys, "argv", ["study", *words])
        main(in_this_process)

    return run


def rows_of(folder: Path) -> list[dict]:
    return json.loads((folder / "table.json").read_text())["tables"][0]["rows"]


def test_mistakes_are_reported_before_anything_runs(study, shards: Path, tmp_path: Path):
    good = options(shards, tmp_path, "balanced")
    for words, message in (
        (["nothing", *good], "there is no study nothing"),
        (["mixup-rate", *options(shards, tmp_path, "full")], "no such table for full"),
        (["sampling", *good, "--sampler.sampling=balanced"], "draws each clip once an epoch"),
        (["sampling", *good, "--run-dir=x"], "names its run folders"),
        (["sampling", *good, "--sizes", "5"], "has no sizes"),
        (["sampling", *good, f"--imagenet={tmp_path}"], "no ImageNet weights of efficientnet-b0"),
        (["sampling", "--base=demo", f"--work={tmp_path}"], "needs shards to train on"),
    ):
        with pytest.raises(PslaError, match=message):
            study(*words)
    assert not list(tmp_path.iterdir())


def test_a_dry_run_prints_the_commands_and_writes_nothing(study, shards, tmp_path, capsys):
    study("ablation", *options(shards, tmp_path, "full", "--dry-run", "--seeds=2"))
    *commands, last = capsys.readouterr().out.splitlines()
    assert len(commands) == 22 and all(line.startswith("psla-wds ") for line in commands)
    assert "would run 22 commands: 8 train, 8 figures, 2 average" in last
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_study_that_was_stopped_goes_on(shards: Path, tmp_path: Path):
    words = ["pretraining", *options(shards, tmp_path, "full", "--epochs=9", "--seeds=2")]
    words.append("--state-every-steps=1")
    first, log = (tmp_path / f"runs/{NOTHING}/seed-{seed}/log.jsonl" for seed in (0, 1))
    command = [sys.executable, "-m", "train.study", *words]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as stopped:
        while not log.exists() or '"epoch", ' not in log.read_text():
            assert stopped.poll() is None
            time.sleep(0.1)
        stopped.send_signal(signal.SIGTERM)
    assert stopped.returncode == 128 + signal.SIGTERM
    before, trained = first.read_text(), log.read_text().count('"epoch", ')
    assert 0 < trained < 9
    done = run_command("train.study", *words)
    assert "table.md" in done.stdout.splitlines()[-1] and "| random weights" in done.stdout
    assert first.read_text() == before  # what was done is not done again
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert [e["epoch"] for e in events if e["event"] == "epoch"] == list(range(1, 10))
    other = run_command("train.study", *words, "--batch-size=12", check=False)
    assert_user_error(other, "begun with other settings", "batch_size was 18, now 12")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("data_set", ["balanced", "full", "fsd50k", "esc50"])
def test_every_study_comes_to_its_table(study, data_set: str, shards: Path, tmp_path: Path):
    ontology = write_ontology(tmp_path / "ontology.json", TREE, set())
    words = options(shards, tmp_path / "work", data_set, f"--ontology={ontology}")
    for name in (name for name in STUDIES if data_set in data_sets(name)):
        study(name, *words, *(("--sizes", "18", "1000") if name == "training-size" else ()))
        rows = rows_of(tmp_path / "work" / f"{name}-{data_set}")
        cells = [cell for row in rows for cell in row["cells"].values()]
        reasons = [reason for cell in cells for reason in cell["gaps"].values()]
        assert all(reason.startswith(REASONS) for reason in reasons), (name, reasons)
        assert any(cell["ours"] is not None for cell in cells), name
