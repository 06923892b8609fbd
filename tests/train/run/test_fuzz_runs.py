"""Changed states, configurations and logs of runs: refused, or usable."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import torch
from fuzz.mutations import changed_bytes, changed_content, changed_json, rezipped
from fuzz.properties import accepted, fuzz, tiers

from psla_wds.config import to_json
from train.config import TrainConfig, read_config, read_made_with
from train.recipes import DEMO
from train.run.folder import RunDir
from train.run.folder import _tell_changes as tell_changes
from train.run.log import _drop_what_is_done_again as drop_what_is_done_again
from train.run.log import read_run
from train.steps.metrics import Means

STATE = {
    "step": 3,
    "epochs_done": 1,
    "index_fingerprint": "f",
    "interval": asdict(Means()),
    "epoch": asdict(Means()),
    "damaged": ["a"],
    "bad_steps": [2],
    "learner": {"model": {"a": torch.ones(2)}, "optimizer": {}, "scaler": {}},
}


@tiers(40, 2000)
def test_a_changed_state_is_refused_or_taken(tmp_path: Path, num_cases: int):
    config = replace(DEMO, run_dir=tmp_path / "run", resume=True)
    run_dir = RunDir(config.run_dir)
    run_dir.begin(config, {})
    run_dir.states.save(STATE)
    path = config.run_dir / "state.pt"
    archive, content = path.read_bytes(), torch.load(path, weights_only=True)
    assert run_dir.find_state(config)
    log = tmp_path / "log.jsonl"
    log.write_text('{"event": "epoch", "step": 3, "epoch": 1}\n')

    def changed(archive: bytes) -> None:
        path.write_bytes(archive)
        state = accepted(lambda: run_dir.find_state(config))
        if state:
            accepted(lambda: drop_what_is_done_again(log, state))

    fuzz(num_cases // 2, rezipped(archive) | changed_bytes(archive), changed)
    fuzz(num_cases // 2, changed_content(content), changed)


@tiers(40, 4000)
def test_a_changed_configuration_is_refused_or_makes_a_run(tmp_path: Path, num_cases: int):
    path = tmp_path / "config.json"

    def changed(text: bytes) -> None:
        path.write_bytes(text)
        config = accepted(lambda: read_config(path))
        if config:
            assert isinstance(config, TrainConfig) and to_json(config)
            tell_changes(read_made_with(path), made_with, path)

    made_with = {"sources": "abc", "versions": {"torch": "2.11"}, "processes": 2, "gpu": None}
    content = to_json(DEMO) | {"made_with": made_with}
    fuzz(num_cases, changed_json(json.dumps(content).encode()), changed)


@tiers(40, 2000)
def test_a_changed_log_is_refused_or_read(tmp_path: Path, num_cases: int):
    record = {"event": "step", "step": 1, "epoch": 1, "loss": 0.5, "learning_rate": 1e-3}
    text = json.dumps(record | {"clips_per_s": 3.0, "data_wait": 0.1}).encode()
    (tmp_path / "config.json").write_text("{}")

    def changed(line: bytes) -> None:
        (tmp_path / "log.jsonl").write_bytes(line + b"\n" + text + b"\n")
        accepted(lambda: read_run(tmp_path))
        accepted(lambda: drop_what_is_done_again(tmp_path / "log.jsonl", STATE))

    fuzz(num_cases, changed_json(text), changed)
