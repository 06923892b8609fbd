"""A run that starts from a tagger of other classes, as a user makes, resumes and repeats it."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import TINY_CLASSES
from training_runs import config_of, final_weights

from psla_wds.errors import CheckpointError
from psla_wds.features.config import FeatureConfig
from psla_wds.labels.class_list import ClassList
from psla_wds.models.audio_tagger import AudioTagger
from psla_wds.models.checkpoint import Checkpoint, save_checkpoint
from train.main import parse
from train.recipes import DEMO
from train.start import train

CLASSES = ClassList(("/m/a", "/m/b"), ("A", "B"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tagger of two classes."""
    torch.manual_seed(5)
    weights = AudioTagger(DEMO.model, len(CLASSES)).state_dict()
    path = tmp_path_factory.mktemp("trained") / "average.pt"
    save_checkpoint(Checkpoint(weights, DEMO.model, FeatureConfig(), CLASSES, epoch=6), path)
    return path


def trunk(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    learnt = ("weight", "bias")
    return {n: t for n, t in weights.items() if n.startswith("trunk.") and n.endswith(learnt)}


def same(some: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in some.items())


def test_a_run_records_its_start_and_goes_on_without_it(
    trained: Path, shards: Path, tmp_path: Path
):
    copy = tmp_path / "start.pt"
    copy.write_bytes(trained.read_bytes())
    model = replace(DEMO.model, initial_weights=str(copy))
    optimizer = replace(DEMO.optimizer, trunk_factor=0.0)
    config = config_of(shards, tmp_path / "run", model=model, optimizer=optimizer)
    train(config)

    start, weights = torch.load(trained)["weights"], final_weights(tmp_path / "run")
    assert same(trunk(start), trunk(weights)) and len(trunk(start)) > 100
    assert weights["head.classifier.bias"].shape == (len(TINY_CLASSES),)
    recorded = json.loads((tmp_path / "run" / "config.json").read_text())["model"]
    sha256 = hashlib.sha256(trained.read_bytes()).hexdigest()
    assert (recorded["initial_weights"], recorded["initial_sha256"]) == (str(copy), sha256)

    copy.unlink()
    train(replace(config, epochs=2, resume=True))
    assert same(trunk(start), trunk(final_weights(tmp_path / "run")))
    again = json.loads((tmp_path / "run" / "config.json").read_text())
    assert again["model"]["initial_sha256"] == sha256 and again["epochs"] == 2

    other = torch.load(trained)
    other["weights"]["head.classifier.bias"] += 1
    torch.save(other, copy)
    config_json = str(tmp_path / "run" / "config.json")
    with pytest.raises(CheckpointError, match=f"and not {sha256}"):
        train(parse([config_json, f"--run-dir={tmp_path / 'again'}"]))
    assert not (tmp_path / "again").exists()
