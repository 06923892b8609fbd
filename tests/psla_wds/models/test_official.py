"""Checkpoints in the format of the paper's authors, against a re-statement of their code."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY_CLASSES, assert_user_error, run_command
from reference.official_model import (
    OfficialEfficientNet,
    OfficialMobileNet,
    OfficialResNet,
    publish,
    trained,
)

from psla_wds import LoaderConfig, ReaderConfig, evaluation_batches, open_indexes
from psla_wds.errors import CheckpointError
from psla_wds.evaluation.scores import Scores
from psla_wds.labels.class_list import ClassList
from psla_wds.models.checkpoint import Checkpoint, load_checkpoint

NUM_CLASSES = 6
TAGGERS = {
    "b0, 1 head": lambda: OfficialEfficientNet(0, NUM_CLASSES, num_heads=1),
    "b1, mean": lambda: OfficialEfficientNet(1, NUM_CLASSES, num_heads=0),
    "b2, 4 heads": lambda: OfficialEfficientNet(2, NUM_CLASSES, num_heads=4),
    "resnet": lambda: OfficialResNet(NUM_CLASSES),
    "mobilenet": lambda: OfficialMobileNet(NUM_CLASSES),
}
EXPECTED = {
    "b0, 1 head": ("efficientnet-b0", "single-head-attention"),
    "b1, mean": ("efficientnet-b1", "mean-pooling"),
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
def test_scores_are_those_of_the_official_code(name: str, log_mel: torch.Tensor, tmp_path: Path):
    torch.manual_seed(1)
    official = trained(TAGGERS[name](), log_mel)
    scores = official(log_mel)
    assert scores.std(dim=0).min() > 1e-3  # or agreement would show nothing
    checkpoint = load(publish(official, tmp_path / "model.pth"))
    assert (checkpoint.model.backbone, checkpoint.model.head) == EXPECTED[name]
    torch.testing.assert_close(checkpoint.build()(log_mel), scores, atol=1e-5, rtol=1e-4)


def test_files_without_classifier_or_prefix_are_alike(
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


@pytest.mark.parametrize(
    ("classes", "message"),
    [(class_list(7), "has 6 classes .* the class list has 7"), (None, "no class list was given")],
    ids=["another number", "none"],
)
def test_another_number_of_classes_is_refused(published, classes, message):
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(published[0], classes=classes)


@pytest.mark.parametrize("head", ["", "cla.0.", "cla.bias"])
def test_a_trunk_with_half_a_head_is_refused(published, head: str, tmp_path: Path):
    """Its attention is cut away, and a piece of another head put in its place."""
    tensors = {n: t for n, t in torch.load(published[0]).items() if ".attention." not in n}
    names = {"": ["head_weight"], "cla.0.": ["cla.0.weight", "cla.0.bias"]}.get(head, [head])
    tensors |= {f"module.attention.{name}": torch.zeros(NUM_CLASSES) for name in names}
    torch.save(tensors, tmp_path / "model.pth")
    with pytest.raises(CheckpointError):
        load(tmp_path / "model.pth").build()


def test_the_command_scores_shards_with_a_published_checkpoint(shards: Path, tmp_path: Path):
    config = LoaderConfig(reader=ReaderConfig(decode_threads=1), device="cpu")
    with evaluation_batches(
        open_indexes([f"{shards}:eval"]), batch_size=12, config=config
    ) as batches:
        (log_mel,) = (batch.log_mel for batch in batches)
    torch.manual_seed(0)
    official = trained(OfficialEfficientNet(0, len(TINY_CLASSES), num_heads=1), log_mel)
    path, output = publish(official, tmp_path / "audio_model_wa.pth"), tmp_path / "p.npz"
    done = run_command("eval.predict", path, f"--index={shards}:eval", f"--output={output}")
    assert "1056 frames at 16000 Hz, mean -4.6476, std 4.5699" in done.stderr
    scores = Scores.load(output)
    with torch.no_grad():
        expected = official(log_mel).numpy()
    assert scores.names == TINY_CLASSES and expected.std(axis=0).min() > 1e-3
    np.testing.assert_allclose(scores.scores, expected, atol=1e-4)
    other = publish(OfficialEfficientNet(0, 527, num_heads=1), tmp_path / "as_mdl_0.pth")
    done = run_command("eval.predict", other, f"--index={shards}", "--output=p.npz", check=False)
    assert_user_error(done, "has 527 classes", f"the class list has {len(TINY_CLASSES)}")
