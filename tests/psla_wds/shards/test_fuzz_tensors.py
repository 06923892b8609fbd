"""Changed checkpoints, states, scores and configurations: refused, or what they were."""

import io
import json
import pickle
import zipfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from fuzz.mutations import changed_bytes, changed_json, changed_npy, changed_value
from fuzz.properties import Trap, accepted, fuzz, tiers

from psla_wds.config import to_json
from psla_wds.errors import CheckpointError, ScoreError
from psla_wds.evaluation.scores import LAYOUT, Scores
from psla_wds.features.config import FeatureConfig
from psla_wds.labels.class_list import ClassList
from psla_wds.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from psla_wds.models.config import ModelConfig
from train.config import TrainConfig, read_config, read_made_with
from train.recipes import DEMO
from train.run.folder import RunDir
from train.run.folder import _tell_changes as tell_changes
from train.run.log import read_run
from train.run.state import check_types
from train.steps.metrics import Means

CLASSES = ClassList(("/t/0", "/t/1"), ("low", "high"))
CHECKPOINT = Checkpoint(
    weights={"a": torch.arange(4000.0).reshape(4, 1000), "b": torch.ones(2, dtype=torch.int64)},
    model=ModelConfig(),
    features=FeatureConfig(),
    classes=CLASSES,
    epoch=3,
)
SCORES = Scores(
    clip_ids=("a", "b", "c"),
    scores=np.linspace(0, 1, 6, dtype=np.float32).reshape(3, 2),
    targets=np.array([[1, 0], [0, 1], [1, 1]], np.uint8),
    mids=CLASSES.mids,
    names=CLASSES.names,
)
STATE = {
    "step": 3,
    "epochs_done": 1,
    "index_fingerprint": "f",
    "interval": asdict(Means()),
    "epoch": asdict(Means()),
    "damaged": ["a"],
    "bad_steps": [2],
    "learner": {"model": {"a": torch.ones(2)}, "optimizer": {}, "scaler": {}},
}


@st.composite
def rezipped(draw: st.DrawFn, archive: bytes) -> bytes:
    """A zip whose members were changed, with check sums that fit, or left out, or there twice."""
    with zipfile.ZipFile(io.BytesIO(archive)) as source:
        members = {info.filename: source.read(info) for info in source.infolist()}
    name = draw(st.sampled_from(sorted(members)))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", draw(st.sampled_from([0, zipfile.ZIP_DEFLATED]))) as target:
        for other, content in members.items():
            if other != name:
                target.writestr(other, content)
        form = draw(st.sampled_from(["bytes", "bytes", "drop", "outside", "bomb"]))
        if form == "bytes":
            target.writestr(name, draw(changed_bytes(members[name])))
        elif form == "outside":
            target.writestr(f"../{name}", members[name])
        elif form == "bomb":
            target.writestr(name, members[name] + bytes(2**22))
    return buffer.getvalue()


def changed_zip(archive: bytes) -> st.SearchStrategy[bytes]:
    return rezipped(archive) | changed_bytes(archive)


@st.composite
def changed_content(draw: st.DrawFn, content: dict[str, Any]) -> bytes:
    """A file of torch's with a value somewhere of another type or size."""
    buffer = io.BytesIO()
    torch.save(draw(changed_value(content)), buffer)
    return buffer.getvalue()


