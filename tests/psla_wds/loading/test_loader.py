"""Batches through the whole loader: their order, and what happens to damaged clips."""

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain, islice, repeat
from pathlib import Path

import numpy as np
import pytest
import torch
from damaged_clips import flip_bits, undecodable

from psla_wds import (
    AugmentConfig,
    Batch,
    Epochs,
    FeatureConfig,
    LoaderConfig,
    ReaderConfig,
    SamplerConfig,
    ShardIndex,
    Share,
    evaluation_batches,
    training_batches,
)
from psla_wds.errors import ConfigError, ShardError
from psla_wds.io.stores import Disk
from psla_wds.loading.batches import open_training
from psla_wds.loading.loader import Loader, needs_dali
from psla_wds.reading.read_tuner import FIRST_THREADS
from psla_wds.reading.reader import DamagedClipError
from psla_wds.sampling.schedule import BatchLayout, TrainingSchedule
from psla_wds.shards.index_files import read_index

CONFIG = LoaderConfig(
    sampler=SamplerConfig(sampling="shuffle"),
    augment=AugmentConfig(time_mask=20),
    features=FeatureConfig(num_frames=64),
    reader=ReaderConfig(decode_threads=1),
    device="cpu",
)
BATCH_SIZE, STEPS = 6, 16  # two epochs
ROW = 11
WHOLE = Share()


