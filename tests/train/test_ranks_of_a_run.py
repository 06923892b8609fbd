"""Runs of two processes: a mistake or a failure of one ends both, with one message."""

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from damaged_clips import flip_bits
from services.store_server import serving
from training_runs import arguments, config_of, torchrun
from worlds import outcomes_in_world

from psla_wds.reading.config import ReaderConfig
from psla_wds.runtime.distributed import join_world
from psla_wds.shards.index_files import open_indexes
from train import start
from train.config import TrainConfig
from train.recipes import DEMO
from train.start import train


def test_under_torchrun_a_mistake_is_reported_once(shards: Path, tmp_path: Path):
    done = torchrun(2, arguments(shards, tmp_path / "run", "--batch-size=7"), check=False)
    assert done.returncode == 1
    assert done.stderr.count("error: a batch of 7 clips cannot be shared by 2 processes") == 1
    assert "fix:   set --batch-size 6 or 8" in done.stderr
    assert not (tmp_path / "run").exists()


def of_another_seed(config: TrainConfig) -> None:
    train(replace(config, seed=int(os.environ["RANK"])))


def of_other_code(config: TrainConfig) -> None:
    start.sources_digest = lambda: f"of rank {os.environ['RANK']}"
    train(config)


def of_another_device(_: TrainConfig) -> None:
    with join_world() as world:
        kind = "cpu" if world.is_main else "meta"
        start._agree_on_settings(DEMO, replace(world, device=torch.device(kind)))


@pytest.mark.parametrize(
    ("work", "what"),
    [
        (of_another_seed, "different settings of seed"),
        (of_other_code, "different code"),
        (of_another_device, "different kinds of device"),
    ],
)
def test_ranks_that_differ_do_not_begin(shards: Path, tmp_path: Path, work: Callable, what: str):
    (kind, text), other = outcomes_in_world(2, work, config_of(shards, tmp_path / "run"))
    assert kind == "error" and text.startswith(f"the ranks have {what}")
    assert other == ("exit", 2) and not (tmp_path / "run").exists()


def test_a_rank_that_fails_in_an_evaluation_ends_both(shards: Path, tmp_path: Path):
    copied = shutil.copytree(shards, tmp_path / "shards")
    row = 3  # of the second rank: with three clips a rank and pass, the first has 0 to 2
    index = flip_bits(open_indexes([f"{copied}:eval"]), row)
    config = config_of(copied, tmp_path / "run", eval_index=(f"{copied}:eval",))
    (kind, text), (other_kind, other_text) = outcomes_in_world(2, train, config)
    assert kind == other_kind == "error" and "lost another of the 2 processes" in text
    assert "the clip is damaged: its CRC-32 differs" in other_text
    assert index.clip_id(row) in other_text


def train_from_a_silent_store(config: TrainConfig, url: str) -> None:
    if os.environ["RANK"] == "1":
        config = replace(config, index=(url,))
    train(config)


def test_a_store_that_goes_silent_on_one_rank_ends_both(shards: Path, tmp_path: Path):
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
