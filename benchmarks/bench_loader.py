"""Compare the loader with its peers at three levels: read, decode, and ready features.

read delivers encoded bytes and targets; decode float32 waveforms and targets; features log-mel of
balanced draws, half of them mixed, with masks. All loaders deliver the same clips, which is
checked, in batches of one size, each at its fastest setting. MosaicML Streaming and LitData need
an older NumPy, so their own environment: pip install -c benchmarks/constraints.txt -e '.[bench]'.

    python -m benchmarks.bench_loader --clips 1000
"""

import itertools
import os
import subprocess
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import soundfile
import torch
from isal.isal_zlib import crc32
from tqdm import tqdm

from benchmarks import harness
from benchmarks.corpus import Corpus, CorpusArgs, make_corpus, read_clips, wav_index
from benchmarks.harness import RATES, RESULTS, WARMUP_BATCHES, Column, Rate, Row, record, table
from benchmarks.papers_way import check_same_work, papers_batches
from benchmarks.peers import (
    DALI_SETTINGS,
    WEIGHTED,
    Clips,
    Setting,
    Way,
    Work,
    dali_decoder,
    peer_ways,
)
from benchmarks.tables import run_benchmark
from psla_wds import (
    AugmentConfig,
    Batch,
    LoaderConfig,
    ReaderConfig,
    SamplerConfig,
    ShardIndex,
    WaveformConfig,
    training_batches,
    training_waveforms,
)
from psla_wds.features.encoded_batch import EncodedBatch
from psla_wds.reading.read_ahead import ReadAhead
from psla_wds.sampling.plan import plan_epoch
from psla_wds.sampling.schedule import BatchLayout, TrainingSchedule
from sharding.packing.engines import num_cores

PLAIN = AugmentConfig(mixup_rate=0.0, freq_mask=0, time_mask=0, crop="start")
"""Without mixup, so that each draw reads one clip, as the peers do."""
READER_SETTINGS: tuple[Setting, ...] = tuple(
    {"threads": threads, "prefetch_batches": prefetch}
    for threads in (1, 2, 4)
    for prefetch in (4, 16)
)
PREAD_THREADS = (1, 2, 4)
DECODE_THREADS: tuple[Setting, ...] = tuple({"decode_threads": threads} for threads in (1, 2, 4))
NUM_COMPARED = 100
"""Number of clips that are compared with those in the shards, for each loader."""
LARGEST_DIFFERENCE = 1e-6
"""Tolerance between decoders of 16-bit samples, which scale by 2**-15 or by 1 / 32767 rounded."""

Level = Literal["read", "decode", "features"]


@dataclass(frozen=True)
class Args(CorpusArgs):
    levels: tuple[Level, ...] = get_args(Level)
    """Levels to measure."""
    output: Path = RESULTS / "bench_loader.json"


def measure(args: Args) -> dict[str, Any]:
    """Compare the loaders; the record for the results folder."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    corpus = make_corpus(args.corpus, args.clips)
    tables = []
    for level in args.levels:
        limits = read_limits(corpus.index, args) if level == "read" else {}
        if level == "features":
            ways = feature_ways(corpus, args.batch_size, device)
        else:
            ways = clip_ways(Work(corpus, args.batch_size, decode=level == "decode"))
        columns = [Column(level, "name"), Column("order", "order"), *RATES]
        tables.append(table(columns, measure_level(ways, limits, args)))
    return record("Loader: 10 s FLAC clips in batches, warm page cache", tables, args)


def measure_level(ways: list[Way], limits: dict[str, Rate], args: Args) -> list[Row]:
    """Find each loader's fastest setting, then compare the loaders and the limits."""
    facts: dict[str, Row] = {name: {"order": "limit"} for name in limits}
    best: dict[str, Rate] = {}
    for way in tqdm(ways, desc="settings", leave=False):
        settings = [(f"{setting}", partial(way.open, **setting)) for setting in way.settings]
        rates = {
            name: harness.steady(opened, batch_size=args.batch_size, seconds=args.seconds)
            for name, opened in settings
        }
        sweep = {name: rate() if len(rates) > 1 else 0.0 for name, rate in rates.items()}
        setting = max(sweep, key=sweep.__getitem__)
        best[way.name] = rates[setting]
        facts[way.name] = {"order": way.order, "setting": setting, "sweep": sweep}
    rows = harness.compare(best | limits, repeats=args.repeats)
    return [row | facts[row["name"]] for row in rows]


