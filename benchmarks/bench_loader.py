"""The loader against its peers, at three levels: read, read and decode, and ready features.

    python -m benchmarks.bench_loader [--clips 1000]

Read: encoded bytes and targets reach the consumer. Decode: float32 waveforms and targets. Features:
balanced draws, half of them mixed, log-mel, masks. Each loader works on the same clips, which is
checked, in batches of the same size, at the fastest of its settings. MosaicML Streaming and
LitData take part if they are installed: in an environment of their own, since they need
an older NumPy, pip install -c benchmarks/constraints.txt -e '.[bench]'.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from benchmarks.corpus import make_corpus
from benchmarks.dali_ways import decode_way, memory_way, shard_reader_way
from benchmarks.harness import RESULTS, machine, show, write
from benchmarks.our_ways import cat_limit, pread_limit, read_way, waveform_way
from benchmarks.paper_way import LooseFiles, Recipe, check_same, clip_features, data_loader
from benchmarks.peers import Work, peer_ways
from benchmarks.ways import Timing, Way, check_same_clips, measure_level
from psla_wds import cli
from psla_wds.audio.decode import decode_pcm
from psla_wds.features.config import FeatureConfig
from psla_wds.features.dali import FrontEnd
from psla_wds.features.encoded_batch import NULL_WAV, EncodedBatch
from psla_wds.features.log_mel import normalise
from psla_wds.loading.batches import training_batches
from psla_wds.loading.loader import LoaderConfig
from psla_wds.reading.reader import Reader, ReaderConfig
from psla_wds.sampling.augment import AugmentConfig, plain_draws
from psla_wds.sampling.plan import clip_weights
from psla_wds.shards.index import ShardIndex
from sharding.packing.engines import num_cores

FEATURES = FeatureConfig()
AUGMENT = AugmentConfig()
PREAD_THREADS = (1, 2, 4)
NUM_COMPARED = 100
"""Clips that every loader must deliver as they are in the shards."""

Level = Literal["read", "decode", "features"]

Pair = tuple[torch.Tensor, torch.Tensor]
"""Log-mel and targets of a batch."""


@dataclass(frozen=True)
class Args:
    clips: int = 1000
    """Clips of ten seconds."""
    batch_size: int = 32
    repeats: int = 5
    seconds: float = 1.0
    """Time that each loader is measured for in each round, once it runs steadily."""
    levels: tuple[Level, ...] = get_args(Level)
    """Which are measured."""
    corpus: Path = Path("data/bench")
    """Folder of the clips; made if it is not there."""
    output: Path = RESULTS / "bench_loader.json"


def measure(args: Args) -> dict[str, Any]:
    """Compare the loaders; the record for the results folder."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    index, paths = make_corpus(args.corpus, num_clips=args.clips)
    timing = Timing(args.batch_size, args.seconds, args.repeats)
    results = []
    for level in args.levels:
        if level == "features":
            check_equal(index, paths, device)
            ways, limits = feature_ways(index, paths, args, device), {}
        else:
            ways = ways_to_clips(index, paths, args, decode=level == "decode")
            limits = read_limits(index, timing) if level == "read" else {}
        results += measure_level(level, ways, limits, timing)
    return {
        "title": "Loader: 10 s clips in batches",
        "conditions": {
            "device": device.type,
            "codec": "flac",
            "clips": args.clips,
            "batch_size": args.batch_size,
            "page_cache": "warm",
            "repeats": args.repeats,
        },
        "machine": machine(),
        "results": results,
    }


def ways_to_clips(index: ShardIndex, paths: list[Path], args: Args, *, decode: bool) -> list[Way]:
    """All loaders of bytes or of waveforms, checked, and the limit of those that decode."""
    clips, size = encoded_clips(index), args.batch_size
    ways = [
        *peer_ways(Work(index, paths, args.corpus, size, decode)),
        shard_reader_way(index, size, decode=decode),
        *([] if decode else [shard_reader_way(index, size, decode=False, mapped=False)]),
        *(way(index, size) for way in ((decode_way, waveform_way) if decode else (read_way,))),
    ]
    check_clips(ways, index, clips, decode=decode)
    return [*ways, memory_way(clips, index, size)] if decode else ways


