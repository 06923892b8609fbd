"""Checkpoints: written, read, averaged, and refused where they are damaged or do not fit."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fuzz.properties import accepted

from psla_wds.errors import CheckpointError, ConfigError
from psla_wds.evaluation.weight_average import average_weights
from psla_wds.features.config import FeatureConfig
from psla_wds.labels.class_list import ClassList
from psla_wds.models.checkpoint import (
    Checkpoint,
    check_classes,
    load_checkpoint,
    save_checkpoint,
)
from psla_wds.models.config import ModelConfig
from psla_wds.models.epochs import epoch_checkpoints, epoch_path, find_checkpoint
from psla_wds.models.initial_weights import build_model

CONFIG = ModelConfig(
    backbone="efficientnet-b0", head="single-head-attention", initial_weights="none"
)
CLASSES = ClassList(("/m/a", "/m/b"), ("A", "B"))


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    torch.manual_seed(0)
    weights = build_model(CONFIG, len(CLASSES)).state_dict()
    return Checkpoint(weights, CONFIG, FeatureConfig(num_frames=256), CLASSES, epoch=3)


def test_a_checkpoint_survives_writing_and_reading(checkpoint: Checkpoint, tmp_path: Path):
    save_checkpoint(checkpoint, tmp_path / "c.pt")
    loaded = load_checkpoint(tmp_path / "c.pt")
    assert replace(loaded, weights={}) == replace(checkpoint, weights={})
    log_mel = torch.randn(1, 256, 128)
    assert torch.equal(loaded.build()(log_mel), checkpoint.build()(log_mel))
    assert [path.name for path in tmp_path.iterdir()] == ["c.pt"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        (b"garbage" * 100, "damaged"),
        ({"conv.weight": torch.zeros(3)}, "not a checkpoint of psla-wds"),
    ],
    ids=["missing", "garbage", "tensors"],
)
def test_a_file_that_is_not_a_checkpoint_is_refused(tmp_path: Path, content, message: str):
    if isinstance(content, bytes):
        (tmp_path / "c.pt").write_bytes(content)
    elif content:
        torch.save(content, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "c.pt")


def test_weights_of_another_model_are_refused(checkpoint: Checkpoint):
    other = replace(CONFIG, head="mean-pooling")
    with pytest.raises(CheckpointError, match="do not fit the model"):
        replace(checkpoint, model=other).build()


@pytest.mark.parametrize(
    "odd",
    [
        lambda t: torch.zeros(1).expand(2**28),
        lambda t: torch.zeros(1).expand(t.shape),
        lambda t: t.to(torch.int64),
        lambda t: t.to(torch.bool),
        lambda t: t.to(torch.complex64),
        lambda t: t.to_sparse(),
        lambda t: t.to("meta"),
        lambda t: "text",
        lambda t: 3.0,
        lambda t: None,
    ],
    ids=["huge", "view", "int", "bool", "complex", "sparse", "meta", "text", "number", "none"],
)
def test_weights_that_are_no_floats_of_the_file_are_refused(
    checkpoint: Checkpoint, tmp_path: Path, odd: Callable[[torch.Tensor], object]
):
    (tmp_path / "checkpoints").mkdir()
    path = tmp_path / "checkpoints" / "epoch-001.pt"
    save_checkpoint(checkpoint, path)
    content = torch.load(path, weights_only=True)
    name = max(content["weights"], key=lambda name: content["weights"][name].numel())
    content["weights"] = {n: t for n, t in content["weights"].items() if n != name} | {
        name: odd(content["weights"][name])
    }
    torch.save(content, path)
    assert accepted(lambda: load_checkpoint(path).build()) is None
    assert accepted(lambda: average_weights(tmp_path, 1, 1).build()) is None


def test_other_classes_or_another_order_are_refused():
    swapped = ClassList(("/m/b", "/m/a"), ("B", "A"))
    check_classes(CLASSES, CLASSES, where="x")
    for other in (swapped, ClassList(("/m/a",), ("A",))):
        with pytest.raises(CheckpointError, match="other classes"):
            check_classes(CLASSES, other, where="x")


@pytest.fixture(scope="module")
def run(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three epochs whose weights are 1, 2 and 6 times something."""
    folder = tmp_path_factory.mktemp("run")
    for epoch, factor in ((1, 1.0), (2, 2.0), (10, 0.0), (3, 6.0)):
        weights = {
            n: t * factor if t.is_floating_point() else t + epoch
            for n, t in checkpoint.weights.items()
        }
        path = epoch_path(folder, epoch)
        save_checkpoint(replace(checkpoint, weights=weights, epoch=epoch), path)
    return folder


@pytest.mark.parametrize(("first_twice", "factor"), [(False, 9 / 3), (True, 10 / 4)])
def test_an_average_is_the_mean_of_its_epochs(
    run: Path, checkpoint: Checkpoint, first_twice: bool, factor: float
):
    """The script of the official code counts the first epoch twice."""
    average = average_weights(run, 1, 3, first_twice=first_twice)
    assert average.epoch == 3
    for name, tensor in average.weights.items():
        before = checkpoint.weights[name]
        assert tensor.dtype == before.dtype
        if before.is_floating_point():
            torch.testing.assert_close(tensor, before * factor)
        elif not first_twice:
            assert torch.equal(tensor, before + 3)


@pytest.mark.parametrize(
    ("first", "last", "error", "message"),
    [
        (2, 5, CheckpointError, "no checkpoint of epoch 4, 5; it has 1 to 10"),
        (3, 2, ConfigError, "not a range"),
        (0, 2, ConfigError, "not a range"),
    ],
)
def test_epochs_that_are_not_there_are_named(run: Path, first: int, last: int, error, message: str):
    with pytest.raises(error, match=message):
        average_weights(run, first, last)


def test_the_checkpoint_of_a_run_is_the_last_one(run: Path, tmp_path: Path):
    assert find_checkpoint(run) == epoch_path(run, 10)
    with pytest.raises(CheckpointError, match="no checkpoint here"):
        find_checkpoint(tmp_path)
    for read in (find_checkpoint, lambda path: average_weights(path, 1, 2)):
        with pytest.raises(CheckpointError, match=f"name the run itself: {run}$"):
            read(run / "checkpoints")


def test_only_checkpoints_of_epochs_count_as_such(tmp_path: Path):
    for epoch in (2, 10, 1000):
        epoch_path(tmp_path, epoch).parent.mkdir(exist_ok=True)
        epoch_path(tmp_path, epoch).touch()
    strange = ("epoch-002 (copy).pt", "epoch-best.pt", "epoch-1e3.pt", "epoch-0002.pt",
               "epoch-9.pt", "epoch-\N{ARABIC-INDIC DIGIT ONE}23.pt", "epoch-.pt")  # fmt: skip
    for name in strange:
        (tmp_path / "checkpoints" / name).touch()
    assert list(epoch_checkpoints(tmp_path)) == [2, 10, 1000]
    assert find_checkpoint(tmp_path) == epoch_path(tmp_path, 1000)
    for epoch in (2, 10, 1000):
        epoch_path(tmp_path, epoch).unlink()
    with pytest.raises(CheckpointError, match="there is no checkpoint here"):
        find_checkpoint(tmp_path)
