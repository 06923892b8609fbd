"""The official code's habits, each against a statement of it that shares nothing with ours."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import run_command
from reference.signals import encode, plain_batch, white_noise

from psla_wds.features.config import FeatureConfig
from psla_wds.features.dali import FrontEnd
from psla_wds.models.backbones import build_trunk
from psla_wds.models.checkpoint import (
    epoch_checkpoints,
    epoch_path,
    load_checkpoint,
    save_checkpoint,
)
from psla_wds.models.initial_weights import build_model
from psla_wds.reading.config import ReaderConfig
from train.config import TrainConfig
from train.recipes import DEMO
from train.start import train


def trained(shards: Path, run_dir: Path, warmup: str) -> TrainConfig:
    """A run of six steps: fewer than the 50 that the official code does at a rate of 0."""
    config = replace(
        DEMO,
        index=(f"{shards}:train",),
        run_dir=run_dir,
        epochs=1,
        batch_size=6,
        log_every_steps=1,
        features=FeatureConfig(num_frames=64),
        reader=ReaderConfig(decode_threads=1),
    )
    config = replace(config, optimizer=replace(config.optimizer, warmup=warmup))
    train(config)
    return config


def log_of(run_dir: Path) -> list[tuple[float, float]]:
    """Loss and rate of each step."""
    records = [json.loads(line) for line in (run_dir / "log.jsonl").open()]
    return [(r["loss"], r["learning_rate"]) for r in records if r["event"] == "step"]


def weights_of(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(epoch_checkpoints(run_dir)[1]).weights


@pytest.fixture(scope="module")
def official(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    return trained(shards, tmp_path_factory.mktemp("runs") / "official", "stepped")


def test_the_first_steps_have_no_rate_but_move_the_statistics(official: TrainConfig):
    torch.manual_seed(official.seed)
    initial = build_model(official.model, 4).state_dict()
    found = weights_of(official.run_dir)
    parameters = [name for name in initial if ".running_" not in name and "num_batches" not in name]
    assert all(torch.equal(found[name], initial[name]) for name in parameters)
    assert not torch.equal(found["trunk._bn0.running_mean"], initial["trunk._bn0.running_mean"])
    assert [rate for _, rate in log_of(official.run_dir)] == [0.0] * 6


def test_a_compat_run_is_the_same_when_it_is_run_again(
    official: TrainConfig, shards: Path, tmp_path: Path
):
    again = trained(shards, tmp_path / "again", "stepped")
    plain = trained(shards, tmp_path / "plain", "linear")
    assert log_of(official.run_dir) == log_of(again.run_dir)
    first, second, other = (weights_of(c.run_dir) for c in (official, again, plain))
    assert all(torch.equal(second[name], tensor) for name, tensor in first.items())
    assert not all(torch.equal(other[name], tensor) for name, tensor in first.items())


def test_the_average_counts_its_first_epoch_twice(official: TrainConfig, tmp_path: Path):
    run_dir, one = tmp_path / "run", load_checkpoint(epoch_checkpoints(official.run_dir)[1])
    values = {2: 1.0, 3: 5.0, 4: -3.0}
    for epoch, value in values.items():
        weights = {
            n: torch.full_like(t, value) if t.is_floating_point() else t
            for n, t in one.weights.items()
        }
        epoch_path(run_dir, epoch).parent.mkdir(parents=True, exist_ok=True)
        save_checkpoint(replace(one, weights=weights, epoch=epoch), epoch_path(run_dir, epoch))
    for compat, expected in (("psla", (1 + 1 + 5 - 3) / 4), ("none", (1 + 5 - 3) / 3)):
        output = tmp_path / f"{compat}.pt"
        words = ["--epochs", "2", "4", f"--compat={compat}", f"--output={output}"]
        run_command("eval.average", str(run_dir), *words)
        average = load_checkpoint(output).weights["trunk._bn0.weight"]
        torch.testing.assert_close(average, torch.full_like(average, expected))


def test_pad_and_masks_are_zero_before_normalisation():
    batch = plain_batch([encode(white_noise(16_000))])  # 98 frames
    batch.draws.masks[0] = [10, 20, 30, 40]
    features = FeatureConfig(num_frames=128)
    device = torch.device("cpu")
    front_end = FrontEnd(lambda _: batch, features, batch_size=1, num_threads=1, device=device)
    (log_mel,), _ = front_end.run()
    expected = torch.zeros(128, 128, dtype=torch.bool)
    expected[98:], expected[30:70], expected[:, 10:30] = True, True, True
    found = (log_mel - 4.6476 / 4.5699).abs() < 1e-5  # silence would be -2.472, the mean 0
    assert torch.equal(found, expected)


@pytest.mark.parametrize(("frames", "columns"), [(1056, 33), (3000, 94), (998, 32), (1024, 32)])
def test_padding_is_that_of_260_pixels_whatever_the_spectrogram(frames: int, columns: int):
    trunk, _ = build_trunk("efficientnet-b2", drop_connect_rate=None, batch_norm_momentum=None)
    paddings = [block._depthwise_conv.static_padding.padding for block in trunk._blocks]
    assert (paddings[5], paddings[8]) == ((2, 2, 2, 2), (1, 1, 1, 1))
    trunk.eval()
    with torch.inference_mode():
        assert trunk(torch.zeros(1, 1, 128, frames)).shape[2:] == (4, columns)