def clip_ways(work: Work) -> list[Way]:
    """All loaders of bytes or waveforms, checked; for waveforms with the limit of decoding."""
    of_wav = partial(waveform_way, wav=True)
    ours = (decode_way, waveform_way, of_wav) if work.decode else (read_way,)
    ways = [*peer_ways(work), *(way(work) for way in ours)]
    check_clips(ways, work)
    return [*ways, memory_way(work)] if work.decode else ways


def check_clips(ways: list[Way], work: Work) -> None:
    """Raise `AssertionError` unless all deliver the same bytes or waveforms, and targets, by id."""
    index = work.corpus.index
    rows = range(0, len(index), max(1, len(index) // NUM_COMPARED))
    row_of = {index.clip_id(row): row for row in rows}
    for way in ways:
        met = 0
        with way.open(**way.settings[0]) as batches:
            for batch in itertools.islice(batches, 2 * WARMUP_BATCHES):
                for key, clip, target in zip(batch.keys, batch.clips, batch.targets, strict=True):
                    clip_id = key if isinstance(key, str) else index.clip_id(key)
                    if (row := row_of.get(clip_id)) is None:
                        continue
                    met += 1
                    same_labels = (np.asarray(target) == index.targets(np.array([row]))[0]).all()
                    if not (same_labels and same_clip(clip, work.corpus.paths[row], work.decode)):
                        raise AssertionError(f"{way.name} delivers another clip as {clip_id}")
        if not met:
            raise AssertionError(f"{way.name} delivered none of the {len(row_of)} clips compared")


def same_clip(clip: np.ndarray, path: Path, decode: bool) -> bool:
    """Whether bytes are equal, or waveforms equal except for rounding."""
    if not decode:
        return bytes(memoryview(clip)) == path.read_bytes()
    expected, found = soundfile.read(path, dtype="float32")[0], np.asarray(clip).reshape(-1)
    return (
        len(found) == len(expected) and float(np.abs(found - expected).max()) <= LARGEST_DIFFERENCE
    )


@contextmanager
def open_ahead(work: Work, *, threads: int, prefetch_batches: int) -> Iterator[ReadAhead]:
    """The reader of training, on balanced draws."""
    index = work.corpus.index
    layout = BatchLayout(batch_size=work.batch_size)
    schedule = TrainingSchedule(index, LoaderConfig(augment=PLAIN), layout, seed=0)
    config = ReaderConfig(threads=threads, prefetch_batches=prefetch_batches)
    ahead = ReadAhead(index, schedule, config)
    try:
        yield ahead
    finally:
        ahead.close()


def read_way(work: Work) -> Way:
    """Bytes by weighted draws, with their targets from the index."""
    index = work.corpus.index

    @contextmanager
    def opened(**setting: int) -> Iterator[Iterator[Clips]]:
        with open_ahead(work, **setting) as ahead:
            batches = map(ahead.batch, itertools.count())
            yield (Clips(b.draws.rows, b.audio, index.targets(b.draws.rows)) for b in batches)

    return Way("psla-wds", WEIGHTED, opened, READER_SETTINGS)


def decode_way(work: Work) -> Way:
    """The same draws, read by our threads, decoded by DALI's."""
    index = work.corpus.index

    @contextmanager
    def opened(**setting: int) -> Iterator[Iterator[Clips]]:
        with open_ahead(work, threads=2, prefetch_batches=4) as ahead:
            fed: deque[EncodedBatch] = deque()  # DALI reads the clips of these where they lie

            def source(iteration: int) -> list[np.ndarray]:
                fed.append(ahead.batch(iteration))
                return fed[-1].audio

            def labels() -> tuple[np.ndarray, np.ndarray]:
                rows = fed.popleft().draws.rows
                return rows, index.targets(rows)

            with dali_decoder(source, labels, work.batch_size, setting) as batches:
                yield batches

    return Way("psla-wds", WEIGHTED, opened, DALI_SETTINGS)


def waveform_way(work: Work, *, wav: bool = False) -> Way:
    """The same draws by `training_waveforms`, which needs neither torch nor DALI.

    Args:
        wav: whether the shards have WAV.
    """
    index = wav_index(work.corpus) if wav else work.corpus.index

    @contextmanager
    def opened(decode_threads: int) -> Iterator[Iterator[Clips]]:
        reader = ReaderConfig(threads=2, prefetch_batches=4, decode_threads=decode_threads)
        config = WaveformConfig(augment=PLAIN, reader=reader)
        with training_waveforms(index, batch_size=work.batch_size, config=config) as epochs:
            batches = harness.endless(epochs)
            yield (Clips(b.draws.rows, b.waveforms, b.targets) for b in batches)

    name = f"psla-wds, NumPy waveforms{', of WAV' * wav}"
    return Way(name, WEIGHTED, opened, DECODE_THREADS)


def memory_way(work: Work) -> Way:
    """DALI's decoder on bytes in memory: the limit of all ways that decode with it."""
    clips, rows = read_clips(work.corpus, work.batch_size), np.arange(work.batch_size)
    targets = work.corpus.index.targets(rows)

    def source(iteration: int) -> list[np.ndarray]:
        return clips[iteration % len(clips)]

    def opened(**setting: int) -> Any:
        return dali_decoder(source, lambda: (rows, targets), work.batch_size, setting)

    return Way("limit: DALI decode of bytes in memory", "limit", opened, DALI_SETTINGS)


def read_limits(index: ShardIndex, args: Args) -> dict[str, Rate]:
    """The rates that no loader can exceed in reading."""
    limits: dict[str, Rate] = {
        f"limit: {job}, threads {n}": partial(pread_rate, index, args, n, checked=checked)
        for job, checked in (("pread by offset", False), ("pread and CRC-32", True))
        for n in PREAD_THREADS
    }
    return limits | {"limit: cat of the tars": partial(cat_rate, index, args.seconds)}


def pread_rate(index: ShardIndex, args: Args, threads: int, *, checked: bool) -> float:
    """Clips per second of a bare loop in each thread: weighted draws, one pread for each clip, and
    labels. It hands nothing from thread to thread, and compares check sums only if asked to."""
    rows = plan_epoch(index, SamplerConfig(), seed=0, epoch=1).rows
    files = [os.open(str(path), os.O_RDONLY) for path in index.shards]

    def read(rows: np.ndarray) -> int:
        columns = (index.shard, index.offset, index.size, index.crc32)
        shards, offsets, sizes, check_sums = (column[rows].tolist() for column in columns)
        starts = itertools.cycle(range(0, len(rows) - args.batch_size + 1, args.batch_size))
        for number, start in enumerate(starts, start=1):
            stop = start + args.batch_size
            audio = [np.empty(size, np.uint8) for size in sizes[start:stop]]
            for place, clip in enumerate(audio, start):
                os.preadv(files[shards[place]], [clip.data], offsets[place])
                if checked and crc32(clip.data) != check_sums[place]:
                    raise ValueError("the shards have changed")
            index.targets(rows[start:stop])
            if time.perf_counter() > ends:
                return number * args.batch_size
        return 0

    try:
        with ThreadPoolExecutor(threads) as pool:
            started = time.perf_counter()
            ends = started + args.seconds
            parts = [rows[number::threads] for number in range(threads)]
            return sum(pool.map(read, parts)) / (time.perf_counter() - started)
    finally:
        for file in files:
            os.close(file)


def cat_rate(index: ShardIndex, seconds: float) -> float:
    """Clips per second at which `cat` reads the tars, headers and labels included."""
    command = ["cat", *map(str, index.shards)]
    started, passes = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        passes += 1
    return passes * len(index) / (time.perf_counter() - started)


def feature_ways(corpus: Corpus, batch_size: int, device: torch.device) -> list[Way]:
    """The paper's way and ours, each with all cores, checked."""
    cores = num_cores()
    config = LoaderConfig(reader=ReaderConfig(decode_threads=cores), device=device)

    @contextmanager
    def ours() -> Iterator[Iterator[Batch]]:
        with training_batches(corpus.index, batch_size=batch_size, config=config) as epochs:
            yield harness.endless(epochs)

    papers = partial(papers_batches, corpus, batch_size, config, workers=cores)
    check_same_work({"paper's way": papers, "psla-wds": ours})
    return [Way("paper's way", WEIGHTED, papers), Way("psla-wds", WEIGHTED, ours)]


if __name__ == "__main__":
    run_benchmark("benchmarks.bench_loader", __doc__, Args, measure)
