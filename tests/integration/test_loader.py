"""Batches through the whole loader: their order, and what happens to damaged clips."""

import shutil
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from psla_wds.errors import ConfigError, ShardError
from psla_wds.features.config import FeatureConfig
from psla_wds.io.stores import ShardFile
from psla_wds.loading.loader import Batch, Loader
from psla_wds.reading.read_tuner import FIRST_THREADS
from psla_wds.reading.reader import DamagedClipError, Reader, ReaderConfig
from psla_wds.sampling.augment import AugmentConfig
from psla_wds.sampling.plan import SamplerConfig
from psla_wds.sampling.schedule import BatchLayout, EvaluationSchedule, Plans, TrainingSchedule
from psla_wds.shards.index import ShardIndex
from psla_wds.shards.index_files import read_index

FEATURES = FeatureConfig(num_frames=64)
BATCH_SIZE, STEPS = 6, 16  # two epochs


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("psla_wds.io.retry.RETRY_PAUSES_S", ())


def open_loader(
    index: ShardIndex, *, first_step: int = 0, rank: int = 0, world_size: int = 1, **reader: int
) -> Loader:
    layout = BatchLayout(batch_size=BATCH_SIZE, rank=rank, world_size=world_size)
    schedule = TrainingSchedule(
        Plans(index, SamplerConfig(sampling="shuffle"), seed=3),
        AugmentConfig(time_mask=20),
        layout,
        log_mel_shape=(FEATURES.num_frames, FEATURES.num_mels),
        first_step=first_step,
    )
    return Loader(
        index,
        schedule,
        clips_per_pass=layout.clips_per_pass,
        features=FEATURES,
        config=ReaderConfig(decode_threads=1, **reader),
        device=torch.device("cpu"),
    )


def batches_of(loader: Loader, count: int) -> list[Batch]:
    return [replace(batch, log_mel=batch.log_mel.clone()) for batch in islice(loader, count)]


def same(one: Batch, other: Batch) -> bool:
    return (
        np.array_equal(one.rows, other.rows)
        and torch.equal(one.log_mel, other.log_mel)
        and torch.equal(one.targets, other.targets)
    )


@pytest.fixture(scope="module")
def index(shards: Path) -> ShardIndex:
    return read_index(shards)


@pytest.fixture(scope="module")
def undisturbed(index: ShardIndex) -> list[Batch]:
    with open_loader(index) as loader:
        return batches_of(loader, STEPS)


@pytest.mark.parametrize("first_step", [1, 7, 8, 13])
def test_a_loader_that_starts_later_gives_the_rest_bit_by_bit(
    index: ShardIndex, undisturbed: list[Batch], first_step: int
):
    with open_loader(index, first_step=first_step) as loader:
        rest = batches_of(loader, STEPS - first_step)
    assert all(same(a, b) for a, b in zip(rest, undisturbed[first_step:], strict=True))


@pytest.mark.parametrize("world_size", [2, 3])
def test_another_number_of_ranks_goes_on_with_the_same_batches_bit_by_bit(
    index: ShardIndex, undisturbed: list[Batch], world_size: int
):
    first_step = 5
    parts = []
    for rank in range(world_size):
        with open_loader(index, first_step=first_step, rank=rank, world_size=world_size) as loader:
            parts.append(batches_of(loader, STEPS - first_step))
    for expected, *slices in zip(undisturbed[first_step:], *parts, strict=True):
        whole = Batch(
            torch.cat([part.log_mel for part in slices]),
            torch.cat([part.targets for part in slices]),
            np.concatenate([part.rows for part in slices]),
        )
        assert same(whole, expected)


def test_reading_ahead_less_changes_nothing(index: ShardIndex, undisturbed: list[Batch]):
    with open_loader(index, prefetch_batches=1, threads=1) as loader:
        assert all(same(a, b) for a, b in zip(batches_of(loader, STEPS), undisturbed, strict=True))


def test_slow_storage_gets_more_threads_and_gives_the_same_batches(
    index: ShardIndex, undisturbed: list[Batch], monkeypatch: pytest.MonkeyPatch
):
    read = Reader._read_from

    def read_slowly(reader: Reader, shard: ShardFile, row: int) -> np.ndarray:
        time.sleep(0.05)
        return read(reader, shard, row)

    monkeypatch.setattr(Reader, "_read_from", read_slowly)
    monkeypatch.setattr("psla_wds.reading.read_tuner.BATCHES_PER_LOOK", 2)
    with open_loader(index) as loader:
        assert all(same(a, b) for a, b in zip(batches_of(loader, STEPS), undisturbed, strict=True))
        assert loader._reader.threads > FIRST_THREADS
        wait_s = loader.storage_wait_s
        line = loader.verdict(waited_s=wait_s, storage_wait_s=wait_s, elapsed_s=9.0)
    assert wait_s > 0 and f"{loader._reader.threads} threads" in line


def test_targets_of_mixed_draws_add_up(undisturbed: list[Batch]):
    targets = torch.cat([batch.targets for batch in undisturbed])
    assert torch.allclose(targets.sum(dim=1), torch.ones(len(targets)))  # one label a clip
    assert 0.2 < ((targets > 0) & (targets < 1)).any(dim=1).float().mean() < 0.6


