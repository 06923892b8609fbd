"""Settings that follow from the clips: frames, batches, epochs and warm-up."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from run_folders import write_run

from psla_wds.config import to_json
from psla_wds.features.config import FeatureConfig
from psla_wds.shards.index import ShardIndex
from psla_wds.shards.index_files import open_indexes
from train.config import TrainConfig, given_settings
from train.fit import fitted
from train.main import main
from train.recipes import DEMO, FINE_TUNE


@pytest.fixture(scope="module")
def index(shards: Path) -> ShardIndex:
    return open_indexes([f"{shards}:train"])


def clips(
    monkeypatch: pytest.MonkeyPatch, index: ShardIndex, seconds: float, number: int = 36
) -> None:
    """Let all runs have so many clips of that length."""
    rows = np.arange(number) % len(index)
    many = replace(
        index.select(rows, "many"), num_samples=np.full(number, round(16_000 * seconds), np.int64)
    )
    monkeypatch.setattr("train.fit.open_training_index", lambda config: many)


def chosen(config: TrainConfig, *given: str) -> dict[str, int]:
    found = fitted(replace(config, index=("shards",)), set(given))
    assert found.fit == "off"
    return {
        "frames": found.features.num_frames,
        "mask": found.augment.time_mask,
        "batch": found.batch_size,
        "epochs": found.epochs,
        "warm-up": found.optimizer.warmup_steps,
    }


@pytest.mark.parametrize(
    ("seconds", "number", "expected"),
    [
        (5, 128, {"frames": 512, "mask": 32, "batch": 16, "epochs": 60, "warm-up": 40}),
        (1, 36, {"frames": 128, "mask": 8, "batch": 8, "epochs": 60, "warm-up": 24}),
        (5, 10_000, {"frames": 512, "mask": 32, "batch": 16, "epochs": 2, "warm-up": 40}),
        (60, 1000, {"frames": 1056, "mask": 66, "batch": 16, "epochs": 3, "warm-up": 18}),
    ],
)
def test_a_run_of_minutes_is_fitted_to_its_clips(
    monkeypatch, index: ShardIndex, seconds: float, number: int, expected: dict[str, int]
):
    clips(monkeypatch, index, seconds, number)
    assert chosen(replace(DEMO, fit="minutes")) == expected


def test_the_window_is_at_most_the_papers_for_any_hop(monkeypatch, index: ShardIndex):
    clips(monkeypatch, index, 60)
    features = FeatureConfig(hop_ms=20.0)
    assert chosen(replace(DEMO, fit="minutes", features=features))["frames"] == 528


def test_what_is_given_stays_and_the_rest_follows_it(monkeypatch, index: ShardIndex):
    clips(monkeypatch, index, 5, 128)
    assert FINE_TUNE.fit == "clips"
    found = chosen(FINE_TUNE)
    assert found == {"frames": 512, "mask": 93, "batch": 16, "epochs": 20, "warm-up": 16}
    found = chosen(replace(FINE_TUNE, epochs=5), "epochs", "features.num_frames")
    assert found == {"frames": 1056, "mask": 192, "batch": 16, "epochs": 5, "warm-up": 4}
    fewer = replace(FINE_TUNE, features=FeatureConfig(num_frames=264))
    assert chosen(fewer, "features.num_frames")["mask"] == 48  # of the recipe's 192 for 1,056
    assert chosen(fewer, "features.num_frames", "augment.time_mask")["mask"] == 192
    config = replace(FINE_TUNE, index=("shards",), fit="off")
    assert fitted(config, set()) is config


def test_a_resumed_run_keeps_what_it_began_with(tmp_path: Path, monkeypatch, index: ShardIndex):
    clips(monkeypatch, index, 5, 128)
    begun = fitted(replace(DEMO, index=("shards",), fit="minutes"), set())
    run = write_run(tmp_path / "run", [], **to_json(begun))
    clips(monkeypatch, index, 1, 36)
    again = replace(DEMO, fit="minutes", run_dir=run, resume=True)
    assert chosen(again)["epochs"] == 60 and chosen(again)["frames"] == 512
    assert chosen(replace(again, epochs=70), "epochs")["epochs"] == 70


def test_settings_are_given_by_either_spelling():
    words = ["demo", "--features.num-frames=64", "--epochs", "3", "--optimizer.warmup_steps", "2"]
    assert given_settings(words) == {"features.num_frames", "epochs", "optimizer.warmup_steps"}


@pytest.mark.parametrize("rank", ["0", "1"])
def test_every_process_trains_with_the_fitted_settings(shards: Path, monkeypatch, rank: str):
    trained = []
    monkeypatch.setenv("LOCAL_RANK", rank)
    monkeypatch.setattr("train.start.train", trained.append)
    words = ["train", "fine-tune", f"--index={shards}:train", "--epochs=3"]
    monkeypatch.setattr("sys.argv", words)
    main()
    (config,) = trained
    assert (config.features.num_frames, config.batch_size, config.epochs) == (96, 8, 3)
    assert config.optimizer.warmup_steps == 1 and config.fit == "off"
