"""Runs that diverge: on one process and on two, ended in time or carried on as asked."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from training_runs import config_of, final_weights, records
from worlds import outcomes_in_world

from psla_wds.errors import PslaError
from psla_wds.loading.loader import Batch, Loader
from psla_wds.shards.index_files import open_indexes
from train.config import TrainConfig
from train.run.state import StateFiles
from train.start import train

DELIVER = Loader.__next__


def with_a_loud_batch(number: int) -> list[Batch]:
    """Let the loader deliver infinite features in its batch of this number, from 1; all batches."""
    delivered: list[Batch] = []

    def deliver_loudly(loader: Loader) -> Batch:
        delivered.append(batch := DELIVER(loader))
        if len(delivered) == number:
            return replace(batch, log_mel=batch.log_mel * float("inf"))
        return batch

    Loader.__next__ = deliver_loudly
    return delivered


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Loader, "__next__", DELIVER)


def bad_batches(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "bad_batches.jsonl").open()]


def test_a_bad_step_ends_the_run_or_is_skipped_on_request(shards: Path, tmp_path: Path):
    delivered = with_a_loud_batch(3)
    config = config_of(shards, tmp_path / "run", log_every_steps=4, accumulate=2)
    with pytest.raises(PslaError, match="the loss of step 2, in epoch 1, is not finite") as caught:
        train(config)
    assert "--max-bad-steps 1" in str(caught.value)
    (record,) = bad_batches(config.run_dir)
    index = open_indexes(config.index)
    assert (record["step"], record["epoch"], record["loss"]) == (2, 1, "nan")
    rows = [row for batch in delivered[2:4] for row in batch.rows]  # a step has two passes
    assert [clip["clip_id"] for clip in record["clips"]] == [index.clip_id(row) for row in rows]
    assert any(clip["partner"] for clip in record["clips"])

    with_a_loud_batch(3)
    train(replace(config, resume=True, max_bad_steps=1))
    assert all(tensor.isfinite().all() for tensor in final_weights(config.run_dir).values())
    log = records(config.run_dir)
    assert [(r["event"], r["step"]) for r in log] == [
        ("bad_step", 2), ("step", 4), ("epoch", 6)
    ]  # fmt: skip
    assert log[-1]["train_loss"] > 0 and log[1]["gradient_norm_max"] > log[1]["gradient_norm"] > 0
    assert [record["clips"] for record in bad_batches(config.run_dir)] == [record["clips"]]


def train_with_a_loud_batch_on_the_second_rank(config: TrainConfig) -> None:
    if os.environ["RANK"] == "1":
        with_a_loud_batch(2)
    train(config)


def test_a_bad_step_of_one_rank_ends_all_with_one_message(shards: Path, tmp_path: Path):
    config = config_of(shards, tmp_path / "run", state_every_steps=1)
    outcomes = outcomes_in_world(2, train_with_a_loud_batch_on_the_second_rank, config)
    assert outcomes[1] == ("exit", 2)
    kind, message = outcomes[0]
    assert kind == "error" and message.startswith("the loss of step 2, in epoch 1, is not finite")
    (record,) = bad_batches(config.run_dir)
    assert len(record["clips"]) == config.batch_size  # of both ranks
    assert StateFiles(config.run_dir).load()["step"] == 1
