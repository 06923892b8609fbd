"""States: the last good one is found, and saving one holds nothing up."""

import errno
import os
import threading
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from psla_wds.errors import CheckpointError, ConfigError, PslaError
from train.recipes import DEMO
from train.run.folder import RunDir
from train.run.state import StateFiles, StateWriter
from train.steps.metrics import Means


def state(step: int, weights: torch.Tensor | None = None) -> dict[str, Any]:
    tensor = torch.full((1000,), float(step)) if weights is None else weights
    means = {name: asdict(Means()) for name in ("interval", "epoch")}
    lists: dict[str, Any] = {"damaged": [], "bad_steps": []}
    content = {"step": step, "epochs_done": 0, "index_fingerprint": "f", **means, **lists}
    return content | {"learner": {"model": {"w": tensor}}}


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_the_newest_state_is_loaded(tmp_path: Path):
    files = StateFiles(tmp_path)
    assert files.load() is None
    for step in (1, 2, 3):
        files.save(state(step))
    loaded = files.load()
    assert loaded["step"] == 3 and loaded["learner"]["model"]["w"].tolist() == [3.0] * 1000
    assert {path.name for path in tmp_path.iterdir()} == {"state.pt", "state.previous.pt"}


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("damage", [flip_a_bit, cut_short, Path.unlink])
def test_the_state_before_stands_in_for_one_that_is_damaged(
    tmp_path: Path, damage, caplog: pytest.LogCaptureFixture
):
    files = StateFiles(tmp_path)
    files.save(state(1))
    files.save(state(2))
    damage(tmp_path / "state.pt")
    assert files.load()["step"] == 1
    if damage is not Path.unlink:  # a save was interrupted between its two renames
        assert "state.pt" in caplog.text and "going on from the state before it" in caplog.text
    damage(tmp_path / "state.previous.pt")
    if damage is Path.unlink:
        assert files.load() is None
    else:
        with pytest.raises(CheckpointError, match="damaged"):
            files.load()


def test_a_state_is_saved_as_it_was_and_nobody_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    files, disk = StateFiles(tmp_path), threading.Event()
    save = StateFiles.save

    def save_slowly(files: StateFiles, content: dict[str, Any]) -> None:
        assert disk.wait(60)
        save(files, content)

    monkeypatch.setattr(StateFiles, "save", save_slowly)
    weights = torch.ones(1000)
    with StateWriter(files) as writer:
        writer.save(state(1, weights))
        weights += 1  # the next step of training
        assert not list(tmp_path.iterdir())
        disk.set()
    assert torch.equal(files.load()["learner"]["model"]["w"], torch.ones(1000))


def test_a_run_changes_its_length_if_its_rates_stay(
    tmp_path: Path,
):
    for decay in ("steps", "cosine"):
        optimizer = replace(DEMO.optimizer, decay=decay)
        run = replace(DEMO, run_dir=tmp_path / decay, optimizer=optimizer)
        with RunDir(run.run_dir) as folder:
            folder.begin(run, {})
        longer = replace(run, resume=True, epochs=7)
        if decay == "steps":
            assert RunDir(run.run_dir).find_state(longer) is None
        else:
            with pytest.raises(ConfigError, match="epochs was 6, now 7"):
                RunDir(run.run_dir).find_state(longer)


def test_a_run_killed_while_it_made_its_folder_begins_anew(tmp_path: Path):
    """As SIGKILL leaves it between writing the configuration and giving it its name."""
    run = replace(DEMO, run_dir=tmp_path / "run")
    run.run_dir.mkdir()
    (run.run_dir / "config.json.tmp").write_text('{"index": [')
    for config in (run, replace(run, resume=True)):
        assert RunDir(run.run_dir).find_state(config) is None
    with RunDir(run.run_dir) as folder:
        folder.begin(run, {})
    assert [path.name for path in run.run_dir.iterdir()] == ["config.json"]
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.tmp").touch()
    with pytest.raises(ConfigError, match="the run folder is not empty"):
        RunDir(other).find_state(replace(run, run_dir=other, resume=True))


def test_a_rename_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: Any) -> None:
        raise OSError(5, "Input/output error")

    run = replace(DEMO, run_dir=tmp_path / "run")
    with monkeypatch.context() as patch, RunDir(run.run_dir) as folder:
        patch.setattr(Path, "rename", fail)
        with pytest.raises(PslaError, match="cannot write the run folder: Input/output error"):
            folder.begin(run, {})
    assert not list(run.run_dir.iterdir())
    assert RunDir(run.run_dir).find_state(replace(run, resume=True)) is None


@pytest.mark.parametrize("name", ["replace", "fsync"])
def test_a_state_that_cannot_be_renamed_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    def fail(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    files = StateFiles(tmp_path)
    files.save(state(1))
    with monkeypatch.context() as patch:
        patch.setattr(os, name, fail)
        with pytest.raises(PslaError, match="Input/output error"):
            files.save(state(2))
    assert files.load()["step"] == 1
    (tmp_path / "state.previous.pt").unlink(missing_ok=True)
    (tmp_path / "state.previous.pt").mkdir()
    with pytest.raises(PslaError, match="cannot save the state"):
        files.save(state(3))
