"""What is read ahead stays within its bounds, whatever the clips, and comes in order."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Int64

from psla_wds import WaveformConfig
from psla_wds.features.encoded_batch import NULL_WAV
from psla_wds.reading.config import ReaderConfig
from psla_wds.reading.read_ahead import ReadAhead
from psla_wds.reading.read_tuner import MOST_THREADS
from psla_wds.reading.reader import PendingRead, Reader
from psla_wds.sampling.augment import plain_draws
from psla_wds.sampling.schedule import BatchLayout, TrainingSchedule
from psla_wds.shards.index import ShardIndex
from psla_wds.shards.index_files import read_index

MIB = 2**20


@pytest.fixture(scope="module")
def index(shards: Path) -> ShardIndex:
    return read_index(shards)


@dataclass
class Store:
    """Counts the bytes that were asked for and not yet handed over."""

    sizes: np.ndarray
    held: int = 0
    most: int = 0
    asked: list[list[int]] = field(default_factory=list)


class CountingReader(Reader):
    threads = MOST_THREADS

    def __init__(self, store: Store) -> None:
        self._store = store

    def start(self, rows: Int64[np.ndarray, " rows"]) -> PendingRead:
        self._store.asked.append(rows.tolist())
        return CountedRead(self._store, int(self._store.sizes[rows].sum()), len(rows))


class CountedRead(PendingRead):
    def __init__(self, store: Store, num_bytes: int, num_clips: int) -> None:
        self._store, self._num_bytes, self._num_clips = store, num_bytes, num_clips
        store.held += num_bytes
        store.most = max(store.most, store.held)

    def wait(self) -> list[np.ndarray]:
        self._store.held -= self._num_bytes
        return [np.zeros(1, np.uint8)] * self._num_clips


class InOrder:
    """Rows 0, 1, 2, ..., some an iteration."""

    replaces_damaged = True
    changes = ()

    def __init__(self, num_rows: int, batch_size: int) -> None:
        self._num_rows, self.clips_per_pass = num_rows, batch_size

    def __call__(self, iteration: int, damaged: frozenset[int] = frozenset()):
        start = iteration * self.clips_per_pass
        stop = min(start + self.clips_per_pass, self._num_rows)
        return plain_draws(np.arange(start, stop)) if start < stop else None


def counted(index: ShardIndex, store: Store, batch_size: int, config: ReaderConfig) -> ReadAhead:
    sized = replace(index, size=store.sizes)
    return ReadAhead(sized, InOrder(48, batch_size), config, CountingReader(store))


@given(
    sizes_kib=st.lists(st.integers(1, 3000), min_size=48, max_size=48),
    batch_size=st.integers(1, 9),
    memory_mib=st.integers(1, 20),
    depth=st.integers(1, 7),
)
def test_memory_and_depth_stay_within_their_settings(
    index: ShardIndex, sizes_kib: list[int], batch_size: int, memory_mib: int, depth: int
):
    sizes = np.array(sizes_kib) * 1024
    store = Store(sizes)
    config = ReaderConfig(prefetch_batches=depth, memory_mib=memory_mib)
    ahead = counted(index, store, batch_size, config)
    given_rows: list[int] = []
    for iteration in range(-(-48 // batch_size)):
        given_rows += ahead.batch(iteration).draws.rows.tolist()
        assert len(store.asked) <= iteration + 1 + depth
    assert given_rows == sum(store.asked, []) == list(range(48))  # noqa: RUF017
    largest_batch = max(sizes[i : i + batch_size].sum() for i in range(0, 48, batch_size))
    assert store.most <= max(memory_mib * MIB, largest_batch)
    with pytest.raises(StopIteration):
        ahead.batch(-(-48 // batch_size))


@settings(max_examples=10)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=8))
def test_a_batch_depends_on_its_iteration_alone(index: ShardIndex, iterations: list[int]):
    schedule = TrainingSchedule(index, WaveformConfig(), BatchLayout(batch_size=6), seed=1)
    reader = Reader(index, threads=2)
    ahead = ReadAhead(index, schedule, ReaderConfig(prefetch_batches=2), reader)
    for iteration in iterations:
        batch, draws = ahead.batch(iteration), schedule(iteration)
        clips = dict(zip(draws.clips.tolist(), reader.start(draws.clips).wait(), strict=True))
        assert all(map(np.array_equal, batch.audio, [clips[row] for row in draws.rows]))
        partners = [NULL_WAV if row < 0 else clips[row] for row in draws.partners]
        assert all(map(np.array_equal, batch.partner_audio, partners))
        assert [row for row, _ in batch.clips] == draws.clips.tolist()
        assert all(np.array_equal(clip, clips[row]) for row, clip in batch.clips)
    ahead.close()
