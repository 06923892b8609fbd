"""Settings: written, read again, and refused by name."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from psla_wds.config import from_json, read_json, to_json
from psla_wds.errors import ConfigError
from psla_wds.features.config import FeatureConfig
from psla_wds.models.config import ModelConfig
from psla_wds.reading.config import ReaderConfig
from psla_wds.sampling.config import AugmentConfig, SamplerConfig
from psla_wds.tagging.config import EventConfig
from train.config import OptimizerConfig, TrainConfig
from train.recipes import RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_writing_and_reading(name: str, tmp_path: Path):
    config = replace(RECIPES[name][1], index=("a:train", "b"), run_dir=Path("runs/x"))
    (tmp_path / "config.json").write_text(json.dumps(to_json(config)))
    assert read_json(TrainConfig, tmp_path / "config.json") == config


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("epoch",), 3, "epoch"),
        (("features", "num_mel"), 3, "num_mel"),
        (("batch_size",), "many", "batch_size"),
        (("sampler", "sampling"), "fair", "sampling"),
        (("augment", "mixup_rate"), 7, "--augment.mixup-rate"),
    ],
    ids=["unknown", "unknown below", "no number", "no choice", "out of range"],
)
def test_a_setting_that_is_wrong_is_named(path: tuple[str, ...], value: object, message: str):
    values = to_json(TrainConfig())
    parent = values
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    with pytest.raises(ConfigError, match=message):
        from_json(TrainConfig, values, where="config.json")


@pytest.mark.parametrize(
    ("config", "setting", "fix"),
    [
        (AugmentConfig, {"mixup_alpha": 0.0}, "--augment.mixup-alpha to a number that is above 0"),
        (AugmentConfig, {"time_roll": 0.6}, "--augment.time-roll to a number that is at least 0"),
        (EventConfig, {"threshold": math.nan}, ""),
        (EventConfig, {"threshold": 0.3, "low_threshold": 0.4}, ""),
        (FeatureConfig, {"high_hz": 9_000.0}, "--features.high-hz 8000"),
        (FeatureConfig, {"low_hz": 8_000.0}, "--features.low-hz 0"),
        (FeatureConfig, {"hop_ms": 30.0}, "--features.hop-ms 25"),
        (FeatureConfig, {"window_ms": 0.1}, "--features.window-ms 25"),
        (FeatureConfig, {"num_mels": 3}, "--features.num-mels to a number that is at least 4"),
        (ModelConfig, {"num_heads": 0}, "--model.num-heads to a number that is at least 1"),
        (ModelConfig, {"num_heads": 8, "head": "mean-pooling"}, "--model.num-heads"),
        (ModelConfig, {"drop_connect_rate": 1.0}, "--model.drop-connect-rate to a number"),
        (OptimizerConfig, {"betas": (0.95, 1.0)}, "--optimizer.betas to"),
        (OptimizerConfig, {"decay_after_epochs": (10, 10)}, "--optimizer.decay-after-epochs"),
        (ReaderConfig, {"decode_threads": 0}, "--reader.decode-threads to a number that is at"),
        (SamplerConfig, {"draws_per_epoch": 0}, "--sampler.draws-per-epoch to a number"),
        (TrainConfig, {"subset": 0}, "--subset to a number that is at least 1"),
        (TrainConfig, {"ema_decay": 1.0}, "--ema-decay to a number that is above 0 and below 1"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_setting_out_of_range_is_refused_with_its_flag(config: type, setting: dict, fix: str):
    with pytest.raises(ConfigError, match=fix):
        config(**setting)


NO_CONFIGURATIONS = ["", "[]", "3", "{", "[" * 20_000, r'{"run_dir": "\udce9"}']


@pytest.mark.parametrize("content", NO_CONFIGURATIONS, ids=len)
def test_a_file_without_a_configuration_is_refused(tmp_path: Path, content: str):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigError):
        read_json(TrainConfig, tmp_path / "config.json")
