"""Decode and log-mel features: the DALI graph, torch, and torchaudio clip by clip; each stage.

    python -m benchmarks.bench_features [--clips 1000]

Every way starts from the same FLAC bytes in memory (torchaudio's from files) and ends with the same
normalised log-mel, which is checked first. A stage costs what the graph that ends with it takes
longer than the graph that ends before it. With a GPU, both it and the CPU are measured.
"""

import io
import itertools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from nvidia.dali import Pipeline

from benchmarks.corpus import CorpusArgs, MemoryClips, make_corpus, read_clips
from benchmarks.harness import (
    RATES,
    RESULTS,
    Column,
    Open,
    Row,
    compare,
    record,
    steady,
    table,
)
from benchmarks.papers_way import load, torchaudio_log_mel
from benchmarks.tables import finish
from psla_wds import FeatureConfig, cli
from psla_wds.features.dali import PREFETCH_BATCHES, Feed, FrontEnd, graph_stages
from psla_wds.features.encoded_batch import EncodedBatch
from psla_wds.features.log_mel import LogMel, fit, normalise
from psla_wds.sampling.augment import plain_draws
from sharding.packing.engines import num_cores

FEATURES = FeatureConfig()
CPU = torch.device("cpu")
COMPARED_BATCHES = 4
LOUD_ENOUGH = (-13.0 - FEATURES.mean) / FEATURES.std
"""Log-mel below this is rounding near the floor of -15.9, in every implementation."""
LARGEST_DIFFERENCE = 5e-3
"""In normalised units; on real clips torchaudio differs by half of it from its own float64."""
STAGE_COLUMNS = (
    Column("device", "device"),
    Column("stage", "name"),
    Column("us a clip", "us_per_clip", "{:,.0f}", "spread"),
    Column("spread", "spread", "{:.0%}"),
)


@dataclass(frozen=True)
class Args(CorpusArgs):
    output: Path = RESULTS / "bench_features.json"


def encoded(clips: MemoryClips, iteration: int) -> EncodedBatch:
    """DALI's input: no clip is mixed or masked, though the graph does the work of both."""
    audio = clips.batch(iteration)
    return EncodedBatch.of(plain_draws(np.arange(len(audio))), audio)


def decoded(clips: MemoryClips, iteration: int) -> torch.Tensor:
    """Waveforms (clips, samples), decoded by libsndfile; all clips have one length."""
    files = (io.BytesIO(clip.data) for clip in clips.batch(iteration))
    return torch.from_numpy(np.stack([soundfile.read(f, dtype="float32")[0] for f in files]))


def measure(args: Args) -> dict[str, Any]:
    """Compare the ways, then the stages; the record for the results folder."""
    devices = [CPU] + ([torch.device("cuda")] if torch.cuda.is_available() else [])
    corpus = make_corpus(args.corpus, args.clips)
    clips = read_clips(corpus, args.batch_size)
    ways = whole_ways(clips, corpus.paths, devices)
    check_equal(ways)
    for device in devices:
        ways[f"torch, waveforms on the {device.type}"] = partial(matrix_way, clips, device)
    torch.set_num_threads(1)  # of torchaudio, as in a DataLoader worker
    whole = compare_opened(ways, args)
    torch.set_num_threads(num_cores())
    stages = [row for device in devices for row in stage_rows(clips, device, args)]
    tables = [table([Column("", "name"), *RATES], whole), table(STAGE_COLUMNS, stages)]
    return record("Decode and log-mel features of 10 s FLAC clips, warm page cache", tables, args)


def compare_opened(ways: dict[str, Open], args: Args) -> list[Row]:
    timing = {"batch_size": args.batch_size, "seconds": args.seconds}
    rates = {name: steady(opened, **timing) for name, opened in ways.items()}
    return compare(rates, repeats=args.repeats)


def whole_ways(
    clips: MemoryClips, paths: list[Path], devices: list[torch.device]
) -> dict[str, Open]:
    """All from encoded clips to normalised log-mel; the others are compared with the first."""
    ways: dict[str, Open] = {
        "torchaudio, clip by clip, 1 thread": partial(torchaudio_way, paths, clips.batch_size)
    }
    for device in devices:
        ways[f"torch, batched, {device.type}"] = partial(torch_way, clips, device)
        for threads in dict.fromkeys((1, num_cores())):
            name = f"DALI graph, {device.type}, {threads} thread{'s' * (threads > 1)}"
            ways[name] = partial(dali_way, clips, device, threads=threads)
    return ways


