"""An exported model: a folder that holds what it did, or is refused."""

import json
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


def test_a_folder_gives_the_model_that_was_written(checkpoint: Checkpoint, folder: Path):
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    (member,) = read_model(folder)
    config = read_model_config(folder)
    assert (member.features, member.classes, member.epoch) == (FEATURES, CLASSES, 2)
    assert config.members[0].provenance == Provenance({"batch_size": 4}, "abc")
    assert config.metrics == {"mAP": 0.5, "clips": 3}
    waveform = sweep(1.5)
    found, expected = Tagger.load(folder, device="cpu"), Tagger([checkpoint], device="cpu")
    tags = found(waveform, RATE_HZ)
    np.testing.assert_array_equal(tags.frame_scores, expected(waveform, RATE_HZ).frame_scores)


def test_nothing_of_the_one_who_trained_is_told(folder: Path):
    assert "someone" not in (folder / "config.json").read_text()


@pytest.mark.slow
def test_an_ensemble_is_several_files(checkpoint: Checkpoint, tmp_path: Path):
    members = [checkpoint, tiny_checkpoint(seed=1, head="mean-pooling")]
    write_model(tmp_path, members, [Provenance()] * 2, metrics=None)
    assert {p.name for p in tmp_path.glob("*.safetensors")} == {
        "member-1.safetensors",
        "member-2.safetensors",
    }
    waveform = sweep(1.5)
    tags = Tagger.load(tmp_path, device="cpu")(waveform, RATE_HZ)
    each = [Tagger([member], device="cpu")(waveform, RATE_HZ).scores for member in members]
    assert np.abs(each[0] - each[1]).max() > 0.01
    windows = [Tagger([m], device="cpu")(waveform, RATE_HZ).window_scores for m in members]
    np.testing.assert_allclose(tags.window_scores, np.mean(windows, axis=0), atol=1e-6)


def test_weights_that_were_changed_are_refused(folder: Path):
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="or were changed"):
        read_model(folder)
    path.write_bytes(content[:-4])
    with pytest.raises(CheckpointError, match="not those that config"):
        read_model(folder)
    path.unlink()
    with pytest.raises(CheckpointError, match="here: none"):
        read_model(folder)


def changed_config(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    "values",
    [
        {"library_name": "transformers"},
        {"format_version": 2},
        {"members": []},
        {"mids": ["/a", "/a"], "names": ["a", "b"]},
        {"mids": [], "names": []},
        {"names": ["a"]},
        {"features": {"num_frames": 0}},
        {"what": 1},
    ],
    ids=lambda values: ", ".join(values),
)
def test_a_config_that_is_none_of_ours_is_refused(folder: Path, values: dict):
    changed_config(folder, **values)
    with pytest.raises(CheckpointError, match="no exported model"):
        read_model(folder)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "model.pt", "member-0.x"])
def test_no_file_outside_the_folder_is_named(folder: Path, name: str):
    members = json.loads((folder / "config.json").read_text())["members"]
    changed_config(folder, members=[members[0] | {"file": name}])
    with pytest.raises(CheckpointError, match="no exported model: file"):
        read_model(folder)


@pytest.mark.slow
def test_weights_of_another_network_are_refused_before_they_take_memory(
    checkpoint: Checkpoint, tmp_path: Path
):
    other = replace(checkpoint, model=replace(checkpoint.model, backbone="efficientnet-b7"))
    write_model(tmp_path, [other], [Provenance()], metrics=None)
    with pytest.raises(CheckpointError, match="do not fit the model"):
        Tagger.load(tmp_path)


@pytest.mark.parametrize(
    "features",
    [{"num_frames": 2**40}, {"num_mels": 2**28}, {"window_ms": 1e9}, {"num_frames": 2**18}],
)
def test_features_that_claim_much_memory_are_refused(checkpoint: Checkpoint, features: dict):
    claimed = replace(checkpoint, features=FeatureConfig(**features))
    with pytest.raises(CheckpointError, match="numbers at once"):
        WaveformModel([claimed])


def test_tensors_that_share_memory_are_written_one_by_one(checkpoint: Checkpoint, tmp_path: Path):
    shared = torch.zeros(2, 4)
    member = replace(checkpoint, weights={"a": shared[0], "b": shared[1], "c": shared.T})
    write_model(tmp_path, [member], [Provenance()], metrics=None)
    loaded = load_file(tmp_path / "model.safetensors")
    assert {name: tuple(t.shape) for name, t in loaded.items()} == {
        "a": (4,),
        "b": (4,),
        "c": (4, 2),
    }
    assert (tmp_path / "model.safetensors").stat().st_size < 1_000