@pytest.fixture(scope="module", autouse=True, params=[False, True], ids=["CPU", "DALI"])
def front_end(request: pytest.FixtureRequest) -> Iterator[None]:
    """DALI's front end on a CPU as well, since its work on a GPU is not tested everywhere."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param:
            patch.setattr("psla_wds.loading.loader.needs_dali", lambda device: True)
        yield


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("psla_wds.io.remote.RETRY_PAUSES_S", ())


def opened(
    index: ShardIndex, *, first_step: int = 0, share: Share = WHOLE, **reader: int
) -> Epochs[Batch]:
    config = replace(CONFIG, reader=replace(CONFIG.reader, **reader))
    settings = {"batch_size": BATCH_SIZE, "seed": 3, "config": config}
    return training_batches(index, first_step=first_step, share=share, **settings)


def kept(epochs: Epochs[Batch] | Loader, count: int) -> list[Batch]:
    """The next batches, whatever epochs they belong to; of an evaluation, those that are left."""
    endless = chain.from_iterable(repeat(epochs)) if isinstance(epochs, Epochs) else epochs
    batches = islice(endless, count)
    return [replace(batch, log_mel=batch.log_mel.clone()) for batch in batches]


def batches_of(index: ShardIndex, *, first_step: int = 0, **options: object) -> list[Batch]:
    """The batches of all steps from the first on."""
    with opened(index, first_step=first_step, **options) as epochs:
        return kept(epochs, STEPS - first_step)


def same(one: Batch, other: Batch) -> bool:
    return (
        np.array_equal(one.rows, other.rows)
        and torch.equal(one.log_mel, other.log_mel)
        and torch.equal(one.targets, other.targets)
    )


def all_same(some: list[Batch], others: list[Batch]) -> bool:
    return all(same(a, b) for a, b in zip(some, others, strict=True))


@pytest.fixture(scope="module")
def index(shards: Path) -> ShardIndex:
    return read_index(shards)


@pytest.fixture(scope="module")
def undisturbed(front_end: None, index: ShardIndex) -> list[Batch]:
    return batches_of(index)


@pytest.mark.parametrize("first_step", [7, 8])
def test_a_loader_that_starts_later_gives_the_rest(
    index: ShardIndex, undisturbed: list[Batch], first_step: int
):
    assert all_same(batches_of(index, first_step=first_step), undisturbed[first_step:])


def test_other_ranks_go_on_with_the_same_batches(index: ShardIndex, undisturbed: list[Batch]):
    parts = [
        batches_of(
            index, first_step=5, share=Share(rank=rank, world_size=3), prefetch_batches=1, threads=1
        )
        for rank in range(3)
    ]
    whole = [
        Batch(
            torch.cat([part.log_mel for part in slices]),
            torch.cat([part.targets for part in slices]),
            np.concatenate([part.rows for part in slices]),
        )
        for slices in zip(*parts, strict=True)
    ]
    assert all_same(whole, undisturbed[5:])


def test_slow_storage_gets_more_threads(
    index: ShardIndex, undisturbed: list[Batch], monkeypatch: pytest.MonkeyPatch
):
    read = Disk.read_into

    def read_slowly(shard: Disk, offset: int, buffer: memoryview) -> int:
        time.sleep(0.05)
        return read(shard, offset, buffer)

    monkeypatch.setattr(Disk, "read_into", read_slowly)
    monkeypatch.setattr("psla_wds.reading.read_tuner.BATCHES_PER_LOOK", 2)
    layout = BatchLayout(batch_size=BATCH_SIZE)
    with open_training(index, CONFIG, layout, seed=3).loader as loader:
        for expected, batch in zip(undisturbed, loader, strict=False):
            assert same(batch, expected)
        assert loader.storage_wait_s > 0
        line = loader.verdict(0.5, 0.5)
    threads = int(line.split(" threads")[0].split()[-1])
    assert threads > FIRST_THREADS


def test_targets_of_mixed_draws_add_up(undisturbed: list[Batch]):
    targets = torch.cat([batch.targets for batch in undisturbed])
    assert torch.allclose(targets.sum(dim=1), torch.ones(len(targets)))  # one label a clip
    assert 0.2 < ((targets > 0) & (targets < 1)).any(dim=1).float().mean() < 0.6


def test_evaluation_ends_after_a_smaller_batch(index: ShardIndex):
    with evaluation_batches(index, batch_size=10, config=CONFIG) as batches:
        rows = [batch.rows.tolist() for batch in batches]
    assert [len(part) for part in rows] == [10, 10, 10, 10, 8]
    assert sum(rows, []) == list(range(48))  # noqa: RUF017


def test_windows_of_a_clip_come_one_after_another(index: ShardIndex):
    options = {"batch_size": 7, "config": replace(CONFIG, features=FeatureConfig(num_frames=32))}
    with evaluation_batches(index, windows=2, **options) as batches:
        found = kept(batches, 100)
    rows = np.concatenate([batch.rows for batch in found])
    log_mel = torch.cat([batch.log_mel for batch in found])
    counts = np.bincount(rows)
    assert rows.tolist() == np.repeat(np.arange(48), counts).tolist()
    assert counts.tolist() == (1 + (index.num_samples > 32 * 160 + 400)).tolist()
    with evaluation_batches(index, **options) as batches:
        first = torch.cat([batch.log_mel for batch in kept(batches, 100)])
    starts = np.cumsum(counts) - counts
    assert (log_mel[starts] - first).abs().max() < 5e-3
    assert (log_mel[starts + counts - 1] - first).abs().max() > 0.1


@pytest.fixture
def copied(shards: Path, tmp_path: Path) -> ShardIndex:
    return read_index(shutil.copytree(shards, tmp_path / "shards"))


DAMAGES = pytest.mark.parametrize("damage", [flip_bits, undecodable])


@DAMAGES
def test_a_damaged_clip_is_replaced_and_the_order_stays(
    copied: ShardIndex, undisturbed: list[Batch], damage: Callable
):
    with opened(damage(copied, ROW), max_damaged=1) as epochs:
        batches = kept(epochs, STEPS)
        assert list(epochs.damaged) == [copied.clip_id(ROW)]
    schedule = TrainingSchedule(copied, CONFIG, BatchLayout(batch_size=BATCH_SIZE), seed=3)
    used = {step for step in range(STEPS) if ROW in schedule(step).clips}
    assert used and len(used) < STEPS
    for step, (batch, before) in enumerate(zip(batches, undisturbed, strict=True)):
        assert same(batch, before) == (step not in used)
        assert ROW not in batch.rows
        assert (batch.rows != before.rows).sum() <= 1


def test_a_replacement_does_not_depend_on_when_damage_was_found(copied: ShardIndex):
    damaged = undecodable(flip_bits(copied, 30), ROW)
    whole = batches_of(damaged, max_damaged=2)
    assert all_same(batches_of(damaged, max_damaged=2, first_step=9), whole[9:])


def test_more_damaged_clips_than_allowed_end_the_run(copied: ShardIndex):
    with pytest.raises(DamagedClipError) as caught:
        batches_of(flip_bits(copied, ROW))
    assert caught.value.row == ROW and copied.clip_id(ROW) in str(caught.value)
    with pytest.raises(ShardError, match="damaged"):
        batches_of(flip_bits(flip_bits(copied, 30), ROW), max_damaged=1)


def test_without_dali_the_error_names_the_extras(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "psla_wds.features.dali", None)  # its import fails
    assert not needs_dali(torch.device("cpu"))
    with pytest.raises(ConfigError, match="NVIDIA DALI") as caught:
        needs_dali(torch.device("cuda"))
    assert "pip install nvidia-dali-cuda130; for" in str(caught.value)
