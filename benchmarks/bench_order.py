"""Would an order of draws by shards read faster than the global order, where storage is slow?

    python -m benchmarks.bench_order --counts audioset_label_counts.csv

Simulated on the plan of an epoch with AudioSet's class counts: the global order (one request a
draw), draws dealt over passes in the order of shards (near ranges merged), and a copy of all
shards once (--stage). The simulation is compared with real reads of a file behind the
same latency and bandwidth. The file of counts is that of benchmarks.bench_plan. Windows of a pass
are permuted in memory, which takes no reading and is not simulated.
"""

import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from threading import Lock
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.bench_plan import index_by_counts, read_counts
from benchmarks.harness import RESULTS, machine, write
from benchmarks.order_models import (
    Reads,
    Storage,
    by_shards,
    duplicates,
    in_order,
    latencies_s,
    read_time_s,
    shard_order,
    whole_shards,
)
from psla_wds import cli
from psla_wds.sampling.plan import SamplerConfig, plan_epoch

CLIP_BYTES = 180_000
"""Of ten seconds in FLAC, on average; sizes differ by a third each way."""
CLIPS_PER_SHARD = 1000
MEMBER_BYTES = 2048
"""Of a clip in a tar beside its audio: two headers, labels, padding."""
AUDIOSET_CLIPS = 2_000_000
"""Those that the file of counts is about."""
PASSES = (1, 4, 16)
EPOCHS = 30
"""Of the paper's training: a copy of all shards is paid once in so many."""
GB = 1e9
BATCH_SIZE = 100
WINDOW = 20 * 2048
"""Draws that are permuted: 20 streams of shards, each through a window of its own."""
LOCAL = Storage("node-local flash", 1e-4, 2 * GB, 32)
"""What a copy is read from, in the global order; assumed."""
STORES = (
    Storage("store, 20 ms, 64 requests, 1 GB/s", 0.02, GB, 64),
    Storage("store, 100 ms, 64 requests, 1 GB/s", 0.1, GB, 64),
    Storage("store, 20 ms, any number, 1 GB/s", 0.02, GB, 4096),
    Storage("store, 100 ms, any number, 1 GB/s", 0.1, GB, 4096),
    Storage("disk, 8 ms seek, one head, 150 MB/s", 0.008, 150e6, 1, seeks=True),
)
VALIDATED = (
    Storage("store, 20 ms, 8 requests, 200 MB/s", 0.02, 200e6, 8),
    Storage("disk, 8 ms seek, one head, 150 MB/s", 0.008, 150e6, 1, seeks=True),
)


@dataclass(frozen=True)
class Args:
    counts: Path
    """CSV of how many clips of AudioSet carry each class."""
    clips: int = 2_000_000
    real_draws: int = 400
    """Draws that are really read, to compare the simulation with."""
    repeats: int = 5
    """Of the real reads; the median counts."""
    output: Path = RESULTS / "bench_order.json"


@dataclass(frozen=True)
class Layout:
    """Where clips lie in shards."""

    shard: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    shard_sizes: list[int]