def encoded_clips(index: ShardIndex) -> list[np.ndarray]:
    """All clips, in memory."""
    reader = Reader(index, threads=2)
    try:
        return [clip.copy() for clip in reader.start(np.arange(len(index))).wait()]
    finally:
        reader.close()


def read_limits(index: ShardIndex, timing: Timing) -> dict[str, Callable[[], float]]:
    """What no loader can be faster than in reading."""
    limits = {
        f"limit: pread by offset, threads {n}": pread_limit(
            index, timing.batch_size, threads=n, seconds=timing.seconds
        )
        for n in PREAD_THREADS
    }
    return limits | {"limit: cat of the tars": cat_limit(index, seconds=timing.seconds)}


def check_clips(
    ways: list[Way], index: ShardIndex, clips: list[np.ndarray], *, decode: bool
) -> None:
    """Every loader delivers the same bytes, or the same waveforms, under a clip's id."""
    rows = range(0, len(index), max(1, len(index) // NUM_COMPARED))
    expected = {index.clip_id(row): _decoded(clips[row]) if decode else clips[row] for row in rows}

    def clip_id(key: str | np.integer) -> str:
        return key if isinstance(key, str) else index.clip_id(key)

    for way in ways:
        check_same_clips(way, expected, clip_id)


def _decoded(clip: np.ndarray) -> np.ndarray:
    """16-bit samples as float32 in [-1, 1)."""
    return (decode_pcm(clip.data)[0].astype(np.float32) / 2**15).reshape(-1)


def feature_ways(
    index: ShardIndex, paths: list[Path], args: Args, device: torch.device
) -> list[Way]:
    """The paper's way and ours, each with all cores."""
    files = LooseFiles(
        paths, torch.from_numpy(index.targets(np.arange(len(index)))), Recipe(FEATURES, AUGMENT)
    )
    weights = clip_weights(index)

    @contextmanager
    def papers_way(workers: int) -> Iterator[Iterator[Pair]]:
        loose = data_loader(files, weights, batch_size=args.batch_size, workers=workers)
        batches = iter(loose)
        yield (_on(device, *batch) for batch in batches)
        del batches  # its workers end with it

    @contextmanager
    def our_way(threads: int) -> Iterator[Iterator[Pair]]:
        reader = ReaderConfig(decode_threads=threads)
        config = LoaderConfig(augment=AUGMENT, features=FEATURES, reader=reader, device=device)
        with training_batches(index, batch_size=args.batch_size, config=config) as epochs:
            batches = itertools.chain.from_iterable(itertools.repeat(epochs))
            yield (_on(device, batch.log_mel, batch.targets) for batch in batches)

    cores, order = num_cores(), "exact weighted, with replacement"
    return [
        Way("paper's way", order, papers_way, ({"workers": cores},)),
        Way("psla-wds", order, our_way, ({"threads": cores},)),
    ]


def _on(device: torch.device, log_mel: torch.Tensor, targets: torch.Tensor) -> Pair:
    return log_mel.to(device, non_blocking=True), targets.to(device, non_blocking=True)


def check_equal(index: ShardIndex, paths: list[Path], device: torch.device) -> None:
    """For the same clips, partners and weights, both ways give the same features."""
    rows = np.arange(8)
    lam = np.linspace(0.2, 0.8, 8).astype(np.float32)
    reader = Reader(index, threads=2)
    clips, partners = reader.start(rows).wait(), reader.start(rows + 8).wait()
    reader.close()
    partners[:2], lam[:2] = [NULL_WAV] * 2, 1.0
    batch = EncodedBatch(replace(plain_draws(rows), lam=lam), clips, partners)
    front_end = FrontEnd(lambda _: batch, FEATURES, batch_size=8, num_threads=1, device=device)
    ours = front_end.run()[0].cpu()
    for row in rows:
        partner = paths[row + 8] if row >= 2 else None
        theirs = clip_features(paths[row], partner, float(lam[row]), FEATURES)
        check_same(f"clip {row}", ours[row], normalise(theirs, FEATURES), FEATURES)


def main() -> None:
    args = cli.parse(Args, __doc__, prog="python -m benchmarks.bench_loader")
    content = measure(args)
    show(content)
    write(content, args.output)


if __name__ == "__main__":
    cli.run(main)
