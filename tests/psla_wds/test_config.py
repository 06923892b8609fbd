"""Settings: written, read again, and refused by name."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from psla_wds.config import from_json, read_json, to_json
from psla_wds.errors import ConfigError
from train.config import TrainConfig
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


@pytest.mark.parametrize("content", ["", "[]", "3", "{", "[" * 20_000], ids=len)
def test_a_file_without_a_configuration_is_refused(tmp_path: Path, content: str):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigError):
        read_json(TrainConfig, tmp_path / "config.json")