@contextmanager
def torchaudio_way(paths: list[Path], batch_size: int) -> Iterator[Iterator[torch.Tensor]]:
    """The paper's way: clip by clip, on the CPU."""
    log_mels = (torchaudio_log_mel(load(path), FEATURES) for path in itertools.cycle(paths))
    batches = (list(itertools.islice(log_mels, batch_size)) for _ in itertools.count())
    yield (normalise(torch.stack(batch), FEATURES) for batch in batches)


@contextmanager
def torch_way(clips: MemoryClips, device: torch.device) -> Iterator[Iterator[torch.Tensor]]:
    """Clips decoded by libsndfile in one thread, then two matrix products on the device."""
    log_mel = LogMel(FEATURES).to(device)
    yield (_finished(log_mel(decoded(clips, i).to(device))) for i in itertools.count())


@contextmanager
def matrix_way(clips: MemoryClips, device: torch.device) -> Iterator[Iterator[torch.Tensor]]:
    """The same on waveforms that lie on the device: the alternative to DALI's later stages."""
    log_mel, waveforms = LogMel(FEATURES).to(device), decoded(clips, 0).to(device)
    yield (_finished(log_mel(waveforms)) for _ in itertools.count())


def _finished(log_mel: torch.Tensor) -> torch.Tensor:
    return normalise(fit(log_mel, FEATURES.num_frames), FEATURES)


@contextmanager
def dali_way(
    clips: MemoryClips, device: torch.device, *, threads: int
) -> Iterator[Iterator[torch.Tensor]]:
    """The graph of training."""
    settings = {"batch_size": clips.batch_size, "num_threads": threads, "device": device}
    front_end = FrontEnd(partial(encoded, clips), FEATURES, **settings)
    yield (front_end.run()[0] for _ in itertools.count())
    del front_end


def check_equal(ways: dict[str, Open]) -> None:
    """Every way gives the features of the first."""
    found = {}
    for name, opened in ways.items():
        with opened() as batches:
            some = itertools.islice(batches, COMPARED_BATCHES)
            found[name] = torch.cat([batch.cpu() for batch in some])
    reference, *_ = found.values()
    for name, features in found.items():
        difference = float((features - reference)[reference > LOUD_ENOUGH].abs().max())
        if difference > LARGEST_DIFFERENCE:
            raise AssertionError(f"{name} differs by {difference:.2g} from torchaudio")


def stage_rows(clips: MemoryClips, device: torch.device, args: Args) -> list[Row]:
    """The cost of each stage, by graphs that end with it. Decoding is on the CPU in any case."""
    with Pipeline(1, 1, None):
        feed = Feed(partial(encoded, clips), FEATURES, rolls=False)
        names = list(graph_stages(feed, FEATURES, CPU))
    ways: dict[str, Open] = {name: partial(stage_way, clips, device, name) for name in names}
    before_us, rows = 0.0, []
    for row in compare_opened(ways, args):
        until_us = 1e6 / row["clips_per_s"]
        rows.append(row | {"device": device.type, "us_per_clip": until_us - before_us})
        before_us = until_us
    return rows


@contextmanager
def stage_way(clips: MemoryClips, device: torch.device, stage: str) -> Iterator[Iterator[object]]:
    """The graph as far as a stage; what only later stages need is not computed."""
    feed = Feed(partial(encoded, clips), FEATURES, rolls=False)
    gpu = None if device.type == "cpu" else torch.cuda.current_device()
    pipeline = Pipeline(clips.batch_size, num_cores(), gpu, prefetch_queue_depth=PREFETCH_BATCHES)
    with pipeline:
        pipeline.set_outputs(graph_stages(feed, FEATURES, device)[stage])
    with warnings.catch_warnings():  # that inputs of later stages are not used
        warnings.filterwarnings("ignore", message="The external source node")
        pipeline.build()
    yield _run(pipeline, feed)
    del pipeline


def _run(pipeline: Pipeline, feed: Feed) -> Iterator[object]:
    while True:
        feed.release()
        outputs = pipeline.run()
        feed.deliver()
        yield outputs


def main() -> None:
    args = cli.parse(Args, __doc__, prog="python -m benchmarks.bench_features")
    finish(measure(args), args.output)


if __name__ == "__main__":
    cli.run(main)
