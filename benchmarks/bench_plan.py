"""The plan of an epoch: time and memory, for each way of sampling.

    python -m benchmarks.bench_plan --counts audioset_label_counts.csv

The clips have the classes of AudioSet as often as AudioSet has them; there is no audio. The file of
counts has a row a class and the column full_train_2M_panns.
"""

import csv
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
from jaxtyping import Int64, UInt16

from benchmarks.harness import RESULTS, compare, record, show, timed, write
from psla_wds import cli
from psla_wds.labels.class_list import ClassList
from psla_wds.sampling.plan import SamplerConfig, Sampling, plan_epoch
from psla_wds.shards.index import ShardIndex

COUNTS_COLUMN = "full_train_2M_panns"


@dataclass(frozen=True)
class Args:
    counts: Path
    """CSV of how many clips of AudioSet carry each class."""
    clips: int = 2_000_000
    repeats: int = 5
    output: Path = RESULTS / "bench_plan.json"


def measure(args: Args) -> dict[str, Any]:
    """Compare the ways of sampling; the record for the results folder."""
    index = index_by_counts(read_counts(args.counts), args.clips)
    bodies: dict[str, Callable[[], int]] = {
        sampling: partial(plan, index, sampling) for sampling in get_args(Sampling)
    }
    content = record(
        "Plan of an epoch; a draw counts as a clip",
        compare({n: timed(b) for n, b in bodies.items()}, repeats=args.repeats),
        clips=args.clips,
        labels=len(index.label_values),
        repeats=args.repeats,
    )
    for result in content["results"]:
        result["plan_s"] = args.clips / result["clips_per_s"]
        result["peak_mib"] = peak_mib(bodies[result["name"]])
    return content


def plan(index: ShardIndex, sampling: Sampling) -> int:
    """Plan an epoch; how many draws it has."""
    return len(plan_epoch(index, SamplerConfig(sampling=sampling), seed=0, epoch=1).rows)


def peak_mib(body: Callable[[], int]) -> float:
    """Most memory that the body holds at once, beyond what was held before."""
    tracemalloc.start()
    try:
        body()
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


def read_counts(path: Path) -> Int64[np.ndarray, " classes"]:
    """Clips of the full AudioSet that carry each class."""
    with path.open(encoding="utf-8", newline="") as file:
        return np.array([int(row[COUNTS_COLUMN]) for row in csv.DictReader(file)], np.int64)


def index_by_counts(counts: Int64[np.ndarray, " classes"], num_clips: int) -> ShardIndex:
    """An index where each class has its count of clips.

    Labels are dealt, class after class, round and round clips in random order: none gets one
    twice, and all get as many, but for one label.
    """
    labels = np.repeat(np.arange(len(counts), dtype=np.uint16), counts)
    order = np.random.default_rng(0).permutation(num_clips)
    clips = order[np.arange(len(labels)) % num_clips]
    starts = np.concatenate([[0], np.cumsum(np.bincount(clips, minlength=num_clips))])
    return label_index(starts, labels[np.argsort(clips, kind="stable")], len(counts))


def label_index(
    label_starts: Int64[np.ndarray, " clips+1"],
    label_values: UInt16[np.ndarray, " labels"],
    num_classes: int,
) -> ShardIndex:
    """An index of clips that carry these labels; nothing else of it is meant."""
    zeros = np.zeros(len(label_starts) - 1, np.int64)
    names = tuple(f"class {number}" for number in range(num_classes))
    return ShardIndex(
        shards=(),
        shard_sizes=(),
        classes=ClassList(names, names),
        splits=("",),
        sample_rate_hz=16_000,
        fingerprint="labels",
        shard=zeros.astype(np.uint32),
        offset=zeros,
        size=zeros,
        crc32=zeros.astype(np.uint32),
        num_samples=zeros,
        split=zeros.astype(np.uint8),
        label_starts=label_starts,
        label_values=label_values,
        id_starts=np.zeros(len(label_starts), np.int64),
        id_bytes=np.zeros(0, np.uint8),
    )


def main() -> None:
    args = cli.parse(Args, __doc__, prog="python -m benchmarks.bench_plan")
    content = measure(args)
    show(content)
    for result in content["results"]:
        print(f"{result['name']}: {result['plan_s']:.2f} s, {result['peak_mib']:.0f} MiB at most")
    write(content, args.output)


if __name__ == "__main__":
    cli.run(main)
