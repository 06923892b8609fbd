"""States, disks and machines that a run cannot go on with: one message each, nothing harmed."""

import os
import resource
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from services.store_server import serving
from test_training import config_of
from worlds import outcomes_in_world

from psla_wds.errors import CheckpointError, ConfigError, PslaError
from psla_wds.reading.config import ReaderConfig
from psla_wds.runtime.distributed import World, join_world
from train.config import TrainConfig
from train.recipes import DEMO
from train.run.state import StateFiles
from train.start import _agree_on_settings as agree_on_settings
from train.start import _prepare as prepare
from train.start import train


@pytest.fixture(scope="module")
def trained(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A run of one epoch, to go on with."""
    config = config_of(shards, tmp_path_factory.mktemp("runs") / "run")
    train(config)
    return replace(config, resume=True, epochs=2)


def change(*path: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    """Put something else into a state."""

    def changed(state: dict[str, Any]) -> None:
        *tables, last = path
        for name in tables:
            state = state[name]
        state[last] = to

    return changed


CHANGES = {
    "a step that is a word": (change("step", to="three"), "no step"),
    "a step below 0": (change("step", to=-1), "no step"),
    "epochs that are a list": (change("epochs_done", to=[1]), "no epochs_done"),
    "a mean of words": (change("epoch", "loss", to="low"), "no epoch"),
    "a mean too many": (change("interval", "new", to=1.0), "no interval"),
    "a clip that is a number": (change("damaged", to=[3]), "no damaged"),
    "bad steps that are none": (change("bad_steps", to=None), "no bad_steps"),
    "no learner": (change("learner", to=None), "no learner"),
    "no weights": (change("learner", "model", to=3), "does not fit this model"),
    "a weight that is a word": (
        change("learner", "model", "trunk._bn0.weight", to="w"), "does not fit this model"
    ),
    "no optimizer": (change("learner", "optimizer", to="adam"), "does not fit this model"),
    "no groups": (change("learner", "optimizer", "param_groups", to=5), "does not fit this model"),
    "a mean of another shape": (
        change("learner", "optimizer", "state", 0, "exp_avg", to=torch.zeros(2)),
        "does not fit this model",
    ),
    "a mean that is a word": (
        change("learner", "optimizer", "state", 0, "exp_avg", to="m"), "does not fit this model"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_a_state_of_other_things_than_training_writes_is_refused(
    trained: TrainConfig, tmp_path: Path, name: str
):
    run_dir = shutil.copytree(trained.run_dir, tmp_path / "run")
    (run_dir / "state.previous.pt").unlink(missing_ok=True)
    state = StateFiles(run_dir).load()
    changed, message = CHANGES[name]
    changed(state)
    StateFiles(run_dir).save(state)
    before = (run_dir / "state.pt").read_bytes()
    (run_dir / "state.previous.pt").unlink()
    with pytest.raises(CheckpointError, match=message):
        train(replace(trained, run_dir=run_dir))
    assert (run_dir / "state.pt").read_bytes() == before


def test_settings_of_the_optimizer_are_those_of_the_run_and_not_those_of_a_file(
    trained: TrainConfig, tmp_path: Path
):
    run_dir = shutil.copytree(trained.run_dir, tmp_path / "run")
    state = StateFiles(run_dir).load()
    for name, value in (("betas", "x"), ("fused", None), ("weight_decay", 1e9)):
        state["learner"]["optimizer"]["param_groups"][0][name] = value
    StateFiles(run_dir).save(state)
    train(replace(trained, run_dir=run_dir))
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


def train_from_a_silent_store(config: TrainConfig, url: str) -> None:
    if os.environ["RANK"] == "1":
        config = replace(config, index=(url,))
    train(config)


def test_a_store_that_goes_silent_on_one_rank_ends_all(shards: Path, tmp_path: Path):
    reader = ReaderConfig(decode_threads=1, timeout_s=2.0)
    config = config_of(shards, tmp_path / "run", reader=reader)
    with serving(shards) as store:

        def after_the_sizes_were_asked_for(path: str, _: int) -> str | None:
            asked = sum(n for other, n in store.requests.items() if other.endswith(".tar"))
            return "silent" if path.endswith(".tar") and asked > 4 else None

        store.fault = after_the_sizes_were_asked_for
        begun = time.monotonic()
        outcomes = outcomes_in_world(2, train_from_a_silent_store, config, store.url() + ":train")
        assert time.monotonic() - begun < 60
    assert [kind for kind, _ in outcomes] == ["error", "error"]
    assert "lost another of the 2 processes" in outcomes[0][1]
    assert "did not arrive within 2 s" in outcomes[1][1]


def test_processes_that_do_not_divide_the_batch_do_not_resume(trained: TrainConfig):
    before = {p: p.stat().st_mtime_ns for p in trained.run_dir.rglob("*")}
    four = World(rank=0, size=4, device=torch.device("cpu"))
    with pytest.raises(ConfigError, match="6 clips cannot be shared by 4 processes"):
        prepare(trained, four)
    assert before == {p: p.stat().st_mtime_ns for p in trained.run_dir.rglob("*")}


def test_a_process_without_a_gpu_of_its_own_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(PslaError, match="process 1 of this machine has no GPU: there are 1"),
        join_world(),
    ):
        pass


def agree_on_two_kinds_of_device() -> None:
    with join_world() as world:
        kind = "cpu" if world.is_main else "meta"
        agree_on_settings(DEMO, replace(world, device=torch.device(kind)))


def test_a_node_without_gpus_among_nodes_with_some_is_told():
    (kind, message), other = outcomes_in_world(2, agree_on_two_kinds_of_device)
    assert kind == "error" and message.startswith("the ranks have different kinds of device")
    assert "rank 0: cpu, rank 1: meta" in message and other == ("exit", 2)
