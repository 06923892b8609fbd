"""--dry-run: what a run would do, found out as the run would, with nothing written."""

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from training_runs import arguments, config_of
from worlds import outcomes_in_world

from psla_wds.errors import CheckpointError, PslaError
from train.main import parse
from train.run.clips import open_training_index
from train.run.state import StateFiles
from train.start import train
from train.training_data import lengths_of


def everything_below(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*")}


def printed(text: str) -> dict[str, str]:
    """Lines of a dry run, by what they are about."""
    return dict(re.split("  +", line, maxsplit=1) for line in text.splitlines() if "  " in line)


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    before = everything_below(shards)
    stage = f"--stage={tmp_path}/stage"
    rates = ["--optimizer.warmup-steps=3", "--optimizer.layer-decay=0.9"]
    words = arguments(shards, tmp_path / "run", "--dry-run", stage, *rates)
    train(parse(words))
    output = capsys.readouterr().out
    lines = printed(output)
    assert lines["clips"] == "36 in 4 shards, 4 classes"
    assert lines["evaluation"] == "12 clips"
    assert lines["draws"].startswith("36 an epoch, balanced; about ")
    assert lines["model"].startswith("efficientnet-b0, single-head-attention: 4,")
    assert lines["processes"].startswith("1 on cpu, 6 clips each; BatchNorm over each")
    assert lines["steps"] == "6 an epoch of 6 clips; 2 epochs: 12 steps"
    assert lines["learning rate"] == (
        "0.000333 in step 1 (0.15 to 0.9 of it for the trunk's layers); 0.001 at the end of epoch 1"
    )
    assert lines["first batch"].startswith("6 x 64 x 128 (clips, frames, mels), read")
    assert "lengths" not in lines  # 0.7 s, where the model takes 0.7 s
    assert lines["normalisation"].startswith("mean -4.6476, std 4.5699, which ")
    assert output.splitlines()[-1].startswith("wrote nothing")
    assert everything_below(shards) == before and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--features.num-frames=1056"], ": 94 % padding; --features.num-frames 96"),
        (["--features.num-frames=32"], "hears a random 0.3 s of each in each epoch, evaluation av"),
        (["--features.num-frames=32", "--augment.crop=start"], "% of the audio (--augment.crop"),
        (["--features.num-frames=32", "--eval-windows=1"], ", evaluation scores the first window"),
    ],
)
def test_a_run_says_where_its_clips_do_not_fit(
    shards: Path, tmp_path: Path, flags: list[str], said: str
):
    config = parse([*arguments(shards, tmp_path / "run"), *flags])
    line = lengths_of(config, open_training_index(config))
    assert line is not None and line.startswith("clips have 0.7 s (median), the model takes ")
    assert said in line


def test_a_dry_run_of_a_resumed_run_goes_on_from_its_state(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    config = config_of(shards, tmp_path / "run")
    train(config)
    before = everything_below(tmp_path)
    capsys.readouterr()
    train(replace(config, epochs=2, resume=True, dry_run=True))
    assert "12 steps, of which 6 are done" in printed(capsys.readouterr().out)["steps"]
    assert everything_below(tmp_path) == before
    with pytest.raises(PslaError, match="add --resume"):
        train(replace(config, dry_run=True))
    (tmp_path / "run" / "state.previous.pt").unlink(missing_ok=True)
    state = StateFiles(tmp_path / "run").load()
    StateFiles(tmp_path / "run").save(state | {"learner": {}})
    (tmp_path / "run" / "state.previous.pt").unlink()
    with pytest.raises(CheckpointError):
        train(replace(config, resume=True, dry_run=True))


def test_a_dry_run_finds_a_disk_that_is_too_small(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    usage = os.statvfs(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 100_000_000}))
    assert usage.f_bavail * usage.f_frsize > 100_000_000
    config = config_of(shards, tmp_path / "run")  # a checkpoint of 16 MB, and three states of 49
    with pytest.raises(PslaError, match=r"take 1\d\d MB, and 100 MB are free"):
        train(replace(config, dry_run=True))
    with pytest.raises(PslaError, match="MB are free"):
        train(config)
    assert not (tmp_path / "run").exists()


def test_a_dry_run_of_two_processes_is_reported_once(shards: Path, tmp_path: Path):
    config = config_of(shards, tmp_path / "run", dry_run=True)
    assert outcomes_in_world(2, train, config) == [("value", None)] * 2
    assert not list(tmp_path.iterdir())
    config = replace(config, batch_size=7)
    (kind, message), other = outcomes_in_world(2, train, config)
    assert kind == "error" and "7 clips cannot be shared by 2" in message and other == ("exit", 2)
