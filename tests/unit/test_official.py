"""Checkpoints in the format of the paper's authors, against a re-statement of their code."""

import logging
from pathlib import Path

import pytest
import torch
from reference.official_model import (
    OfficialEfficientNet,
    OfficialMobileNet,
    OfficialResNet,
    publish,
    trained,
)

from psla_wds.errors import CheckpointError
from psla_wds.features.config import FeatureConfig
from psla_wds.labels.class_list import ClassList
from psla_wds.models.checkpoint import Checkpoint, load_checkpoint
from psla_wds.models.config import ModelConfig
from psla_wds.models.initial_weights import first_tagger

NUM_CLASSES = 6
TAGGERS = {
    "b0, 1 head": lambda: OfficialEfficientNet(0, NUM_CLASSES, num_heads=1),
    "b1, 1 head": lambda: OfficialEfficientNet(1, NUM_CLASSES, num_heads=1),
    "b2, mean": lambda: OfficialEfficientNet(2, NUM_CLASSES, num_heads=0),
    "b2, 4 heads": lambda: OfficialEfficientNet(2, NUM_CLASSES, num_heads=4),
    "resnet": lambda: OfficialResNet(NUM_CLASSES),
    "mobilenet": lambda: OfficialMobileNet(NUM_CLASSES),
}
EXPECTED = {
    "b0, 1 head": ("efficientnet-b0", "single-head-attention"),
    "b1, 1 head": ("efficientnet-b1", "single-head-attention"),
    "b2, mean": ("efficientnet-b2", "mean-pooling"),
    "b2, 4 heads": ("efficientnet-b2", "multi-head-attention"),
    "resnet": ("resnet-50", "single-head-attention"),
    "mobilenet": ("mobilenet-v2", "linear"),
}


def class_list(num_classes: int = NUM_CLASSES) -> ClassList:
    numbers = [str(number) for number in range(num_classes)]
    return ClassList(tuple(f"/m/{n}" for n in numbers), tuple(f"class {n}" for n in numbers))


def load(path: Path) -> Checkpoint:
    return load_checkpoint(path, classes=class_list())


@pytest.fixture(scope="module")
def log_mel() -> torch.Tensor:
    return torch.randn(3, 160, 128, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def published(
    log_mel: torch.Tensor, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, torch.Tensor]:
    """A file of EfficientNet-B0 with one head, and what the network makes of the input."""
    torch.manual_seed(0)
    model = trained(TAGGERS["b0, 1 head"](), log_mel)
    path = tmp_path_factory.mktemp("published") / "as_mdl_0.pth"
    return publish(model, path), model(log_mel).detach()


@pytest.mark.parametrize("name", TAGGERS)
@torch.no_grad()
def test_a_published_checkpoint_gives_the_scores_of_the_official_code(
    name: str, log_mel: torch.Tensor, tmp_path: Path
):
    torch.manual_seed(1)
    official = trained(TAGGERS[name](), log_mel)
    scores = official(log_mel)
    assert scores.std(dim=0).min() > 1e-3  # or agreement would show nothing
    checkpoint = load(publish(official, tmp_path / "model.pth"))
    assert (checkpoint.model.backbone, checkpoint.model.head) == EXPECTED[name]
    torch.testing.assert_close(checkpoint.build()(log_mel), scores, atol=1e-5, rtol=1e-4)


def test_files_with_and_without_the_imagenet_classifier_or_prefix_are_alike(
    published: tuple[Path, torch.Tensor], log_mel: torch.Tensor, tmp_path: Path
):
    tensors = torch.load(published[0])
    assert "module.effnet._fc.weight" in tensors
    variants = {
        "without _fc": {n: t for n, t in tensors.items() if "_fc" not in n},
        "without prefix": {n.removeprefix("module."): t for n, t in tensors.items()},
        "counters as float": {n: t.float() for n, t in tensors.items()},  # their averages
    }
    for name, variant in variants.items():
        path = tmp_path / f"{name}.pth"
        torch.save(variant, path, _use_new_zipfile_serialization=False)  # as torch 1.4 did
        torch.testing.assert_close(load(path).build()(log_mel), published[1])


def test_what_the_file_does_not_say_is_logged(
    published: tuple[Path, torch.Tensor], caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.INFO):
        checkpoint = load(published[0])
    assert checkpoint.classes == class_list()
    for part in ("efficientnet-b0", "1056 frames at 16000 Hz, mean -4.6476, std 4.5699"):
        assert part in caplog.text


def test_a_network_of_fsd50k_gets_its_3000_frames(tmp_path: Path):
    path = publish(OfficialEfficientNet(0, 200, num_heads=1), tmp_path / "fsd50k.pth")
    assert load_checkpoint(path, classes=class_list(200)).features.num_frames == 3000


@pytest.mark.parametrize(
    ("classes", "message"),
    [(class_list(7), "has 6 classes .* the class list has 7"), (None, "no class list was given")],
    ids=["another number", "none"],
)
def test_another_number_of_classes_is_refused(published, classes, message):
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(published[0], classes=classes)


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_tensors_of_no_official_network_are_refused(published, change: str, tmp_path: Path):
    tensors = dict(torch.load(published[0]))
    name = "module.effnet._conv_head.weight"
    if change == "missing":
        del tensors[name]
    elif change == "extra":
        tensors["module.effnet._conv_head.bias"] = torch.zeros(1280)
    else:
        tensors[name] = tensors[name][:-1]
    torch.save(tensors, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match="tensors of none of its networks"):
        load(tmp_path / "model.pth")


@pytest.mark.parametrize(
    "content",
    [
        {"attention.cla.weight": 3},
        {"attention.cla.weight": torch.zeros(6, 1280, 1, 1), 3: torch.zeros(1)},
        {"module.attention.cla.bias": torch.tensor(1.0)},
        {"module.model.classifier.weight": torch.zeros(())},
        {"attention.": [torch.zeros(1)]},
    ],
    ids=["number", "name", "scalar", "no trunk", "list"],
)
def test_a_file_that_only_looks_official_is_refused(content: dict, tmp_path: Path):
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(CheckpointError):
        load(tmp_path / "model.pth")


@pytest.mark.parametrize("head", ["", "cla.0.", "cla.bias"])
def test_an_official_trunk_with_half_a_head_is_refused(published, head: str, tmp_path: Path):
    """Its attention is cut away, and a piece of another head put in its place."""
    tensors = {n: t for n, t in torch.load(published[0]).items() if ".attention." not in n}
    names = {"": ["head_weight"], "cla.0.": ["cla.0.weight", "cla.0.bias"]}.get(head, [head])
    tensors |= {f"module.attention.{name}": torch.zeros(NUM_CLASSES) for name in names}
    torch.save(tensors, tmp_path / "model.pth")
    with pytest.raises(CheckpointError):
        load(tmp_path / "model.pth").build()


def test_a_published_checkpoint_is_what_training_starts_from(published, log_mel: torch.Tensor):
    config = ModelConfig(
        backbone="efficientnet-b0", head="single-head-attention", initial_weights=str(published[0])
    )
    start = first_tagger(config, class_list(), FeatureConfig(), other_features=False)
    torch.testing.assert_close(start.tagger.eval()(log_mel), published[1])
