"""Exported models: folders that hold what was written, or are refused."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_models import CLASSES, FEATURES, RATE_HZ, sweep, tiny_checkpoint

from psla_wds.errors import CheckpointError
from psla_wds.features.config import FeatureConfig
from psla_wds.models.checkpoint import Checkpoint
from psla_wds.models.model_folder import Provenance, read_model, read_model_config, write_model
from psla_wds.tagging.tagger import Tagger
from psla_wds.tagging.waveform_model import WaveformModel


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return tiny_checkpoint(initial_weights="/home/someone/weights.pth")


@pytest.fixture
def folder(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    provenance = Provenance({"batch_size": 4}, "abc")
    write_model(tmp_path, [checkpoint], [provenance], metrics={"mAP": 0.5, "clips": 3})
    return tmp_path


def test_folder_gives_the_model_that_was_written(checkpoint: Checkpoint, folder: Path):
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert "someone" not in (folder / "config.json").read_text()
    (member,) = read_model(folder)
    config = read_model_config(folder)
    assert (member.features, member.classes, member.epoch) == (FEATURES, CLASSES, 2)
    assert config.members[0].provenance == Provenance({"batch_size": 4}, "abc")
    assert config.metrics == {"mAP": 0.5, "clips": 3}
    waveform = sweep(1.5)
    found, expected = Tagger.load(folder, device="cpu"), Tagger([checkpoint], device="cpu")
    np.testing.assert_array_equal(
        found(waveform, RATE_HZ).frame_scores, expected(waveform, RATE_HZ).frame_scores
    )


def test_ensemble_gives_the_mean_scores(checkpoint: Checkpoint, tmp_path: Path):
    members = [checkpoint, tiny_checkpoint(seed=1, head="mean-pooling")]
    write_model(tmp_path, members, [Provenance()] * 2, metrics=None)
    names = {path.name for path in tmp_path.glob("*.safetensors")}
    assert names == {"member-1.safetensors", "member-2.safetensors"}
    waveform = sweep(1.5)
    tags = Tagger.load(tmp_path, device="cpu")(waveform, RATE_HZ)
    windows = [Tagger([m], device="cpu")(waveform, RATE_HZ).window_scores for m in members]
    assert np.abs(windows[0] - windows[1]).max() > 0.01
    np.testing.assert_allclose(tags.window_scores, np.mean(windows, axis=0), atol=1e-6)


def test_changed_weights_are_refused(folder: Path):
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    for changed in (content, content[:-4]):
        path.write_bytes(changed)
        with pytest.raises(CheckpointError, match=f"here: {len(changed):,} bytes.*were changed"):
            read_model(folder)
    path.unlink()
    with pytest.raises(CheckpointError, match="here: none"):
        read_model(folder)


@pytest.mark.parametrize(
    "values",
    [
        {"library_name": "transformers"},
        {"format_version": 2},
        {"members": []},
        {"mids": ["/a", "/a"], "names": ["a", "b"]},
        {"names": ["a"]},
        {"thresholds": [0.5, 0.5]},
        {"thresholds": [0.5, 0.5, float("nan")]},
        {"thresholds": 0.5},
        {"features": {"num_frames": 0}},
        {"what": 1},
        {"file": "../model.safetensors"},
        {"file": "model.pt"},
    ],
    ids=str,
)
def test_wrong_configs_are_refused(folder: Path, values: dict):
    config = json.loads((folder / "config.json").read_text())
    del config["meta_sha256"], config["sha256"]
    if "file" in values:
        values = {"members": [config["members"][0] | values]}
    (folder / "config.json").write_text(json.dumps(config | values))
    with pytest.raises(CheckpointError, match="not an exported model"):
        read_model(folder)


@pytest.mark.parametrize("old, new", [("low_hz", 200.0), ("mids", None), ("epoch", 9)])
def test_a_changed_setting_is_found_by_its_sum(
    checkpoint: Checkpoint, tmp_path: Path, old: str, new: object
):
    write_model(tmp_path, [checkpoint], [Provenance()], metrics=None)
    config = json.loads((tmp_path / "config.json").read_text())
    place = {"low_hz": config["features"], "epoch": config["members"][0]}.get(old, config)
    place[old] = new or place[old][::-1]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"config\.json has changed"):
        read_model(tmp_path)
    del config["meta_sha256"], config["sha256"]  # as older versions wrote it
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_model(tmp_path)


def test_two_members_of_one_file_are_refused(checkpoint: Checkpoint, tmp_path: Path):
    write_model(tmp_path, [checkpoint], [Provenance()], metrics=None)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["meta_sha256"], config["sha256"]
    config["members"] *= 100
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="two members have one file"):
        read_model(tmp_path)


@pytest.mark.parametrize("features", [{"num_frames": 60_000}, {"window_ms": 300.0}], ids=str)
def test_features_that_claim_much_memory_are_refused(checkpoint: Checkpoint, features: dict):
    claimed = replace(checkpoint, features=FeatureConfig(**features))
    with pytest.raises(CheckpointError, match="numbers at once"):
        WaveformModel([claimed])


def test_files_have_the_mode_of_the_umask(checkpoint: Checkpoint, tmp_path: Path):
    for umask, mode in ((0o022, 0o644), (0o027, 0o640), (0o077, 0o600)):
        before = os.umask(umask)
        try:
            folder = tmp_path / f"{umask:o}"
            folder.mkdir()
            write_model(folder, [checkpoint], [Provenance()], metrics=None)
        finally:
            os.umask(before)
        assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {mode}


def test_views_are_written_without_what_they_share(checkpoint: Checkpoint, tmp_path: Path):
    shared = torch.arange(4000.0).reshape(2, 2000)
    weights = {"a": shared[0, :4], "b": shared[1, :4], "c": shared[:, :4].T}
    write_model(tmp_path, [replace(checkpoint, weights=weights)], [Provenance()], metrics=None)
    loaded = load_file(tmp_path / "model.safetensors")
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)
    assert (tmp_path / "model.safetensors").stat().st_size < 1_000
