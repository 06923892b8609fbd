"""Decode and log-mel features: the DALI graph, torch, and torchaudio clip by clip; each stage.

    python -m benchmarks.bench_features [--clips 1000]

Every way starts from the same FLAC bytes in memory (torchaudio's from files) and ends with the same
normalised log-mel, which is checked first. A stage costs what the graph that ends with it takes
longer than the one that ends before it. Its limit is what it must read and write of a clip over
the bandwidth of a copy, measured in the same run. With a GPU, both it and the CPU are measured.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.bench_loader import encoded_clips
from benchmarks.corpus import CLIP_S, RATE_HZ, make_corpus
from benchmarks.harness import RESULTS, compare, record, show, write
from benchmarks.paper_way import check_same
from benchmarks.stage_ways import (
    FEATURES,
    Clips,
    copy_bandwidth,
    dali_way,
    matrix_way,
    stage_bytes,
    stage_way,
    torch_way,
    torchaudio_way,
)
from benchmarks.ways import Timing, steady_rate
from psla_wds import cli
from sharding.packing.engines import num_cores

COMPARED_BATCHES = 4
CPU = torch.device("cpu")

Open = Callable[[], AbstractContextManager[Iterator[Any]]]


@dataclass(frozen=True)
class Args:
    clips: int = 1000
    """Clips of ten seconds."""
    batch_size: int = 32
    repeats: int = 5
    seconds: float = 1.0
    """Time that each way is measured for in each round, once it runs steadily."""
    corpus: Path = Path("data/bench")
    """Folder of the clips; made if it is not there."""
    output: Path = RESULTS / "bench_features.json"


def measure(args: Args) -> dict[str, Any]:
    """Compare the ways, then the stages; the record for the results folder."""
    devices = [CPU] + ([torch.device("cuda")] if torch.cuda.is_available() else [])
    index, paths = make_corpus(args.corpus, num_clips=args.clips)
    clips = Clips(encoded_clips(index), args.batch_size)
    timing = Timing(args.batch_size, args.seconds, args.repeats)
    ways = whole_ways(clips, paths, devices)
    check_equal(ways)
    for device in devices:
        ways[f"torch, waveforms on the {device.type}"] = partial(matrix_way, clips, device)
    torch.set_num_threads(1)  # of torchaudio, as in a DataLoader worker
    results = compare(rates(ways, timing), repeats=args.repeats)
    torch.set_num_threads(num_cores())
    content = record(
        "Decode and log-mel features of 10 s clips",
        results,
        codec="flac",
        clips=args.clips,
        batch_size=args.batch_size,
        page_cache="warm",
        repeats=args.repeats,
    )
    clip_bytes = float(index.size.mean())
    return content | {
        "stages": [
            stage for device in devices for stage in stages(clips, clip_bytes, device, timing)
        ]
    }


def whole_ways(clips: Clips, paths: list[Path], devices: list[torch.device]) -> dict[str, Open]:
    """All from encoded clips to normalised log-mel; the first is what others are compared with."""
    cores = num_cores()
    ways: dict[str, Open] = {
        "torchaudio, clip by clip, 1 thread": partial(torchaudio_way, paths, clips.batch_size)
    }
    for device in devices:
        kind = device.type
        ways[f"torch, batched, {kind}"] = partial(torch_way, clips, device)
        ways[f"DALI graph, {kind}, 1 thread"] = partial(dali_way, clips, device, threads=1)
        ways[f"DALI graph, {kind}, {cores} threads"] = partial(
            dali_way, clips, device, threads=cores
        )
    return ways


def check_equal(ways: dict[str, Open]) -> None:
    """All ways give the features of the first."""

    def first_batches(opened: Open) -> torch.Tensor:
        with opened() as batches:
            return torch.cat([b.cpu() for b in itertools.islice(batches, COMPARED_BATCHES)])

    reference, *others = (first_batches(opened) for opened in ways.values())
    for name, features in zip(list(ways)[1:], others, strict=True):
        check_same(name, features, reference, FEATURES)


def rates(ways: dict[str, Open], timing: Timing) -> dict[str, Callable[[], float]]:
    return {name: lambda o=opened: steady_rate(o(), timing) for name, opened in ways.items()}


def stages(
    clips: Clips, clip_bytes: float, device: torch.device, timing: Timing
) -> list[dict[str, Any]]:
    """What each stage costs, by graphs that end with it, and at most could do by its bytes.

    Decoding is on the CPU whatever the device.
    """
    moved = stage_bytes(clip_bytes, int(CLIP_S * RATE_HZ))
    ways: dict[str, Open] = {
        stage: partial(stage_way, clips, device, stage, threads=num_cores()) for stage in moved
    }
    bandwidths = {kind: copy_bandwidth(kind) for kind in (CPU, device)}
    before_us, found = 0.0, []
    for number, result in enumerate(compare(rates(ways, timing), repeats=timing.repeats)):
        until_us = 1e6 / result.clips_per_s
        bandwidth = bandwidths[CPU if number == 0 else device]
        found.append(
            asdict(result)
            | {
                "device": device.type,
                "us_per_clip": until_us - before_us,
                "limit_us_per_clip": 1e6 * moved[result.name] / bandwidth,
                "bytes_per_clip": moved[result.name],
                "gb_per_s": bandwidth / 1e9,
            }
        )
        before_us = until_us
    return found


def main() -> None:
    args = cli.parse(Args, __doc__, prog="python -m benchmarks.bench_features")
    content = measure(args)
    show(content)
    for stage in content["stages"]:
        print(
            f"{stage['device']}, {stage['name']}: {stage['us_per_clip']:,.0f} us a clip, "
            f"at least {stage['limit_us_per_clip']:,.0f} by its bytes"
        )
    write(content, args.output)


if __name__ == "__main__":
    cli.run(main)