def saved(content: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@tiers(60, 4000)
def test_a_changed_checkpoint_is_refused_or_holds_what_it_did(tmp_path: Path, num_cases: int):
    path = tmp_path / "c.pt"
    save_checkpoint(CHECKPOINT, path)
    archive = path.read_bytes()
    content = torch.load(path, weights_only=True)

    def changed(archive: bytes) -> None:
        path.write_bytes(archive)
        checkpoint = accepted(lambda: load_checkpoint(path))
        if checkpoint:
            accepted(checkpoint.build)

    def damaged(archive: bytes) -> None:
        path.write_bytes(archive)
        checkpoint = accepted(lambda: load_checkpoint(path))
        if checkpoint:
            assert replace(checkpoint, weights={}) == replace(CHECKPOINT, weights={})
            assert same_tensors(checkpoint.weights, CHECKPOINT.weights)

    fuzz(num_cases // 4, changed_bytes(archive), damaged)
    fuzz(num_cases // 4, rezipped(archive), changed)
    fuzz(num_cases // 2, changed_content(content), changed)


def same_tensors(some: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> bool:
    return some.keys() == others.keys() and all(torch.equal(t, others[n]) for n, t in some.items())


@tiers(40, 2000)
def test_a_changed_state_is_refused_or_taken(tmp_path: Path, num_cases: int):
    config = replace(DEMO, run_dir=tmp_path / "run", resume=True)
    run_dir = RunDir(config.run_dir)
    run_dir.begin(config, {})
    run_dir.states.save(STATE)
    path = config.run_dir / "state.pt"
    archive, content = path.read_bytes(), torch.load(path, weights_only=True)
    check_types(run_dir.find_state(config))

    def changed(archive: bytes) -> None:
        path.write_bytes(archive)
        state = accepted(lambda: run_dir.find_state(config))
        if state:
            accepted(lambda: check_types(state))

    fuzz(num_cases // 2, changed_zip(archive), changed)
    fuzz(num_cases // 2, changed_content(content), changed)


@tiers(60, 4000)
def test_changed_scores_are_refused_or_what_they_were(tmp_path: Path, num_cases: int):
    path = tmp_path / "p.npz"
    SCORES.save(path)
    archive = path.read_bytes()

    def changed(archive: bytes) -> None:
        path.write_bytes(archive)
        scores = accepted(lambda: Scores.load(path))
        if scores:
            assert np.isfinite(scores.scores).all() and scores.targets.max() <= 1
            assert scores.scores.shape == (len(set(scores.clip_ids)), len(set(scores.mids)))

    def damaged(archive: bytes) -> None:
        path.write_bytes(archive)
        scores = accepted(lambda: Scores.load(path))
        if scores:
            assert np.array_equal(scores.scores, SCORES.scores)
            assert replace(scores, scores=SCORES.scores, targets=SCORES.targets) == SCORES

    fuzz(num_cases // 2, changed_bytes(archive), damaged)
    fuzz(num_cases // 2, rezipped(archive) | changed_column(), changed)


@st.composite
def changed_column(draw: st.DrawFn) -> bytes:
    """A score file with another .npy header, or other values, in one of its arrays."""
    name = draw(st.sampled_from(["targets", "clip_ids"]))
    arrays = {n: np.asarray(getattr(SCORES, n), dtype) for n, (dtype, _) in LAYOUT.items()}
    members = {n: npy_of(array) for n, array in arrays.items()}
    members[name] = draw(changed_npy(SCORES.targets.ravel()))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as target:
        for other, content in members.items():
            target.writestr(f"{other}.npy", content)
    return buffer.getvalue()


def npy_of(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@tiers(60, 4000)
def test_a_changed_configuration_is_refused_or_makes_a_run(tmp_path: Path, num_cases: int):
    path = tmp_path / "config.json"

    def changed(text: bytes) -> None:
        path.write_bytes(text)
        config = accepted(lambda: read_config(path))
        if config:
            assert isinstance(config, TrainConfig) and to_json(config)
            tell_changes(read_made_with(path), made_with, path)

    made_with = {"sources": "abc", "versions": {"torch": "2.11"}, "processes": 2, "gpu": None}
    content = to_json(DEMO) | {"made_with": made_with}
    fuzz(num_cases, changed_json(json.dumps(content).encode()), changed)


@tiers(40, 2000)
def test_a_changed_log_is_refused_or_read(tmp_path: Path, num_cases: int):
    record = {"event": "step", "step": 1, "epoch": 1, "loss": 0.5, "learning_rate": 1e-3}
    text = json.dumps(record | {"clips_per_s": 3.0, "data_wait": 0.1}).encode()
    (tmp_path / "config.json").write_text("{}")

    def changed(line: bytes) -> None:
        (tmp_path / "log.jsonl").write_bytes(line + b"\n" + text + b"\n")
        accepted(lambda: read_run(tmp_path))

    fuzz(num_cases, changed_json(text), changed)


def test_a_checkpoint_that_would_run_code_does_not(tmp_path: Path):
    canary = tmp_path / "canary"
    for name, content in {
        "zip.pt": saved({"format_version": 1, "weights": Trap(canary)}),
        "plain.pt": pickle.dumps({"weights": Trap(canary)}),
        "state.pt": saved({"learner": [Trap(canary)]}),
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match="could run code"):
            load_checkpoint(tmp_path / name)
    assert not canary.exists()


def test_scores_that_would_run_code_do_not(tmp_path: Path):
    canary = tmp_path / "canary"
    arrays = {n: np.asarray(getattr(SCORES, n), dtype) for n, (dtype, _) in LAYOUT.items()}
    np.savez(tmp_path / "p.npz", **arrays | {"mids": np.array([Trap(canary)] * 2, object)})
    with pytest.raises(ScoreError, match="Python objects"):
        Scores.load(tmp_path / "p.npz")
    assert not canary.exists()