def layout(num_clips: int) -> Layout:
    """Clips of various sizes, one after another, in shards of a thousand."""
    size = np.random.default_rng(0).integers(CLIP_BYTES * 2 // 3, CLIP_BYTES * 4 // 3, num_clips)
    shard = np.arange(num_clips) // CLIPS_PER_SHARD
    ends = np.cumsum(size + MEMBER_BYTES)
    starts = ends - size - MEMBER_BYTES
    firsts = starts[::CLIPS_PER_SHARD]
    shard_sizes = np.add.reduceat(size + MEMBER_BYTES, np.arange(0, num_clips, CLIPS_PER_SHARD))
    return Layout(shard, starts - firsts[shard], size, shard_sizes.tolist())


def measure(args: Args) -> dict[str, Any]:
    """Simulate all orders on all stores; the record for the results folder."""
    counts = read_counts(args.counts)
    rows, place = draws(counts, args.clips), layout(args.clips)
    orders = orders_of(rows, place)
    results = [
        result
        for storage in tqdm(STORES, desc="stores")
        for result in compare_orders(orders, storage, args.clips)
    ]
    small = orders_of(draws(counts, args.real_draws), layout(args.real_draws))
    validation = [
        validate(name, reads, storage, repeats=args.repeats)
        for storage in VALIDATED
        for name, reads in small.items()
    ]
    return {
        "title": "Reading an epoch by order of draws",
        "conditions": {"clips": args.clips, "epochs": EPOCHS, "repeats": args.repeats},
        "machine": machine(),
        "results": results,
        "duplicates": duplicates_by_order(rows, place),
        "gigabytes": {name: int(reads.size.sum()) / GB for name, reads in orders.items()},
        "validation": validation,
    }


def draws(counts: np.ndarray, num_clips: int) -> np.ndarray:
    """The rows of an epoch, where each class has its share of the clips, and at least one."""
    wanted = np.maximum(counts * num_clips // AUDIOSET_CLIPS, 1)
    index = index_by_counts(wanted, num_clips)
    return plan_epoch(index, SamplerConfig(), seed=0, epoch=1).rows


def orders_of(rows: np.ndarray, place: Layout) -> dict[str, Reads]:
    """The requests of an epoch in each order; those of `stage` copy all shards."""
    columns = place.shard, place.offset, place.size
    return {
        "global": in_order(rows, *columns),
        **{shards_name(p): by_shards(rows, *columns, p) for p in PASSES},
        "stage": whole_shards(place.shard_sizes),
    }


def shards_name(passes: int) -> str:
    return f"shards, {passes} passes"


def duplicates_by_order(rows: np.ndarray, place: Layout) -> dict[str, float]:
    """Of each order, the repeats of a clip in a batch of a hundred."""
    found = {"global": duplicates(rows, 1, BATCH_SIZE)}
    for passes in PASSES:
        order = shard_order(rows, place.shard, place.offset, passes)
        found[shards_name(passes)] = duplicates(order, WINDOW, BATCH_SIZE)
    return found


def compare_orders(
    orders: dict[str, Reads], storage: Storage, num_draws: int
) -> list[dict[str, Any]]:
    """Hours of an epoch in each order, and how much faster that is than the global order."""
    seconds = {name: read_time_s(reads, storage) for name, reads in orders.items()}
    base_s, copy_s = seconds["global"], seconds.pop("stage")
    local_s = read_time_s(orders["global"], LOCAL)
    # A copy is counted before any read of it, though it serves as it grows.
    seconds |= {f"stage, {n} epochs": copy_s / n + local_s for n in (1, EPOCHS)}
    return [
        {
            "storage": storage.name,
            "order": name,
            "requests": len(orders[name.split(",")[0] if "stage" in name else name]),
            "hours_per_epoch": epoch_s / 3600,
            "draws_per_s": num_draws / epoch_s,
            "speed_up": base_s / epoch_s,
        }
        for name, epoch_s in seconds.items()
    ]


def validate(name: str, reads: Reads, storage: Storage, *, repeats: int) -> dict[str, Any]:
    """Seconds simulated, and those that threads took which read through `Throttled`."""
    predicted_s = read_time_s(reads, storage)
    real_s = statistics.median(Throttled(storage).read_all(reads) for _ in range(repeats))
    return {
        "storage": storage.name,
        "order": name,
        "requests": len(reads),
        "predicted_s": predicted_s,
        "real_s": real_s,
        "error": predicted_s / real_s - 1,
    }


class Throttled:
    """A storage in front of a real file, where its time is really spent: latency, then one link."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._link = Lock()
        self._link_free = 0.0

    def read_all(self, reads: Reads) -> float:
        """Seconds to make all requests, in order, by as many threads as are served at a time."""
        waits = latencies_s(reads, self._storage).tolist()
        with TemporaryFile() as file, ThreadPoolExecutor(self._storage.concurrent) as pool:
            file.truncate(int((reads.offset + reads.size).max()))
            read = partial(self._read, file.fileno())
            started = time.perf_counter()
            list(pool.map(read, reads.offset.tolist(), reads.size.tolist(), waits))
            return time.perf_counter() - started

    def _read(self, file: int, offset: int, size: int, wait_s: float) -> None:
        time.sleep(wait_s)
        with self._link:
            begun = max(time.perf_counter(), self._link_free)
            self._link_free = arrived = begun + size / self._storage.bandwidth
        os.pread(file, size, offset)
        time.sleep(max(0.0, arrived - time.perf_counter()))


def main() -> None:
    args = cli.parse(Args, __doc__, prog="python -m benchmarks.bench_order")
    content = measure(args)
    for r in content["results"]:
        print(
            f"{r['storage']:<38}{r['order']:<18}{r['hours_per_epoch']:>8.2f} h/epoch"
            f"{r['speed_up']:>8.2f}x"
        )
    for name, number in content["duplicates"].items():
        print(f"{name}: {number:.3f} repeats in a batch of {BATCH_SIZE}")
    for v in content["validation"]:
        print(
            f"{v['order']} on {v['storage']}: simulated {v['predicted_s']:.2f} s, "
            f"read in {v['real_s']:.2f} s ({v['error']:+.0%})"
        )
    write(content, args.output)


if __name__ == "__main__":
    cli.run(main)
