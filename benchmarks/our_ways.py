"""psla-wds at the levels below features, and what no loader can be faster than."""

import itertools
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import numpy as np

from benchmarks.ways import Batch, Way
from psla_wds.loading.waveforms import WaveformConfig, training_waveforms
from psla_wds.reading.read_ahead import ReadAhead
from psla_wds.reading.reader import ReaderConfig
from psla_wds.sampling.augment import AugmentConfig
from psla_wds.sampling.plan import SamplerConfig, plan_epoch
from psla_wds.sampling.schedule import BatchLayout, TrainingSchedule
from psla_wds.shards.index import ShardIndex
from sharding.packing.engines import num_cores

PLAIN = AugmentConfig(mixup_rate=0.0, freq_mask=0, time_mask=0)
"""One clip is read a draw, as by those that are compared."""
OUR_ORDER = "exact weighted, with replacement"
READER_SETTINGS = tuple(
    {"threads": threads, "prefetch_batches": prefetch}
    for threads in (1, 2, 4)
    for prefetch in (4, 16)
)


@contextmanager
def open_ahead(
    index: ShardIndex, batch_size: int, *, threads: int, prefetch_batches: int
) -> Iterator[ReadAhead]:
    """The reader of training, on balanced draws."""
    schedule = TrainingSchedule(
        index, WaveformConfig(augment=PLAIN), BatchLayout(batch_size=batch_size), seed=0
    )
    config = ReaderConfig(threads=threads, prefetch_batches=prefetch_batches)
    ahead = ReadAhead(index, schedule, config)
    try:
        yield ahead
    finally:
        ahead.close()


def read_way(index: ShardIndex, batch_size: int) -> Way:
    """Bytes by weighted draws, with their targets from the index."""

    @contextmanager
    def opened(**setting: int) -> Iterator[Iterator[Batch]]:
        with open_ahead(index, batch_size, **setting) as ahead:
            yield _read_batches(ahead, index)

    return Way("psla-wds", OUR_ORDER, opened, READER_SETTINGS)


def _read_batches(ahead: ReadAhead, index: ShardIndex) -> Iterator[Batch]:
    iteration = 0
    while True:
        batch = ahead.batch(iteration)
        yield Batch(batch.draws.rows, batch.audio, index.targets(batch.draws.rows))
        iteration += 1


def waveform_way(index: ShardIndex, batch_size: int) -> Way:
    """The same draws, decoded by libsndfile in threads."""

    @contextmanager
    def opened(decode_threads: int) -> Iterator[Iterator[Batch]]:
        reader = ReaderConfig(decode_threads=decode_threads)
        config = WaveformConfig(augment=PLAIN, reader=reader)
        with training_waveforms(index, batch_size=batch_size, config=config) as epochs:
            batches = itertools.chain.from_iterable(itertools.repeat(epochs))
            yield (Batch(b.draws.rows, b.waveforms, b.targets) for b in batches)

    settings = tuple({"decode_threads": n} for n in sorted({1, num_cores(), 2 * num_cores()}))
    return Way("psla-wds, NumPy waveforms", OUR_ORDER, opened, settings)


def pread_limit(
    index: ShardIndex, batch_size: int, *, threads: int, seconds: float
) -> Callable[[], float]:
    """Clips per second of a bare loop in each thread: weighted draws, batches of one pread a clip
    and of labels. Nothing is checked, nothing is handed from thread to thread.
    """
    rows = plan_epoch(index, SamplerConfig(), seed=0, epoch=1).rows
    parts = [rows[i::threads] for i in range(threads)]

    def rate() -> float:
        files = [os.open(path, os.O_RDONLY) for path in index.shards]
        try:
            with ThreadPoolExecutor(threads) as pool:
                started = time.perf_counter()
                stop = started + seconds
                read = partial(_pread_until, stop, index, files, batch_size)
                return sum(pool.map(read, parts)) / (time.perf_counter() - started)
        finally:
            for file in files:
                os.close(file)

    return rate


def _pread_until(
    stop: float, index: ShardIndex, files: list[int], batch_size: int, rows: np.ndarray
) -> int:
    shards, offsets, sizes = (c[rows].tolist() for c in (index.shard, index.offset, index.size))
    clips = 0
    while True:
        for start in range(0, len(rows) - batch_size + 1, batch_size):
            audio = [np.empty(size, np.uint8) for size in sizes[start : start + batch_size]]
            for place, clip in enumerate(audio, start):
                os.preadv(files[shards[place]], [clip.data], offsets[place])
            index.targets(rows[start : start + batch_size])
            clips += batch_size
            if time.perf_counter() > stop:
                return clips


def cat_limit(index: ShardIndex, *, seconds: float) -> Callable[[], float]:
    """Clips per second at which `cat` gets through the tars, headers and labels included."""
    command = ["cat", *map(str, index.shards)]

    def rate() -> float:
        started, passes = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
            passes += 1
        return passes * len(index) / (time.perf_counter() - started)

    return rate
