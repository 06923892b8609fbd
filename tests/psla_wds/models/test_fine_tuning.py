"""Training from a trained tagger: what of it is kept, and what it is checked against."""

import hashlib
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from reference.official_model import OfficialEfficientNet, publish

from psla_wds.errors import CheckpointError, ConfigError
from psla_wds.features.config import FeatureConfig
from psla_wds.labels.class_list import ClassList
from psla_wds.models.audio_tagger import AudioTagger
from psla_wds.models.checkpoint import Checkpoint, save_checkpoint
from psla_wds.models.config import ModelConfig
from psla_wds.models.initial_weights import Start, first_tagger
from psla_wds.models.model_folder import Provenance, write_model

NETWORK = ModelConfig(
    backbone="efficientnet-b0", head="single-head-attention", initial_weights="none"
)
FEATURES = FeatureConfig(mean=-4.2677, std=4.569, num_frames=512)
CLASSES = ClassList(("/m/a", "/m/b", "/m/c"), ("A", "B", "C"))
OTHERS = ClassList(("dog", "cat"), ("dog", "cat"))


@pytest.fixture(scope="module")
def trained() -> AudioTagger:
    torch.manual_seed(3)
    return AudioTagger(NETWORK, len(CLASSES))


@pytest.fixture(scope="module")
def run_dir(trained: AudioTagger, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder, with two epochs, of which the second is `trained`."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    first = {name: torch.zeros_like(tensor) for name, tensor in trained.state_dict().items()}
    for epoch, weights in ((1, first), (2, trained.state_dict())):
        checkpoint = Checkpoint(weights, NETWORK, FEATURES, CLASSES, epoch=epoch)
        save_checkpoint(checkpoint, folder / "checkpoints" / f"epoch-00{epoch}.pt")
    return folder


def start(
    path: Path, classes: ClassList, features: FeatureConfig = FEATURES, **model: object
) -> Start:
    torch.manual_seed(0)
    config = replace(NETWORK, **{"initial_weights": str(path)} | model)
    return first_tagger(config, classes, features, other_features=False)


def exported(folder: Path, members: int, trained: AudioTagger) -> Path:
    folder.mkdir()
    checkpoint = Checkpoint(trained.state_dict(), NETWORK, FEATURES, CLASSES, epoch=2)
    write_model(folder, [checkpoint] * members, [Provenance()] * members, metrics=None)
    return folder


def test_an_exported_model_is_a_start_as_its_checkpoint_is(trained, tmp_path):
    folder = exported(tmp_path / "model", 1, trained)
    begun = start(folder, CLASSES)
    assert same(begun.tagger, trained)
    weights = folder / "model.safetensors"
    assert begun.sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    with pytest.raises(ConfigError, match="cannot start from an ensemble of 2 models"):
        start(exported(tmp_path / "two", 2, trained), CLASSES)
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match="not those that config"):
        start(folder, CLASSES)


def same(some: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(some.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_the_trunk_is_kept_and_the_head_is_new_for_other_classes(run_dir, trained, caplog):
    caplog.set_level(logging.INFO)
    begun = start(run_dir, OTHERS)
    assert same(begun.tagger.trunk, trained.trunk)
    assert begun.tagger.head.classifier.weight.shape == (2, 1280, 1, 1)
    torch.manual_seed(0)
    assert same(begun.tagger.head, AudioTagger(NETWORK, 2).head)  # as a run from nothing has it
    assert "a new head for 2 classes, in place of 3" in caplog.text
    tagger = start(run_dir, OTHERS, head="multi-head-attention", num_heads=2).tagger
    assert same(tagger.trunk, trained.trunk) and tagger.head.head_weights.shape == (2,)


def test_the_head_is_kept_for_the_same_classes_alone(run_dir, trained):
    assert same(start(run_dir, CLASSES).tagger, trained)
    renamed = ClassList(CLASSES.mids, ("Bark", "Meow", "Moo"))
    assert same(start(run_dir, renamed).tagger, trained)
    reordered = ClassList(("/m/b", "/m/a", "/m/c"), ("B", "A", "C"))
    tagger = start(run_dir, reordered).tagger
    assert same(tagger.trunk, trained.trunk) and not same(tagger.head, trained.head)


def test_a_file_of_another_hash_is_refused(run_dir: Path):
    path = run_dir / "checkpoints" / "epoch-002.pt"
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert start(path, OTHERS, initial_sha256=sha256).sha256 == sha256
    with pytest.raises(CheckpointError, match=f"SHA-256 {sha256}, and not 0+") as caught:
        start(path, OTHERS, initial_sha256="0" * 64)
    assert "--model.initial-sha256 None" in str(caught.value)


def test_other_features_are_refused_with_the_flags_that_agree(run_dir: Path):
    given = FeatureConfig(sample_rate_hz=32_000, high_hz=16_000.0)
    with pytest.raises(CheckpointError) as caught:
        start(run_dir, OTHERS, given)
    what, _, fix = str(caught.value).splitlines()
    assert what == (
        "the initial weights were trained with other --features settings: "
        "sample_rate_hz=16000 (here 32000), high_hz=8000.0 "
        "(here 16000.0), mean=-4.2677 (here -4.6476), std=4.569 (here 4.5699)"
    )
    assert fix == (
        "  fix:   set --features.sample-rate-hz 16000 --features.high-hz 8000.0 --features.mean "
        "-4.2677 --features.std 4.569, or add --other-features to go on with other ones"
    )


def test_other_features_are_allowed_on_request_frames_always(run_dir, trained):
    fewer = start(run_dir, OTHERS, replace(FEATURES, num_frames=64)).tagger
    assert same(fewer.trunk, trained.trunk)
    config = replace(NETWORK, initial_weights=str(run_dir))
    begun = first_tagger(config, OTHERS, FeatureConfig(), other_features=True)
    assert same(begun.tagger.trunk, trained.trunk)


@pytest.mark.parametrize(
    ("classes", "model", "flags"),
    [
        (OTHERS, {"backbone": "mobilenet-v2"}, "set --model.backbone efficientnet-b0, or"),
        (CLASSES, {"head": "linear"}, "set --model.head single-head-attention, or"),
    ],
    ids=["backbone", "head"],
)
def test_another_network_is_refused_with_the_flags_that_agree(classes, model, flags, run_dir):
    with pytest.raises(CheckpointError, match="other --model settings") as caught:
        start(run_dir, classes, **model)
    assert flags in str(caught.value)


def test_a_published_tagger_is_a_start(tmp_path):
    torch.manual_seed(4)
    official = OfficialEfficientNet(0, 3, num_heads=1)
    path = publish(official, tmp_path / "as_mdl.pth")
    kept = start(path, CLASSES, FeatureConfig()).tagger
    assert torch.equal(kept.head.attention.weight, official.attention.att.weight)
    new = start(path, OTHERS, FeatureConfig()).tagger
    assert new.head.attention.weight.shape[0] == 2
    for tagger in (kept, new):
        assert torch.equal(tagger.trunk._conv_head.weight, official.effnet._conv_head.weight)
    with pytest.raises(CheckpointError, match=r"mean=-4\.6476 \(here -4\.2677\)"):
        start(path, OTHERS)
