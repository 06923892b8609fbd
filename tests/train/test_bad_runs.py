"""States and disks that a run cannot go on with: one message each, and nothing is harmed."""

import resource
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from training_runs import config_of
from worlds import outcomes_in_world

from psla_wds.errors import CheckpointError, ConfigError, PslaError
from psla_wds.runtime.distributed import World
from train.config import TrainConfig
from train.recipes import DEMO
from train.run.folder import RunDir
from train.run.log import RunLog
from train.run.state import StateFiles
from train.start import _prepare as prepare
from train.start import train


@pytest.fixture(scope="module")
def begun(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A run of one epoch, to go on with."""
    config = config_of(shards, tmp_path_factory.mktemp("runs") / "run")
    train(config)
    return replace(config, resume=True, epochs=2)


UNFIT = "does not fit this model"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["format_version"], 1, "the state has format 1"),
        (["step"], "three", "invalid step"),
        (["step"], -1, "invalid step"),
        (["step"], 2**63, "invalid step"),
        (["epochs_done"], 2**40, "invalid epochs_done"),
        (["epoch", "loss"], "low", "invalid epoch"),
        (["interval", "new"], 1.0, "invalid interval"),
        (["damaged"], [3], "invalid damaged"),
        (["learner", "model", "trunk._bn0.weight"], "w", UNFIT),
        (["learner", "optimizer", "param_groups"], 5, UNFIT),
        (["learner", "optimizer", "state", 0, "exp_avg"], torch.zeros(2), UNFIT),
    ],
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, list) else "",
)
def test_a_state_with_other_contents_is_refused(
    begun: TrainConfig, tmp_path: Path, path: list[Any], value: Any, message: str
):
    run_dir = shutil.copytree(begun.run_dir, tmp_path / "run")
    state = table = StateFiles(run_dir).load()
    for name in path[:-1]:
        table = table[name]
    table[path[-1]] = value
    torch.save({"format_version": 2} | state, run_dir / "state.pt")
    (run_dir / "state.previous.pt").unlink(missing_ok=True)
    before = (run_dir / "state.pt").read_bytes()
    with pytest.raises(CheckpointError, match=message):
        train(replace(begun, run_dir=run_dir))
    assert (run_dir / "state.pt").read_bytes() == before


def test_settings_of_the_optimizer_are_not_those_of_the_state(begun: TrainConfig, tmp_path: Path):
    run_dir = shutil.copytree(begun.run_dir, tmp_path / "run")
    state = StateFiles(run_dir).load()
    for name, value in (("betas", "x"), ("fused", None), ("weight_decay", 1e9)):
        state["learner"]["optimizer"]["param_groups"][0][name] = value
    StateFiles(run_dir).save(state)
    train(replace(begun, run_dir=run_dir))
    groups = StateFiles(run_dir).load()["learner"]["optimizer"]["param_groups"]
    assert [(g["betas"], g["fused"], g["weight_decay"]) for g in groups] == [
        (DEMO.optimizer.betas, True, DEMO.optimizer.weight_decay)
    ]


def train_where_files_stay_small(config: TrainConfig, most_bytes: int) -> None:
    """As on a disk that is full from some size on (which takes no mount, and no root)."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    train(config)


@pytest.mark.parametrize(
    ("most_bytes", "message"),
    [
        (1000, "cannot write the run folder"),
        (4000, "cannot write the log"),
        (1_000_000, "cannot write the file"),
    ],
)
def test_a_full_disk_ends_the_run_with_a_message(
    shards: Path, tmp_path: Path, most_bytes: int, message: str
):
    config = config_of(shards, tmp_path / "run", epochs=8, batch_size=2, log_every_steps=1)
    ((kind, text),) = outcomes_in_world(1, train_where_files_stay_small, config, most_bytes)
    assert kind == "error" and message in text and "fix:" in text
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_read_only_disk_ends_the_run_with_a_message(shards: Path, tmp_path: Path):
    mount = ["mount", "-t", "tmpfs", "-o", "ro,size=1m", "none", str(tmp_path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this process may not mount a read-only disk")
    try:
        with pytest.raises(PslaError, match="the run folder cannot be written"):
            train(config_of(shards, tmp_path / "run"))
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_processes_that_do_not_divide_the_batch_do_not_resume(begun: TrainConfig):
    before = {p: p.stat().st_mtime_ns for p in begun.run_dir.rglob("*")}
    four = World(rank=0, size=4, device=torch.device("cpu"))
    with pytest.raises(ConfigError, match="6 clips cannot be shared by 4 processes"):
        prepare(begun, four)
    assert before == {p: p.stat().st_mtime_ns for p in begun.run_dir.rglob("*")}


def test_ctrl_c_that_a_library_swallows_ends_the_run(shards: Path, tmp_path: Path, monkeypatch):
    write = RunLog.write

    def swallow(log: RunLog, event: str, *, step: int, **values: Any) -> None:
        write(log, event, step=step, **values)
        if step == 2:
            with suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
                time.sleep(1)

    monkeypatch.setattr(RunLog, "write", swallow)
    config = config_of(shards, tmp_path / "run", log_every_steps=1)
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    try:
        with pytest.raises(SystemExit) as end:
            train(config)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert end.value.code == 130
    assert RunDir(config.run_dir).states.load()["step"] in (2, 3)
