"""Settings: written, read again, and refused by name."""

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from psla_wds.config import check_seal, from_json, read_json, to_json, write_sealed
from psla_wds.errors import ConfigError
from psla_wds.features.config import FeatureConfig
from psla_wds.io.atomic_files import sha256_of
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
        (("epochs",), 1.5, "epochs"),
        (("seed",), "7", "seed"),
        (("wandb",), 7, "wandb"),
        (("resume",), 1, "resume"),
        (("model", "initial_weights"), "\ud800", "initial_weights"),
    ],
    ids=lambda value: ".".join(value) if isinstance(value, tuple) else ascii(value),
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
        (FeatureConfig, {"num_frames": 2**31}, "--features.num-frames to"),
        (FeatureConfig, {"num_frames": 10**6}, "--features.num-frames 1056"),
        (FeatureConfig, {"window_ms": 1e308}, "--features.window-ms to"),
        (FeatureConfig, {"num_mels": 3}, "--features.num-mels to a number that is at least 4"),
        (ModelConfig, {"num_heads": 0}, "--model.num-heads to a number that is at least 1"),
        (ModelConfig, {"num_heads": 8, "head": "mean-pooling"}, "--model.num-heads"),
        (ModelConfig, {"drop_connect_rate": 1.0}, "--model.drop-connect-rate to a number"),
        (OptimizerConfig, {"betas": (0.95, 1.0)}, "--optimizer.betas to"),
        (OptimizerConfig, {"decay_after_epochs": (10, 10)}, "--optimizer.decay-after-epochs"),
        (ReaderConfig, {"decode_threads": 0}, "--reader.decode-threads to a number that is at"),
        (SamplerConfig, {"draws_per_epoch": 0}, "--sampler.draws-per-epoch to a number"),
        (TrainConfig, {"epochs": 10**400}, "--epochs to a number that is at least 1 and at most"),
        (TrainConfig, {"seed": 10**20}, "--seed to a number that is at least 0 and at most"),
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


def sealed(folder: Path) -> Path:
    (folder / "column.npy").write_bytes(b"12345678")
    write_sealed(
        {"names": ["Hund \u00e4"], "low_hz": 20.0}, folder / "m.json", files=["column.npy"]
    )
    return folder / "m.json"


def test_each_changed_byte_of_a_sealed_folder_is_found(tmp_path: Path):
    path = sealed(tmp_path)
    check_seal(path)
    for name in ("m.json", "column.npy"):
        whole = (tmp_path / name).read_bytes()
        for place in range(len(whole)):
            changed = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
            (tmp_path / name).write_bytes(changed)
            with pytest.raises(ValueError):
                check_seal(path)
        (tmp_path / name).write_bytes(whole)


def test_sums_of_files_elsewhere_are_refused(tmp_path: Path):
    path, values = tmp_path / "in" / "m.json", {"sha256": {"../x": sha256_of(Path(__file__))}}
    path.parent.mkdir()
    (tmp_path / "x").write_bytes(Path(__file__).read_bytes())
    own_sum = hashlib.sha256(json.dumps(values).encode()).hexdigest()
    path.write_text(json.dumps(values | {"meta_sha256": own_sum}))
    with pytest.raises(ValueError, match=r"\.\./x has changed"):
        check_seal(path)


def test_an_old_folder_without_sums_passes(tmp_path: Path):
    (tmp_path / "m.json").write_text("{}")
    check_seal(tmp_path / "m.json")