def test_evaluation_ends_after_a_smaller_batch(index: ShardIndex):
    loader = Loader(
        index,
        EvaluationSchedule(index, BatchLayout(batch_size=10)),
        clips_per_pass=10,
        features=FEATURES,
        config=ReaderConfig(),
        device=torch.device("cpu"),
    )
    with loader:
        rows = [batch.rows.tolist() for batch in loader]
    assert [len(part) for part in rows] == [10, 10, 10, 10, 8]
    assert sum(rows, []) == list(range(48))  # noqa: RUF017


def flip_bits(index: ShardIndex, row: int) -> ShardIndex:
    with index.shards[index.shard[row]].open("r+b") as tar:
        tar.seek(index.offset[row] + index.size[row] // 2)
        tar.write(b"not what was here")
    return index


def undecodable(index: ShardIndex, row: int) -> ShardIndex:
    """The clip is no audio, and its CRC-32 says that this is as it should be."""
    with index.shards[index.shard[row]].open("r+b") as tar:
        tar.seek(index.offset[row])
        tar.write(b"not a header at all")
    content = index.shards[index.shard[row]].read_bytes()
    clip = content[index.offset[row] : index.offset[row] + index.size[row]]
    crc32 = index.crc32.copy()
    crc32[row] = zlib.crc32(clip)
    return replace(index, crc32=crc32)


@pytest.fixture
def copied(shards: Path, tmp_path: Path) -> ShardIndex:
    return read_index(shutil.copytree(shards, tmp_path / "shards"))


def uses(loader_index: ShardIndex, row: int) -> Iterator[int]:
    """Steps at which the clip is drawn, or mixed in."""
    with open_loader(loader_index) as loader:
        schedule = loader._ahead._schedule
        for step in range(STEPS):
            draws = schedule(step)
            if row in draws.rows or row in draws.partners:
                yield step


@pytest.mark.parametrize("damage", [flip_bits, undecodable])
def test_a_damaged_clip_is_fatal_unless_some_are_allowed(copied: ShardIndex, damage):
    row = 11
    with open_loader(damage(copied, row)) as loader, pytest.raises(DamagedClipError) as caught:
        batches_of(loader, STEPS)
    assert caught.value.row == row and copied.clip_id(row) in str(caught.value)


@pytest.mark.parametrize("damage", [flip_bits, undecodable])
def test_a_damaged_clip_is_replaced_and_listed_and_the_order_stays(
    copied: ShardIndex, undisturbed: list[Batch], damage
):
    row = 11
    used = set(uses(copied, row))
    with open_loader(damage(copied, row), max_damaged=1) as loader:
        batches = batches_of(loader, STEPS)
        assert list(loader.damaged) == [copied.clip_id(row)]
    assert used and len(used) < STEPS
    for step, (batch, before) in enumerate(zip(batches, undisturbed, strict=True)):
        assert same(batch, before) == (step not in used)
        assert row not in batch.rows
        assert (batch.rows != before.rows).sum() <= 1


def test_what_takes_the_place_of_a_damaged_clip_does_not_depend_on_when_it_was_found(
    copied: ShardIndex,
):
    damaged = undecodable(flip_bits(copied, 30), 11)
    with open_loader(damaged, max_damaged=2) as loader:
        whole = batches_of(loader, STEPS)
    with open_loader(damaged, max_damaged=2, first_step=9) as loader:
        rest = batches_of(loader, STEPS - 9)
    assert all(same(a, b) for a, b in zip(rest, whole[9:], strict=True))


def test_more_damaged_clips_than_allowed_end_the_run(copied: ShardIndex):
    damaged = flip_bits(flip_bits(copied, 30), 11)
    with open_loader(damaged, max_damaged=1) as loader, pytest.raises(ShardError, match="damaged"):
        batches_of(loader, STEPS)


def test_an_evaluation_replaces_no_clip_whatever_is_allowed(copied: ShardIndex):
    loader = Loader(
        flip_bits(copied, 11),
        EvaluationSchedule(copied, BatchLayout(batch_size=10)),
        clips_per_pass=10,
        features=FEATURES,
        config=ReaderConfig(max_damaged=5),
        device=torch.device("cpu"),
    )
    with loader, pytest.raises(DamagedClipError):
        batches_of(loader, 5)


def test_without_dali_the_error_names_the_extras(index: ShardIndex, monkeypatch):
    monkeypatch.setitem(sys.modules, "psla_wds.features.dali", None)  # its import fails
    with pytest.raises(ConfigError, match="NVIDIA DALI") as caught:
        open_loader(index)
    assert "'psla-wds[cuda13]', or [cuda12]" in str(caught.value)


def test_closing_ends_the_threads_of_the_reader(index: ShardIndex):
    with open_loader(index) as loader:
        batches_of(loader, 2)
        assert any("reader" in thread.name for thread in threading.enumerate())
    assert not any("reader" in thread.name for thread in threading.enumerate())
