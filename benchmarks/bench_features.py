"""Time decoding and log-mel features: DALI's graph, torch, and torchaudio clip by clip.

Every way starts from the same FLAC bytes in memory (torchaudio from files) and ends with the same
normalised log-mel, which is checked first. The cost of a stage is the difference between the graph
that ends with it and the one that ends before it. With a GPU, both GPU and CPU are measured.

    python -m benchmarks.bench_features --clips 1000
"""

import io
import itertools
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from nvidia.dali import Pipeline

from benchmarks import harness
from benchmarks.corpus import CorpusArgs, make_corpus, read_clips
from benchmarks.harness import RATES, RESULTS, BatchSize, Column, Open, Row, record, table
from benchmarks.papers_way import load, torchaudio_log_mel
from benchmarks.tables import run_benchmark
from psla_wds import FeatureConfig
from psla_wds.features.dali import PREFETCH_BATCHES, Feed, FrontEnd, graph_stages
from psla_wds.features.encoded_batch import EncodedBatch
from psla_wds.features.log_mel import (
    SMALLEST_ENERGY,
    LogMel,
    fit,
    mel_matrix,
    normalise,
    spectrum_matrix,
)
from psla_wds.features.on_cpu import CpuFrontEnd
from psla_wds.sampling.augment import plain_draws
from sharding.packing.engines import num_cores

logger = logging.getLogger("features")

FEATURES = FeatureConfig()
CPU = torch.device("cpu")
COMPARED_BATCHES, ROUND_CLIPS = 4, 100
LOUD_ENOUGH = (-13.0 - FEATURES.mean) / FEATURES.std
"""Log-mel below this is dominated by rounding near the floor of -15.9, in every implementation."""
LARGEST_DIFFERENCE = 5e-3
"""Tolerance in normalised units; torchaudio differs by half of it from itself in float64."""
STAGE_COLUMNS = (
    Column("device", "device"),
    Column("stage", "name"),
    Column("us a clip", "us_per_clip", "{:,.0f}", "spread"),
    Column("spread", "spread", "{:.0%}"),
)


@dataclass(frozen=True)
class Args(CorpusArgs):
    batch_size: BatchSize = 32
    """Clips of a batch; with more, each way takes longer to run steadily."""
    output: Path = RESULTS / "bench_features.json"


Batches = list[list[np.ndarray]]
"""Encoded clips in memory, cut into batches that come again and again."""


def encoded(clips: Batches, iteration: int) -> EncodedBatch:
    """DALI's input: no clip is mixed or masked, but the graph does the work of both."""
    audio = clips[iteration % len(clips)]
    return EncodedBatch.of(plain_draws(np.arange(len(audio))), audio)


def decoded(clips: list[np.ndarray]) -> torch.Tensor:
    """Waveforms (clips, samples), decoded by libsndfile; all clips have one length."""
    files = (io.BytesIO(clip.data) for clip in clips)
    return torch.from_numpy(np.stack([soundfile.read(f, dtype="float32")[0] for f in files]))


def measure(args: Args) -> dict[str, Any]:
    """Compare the ways, then the stages; the record for the results folder."""
    devices = [CPU] + ([torch.device("cuda")] if torch.cuda.is_available() else [])
    corpus = make_corpus(args.corpus, args.clips)
    clips = read_clips(corpus, args.batch_size)
    ways = whole_ways(clips, corpus.paths, devices)
    check_equal(ways)
    for device in devices:
        name = f"torch, waveforms on the {device.type}"  # the alternative to DALI's later stages
        ways[name] = partial(torch_way, clips, device, decodes=False)
    torch.set_num_threads(1)  # for torchaudio, as in a DataLoader worker
    whole = compare_opened(ways, args)
    log_mel = harness.compare(log_mel_ways(decoded(clips[0])[0]), repeats=args.repeats)
    torch.set_num_threads(num_cores())
    stages = [row for device in devices for row in stage_rows(clips, device, args)]
    tables = [
        table([Column("", "name"), *RATES], whole),
        table(STAGE_COLUMNS, stages),
        table([Column("log-mel of a waveform in memory, 1 thread", "name"), *RATES], log_mel),
    ]
    return record("Decode and log-mel features of 10 s FLAC clips, warm page cache", tables, args)


def log_mel_ways(waveform: torch.Tensor) -> dict[str, harness.Rate]:
    """Log-mel of one clip on the CPU. asrfront's is a front end in C that many speech models share:
    as many mels, but without Kaldi's steps, so its features are others."""
    transform, matrix = LogMel(FEATURES), spectrum_matrix(FEATURES).float()
    mels = mel_matrix(FEATURES).T.contiguous()

    def by_matrix(waveform: torch.Tensor) -> torch.Tensor:
        frames = waveform.unfold(-1, FEATURES.window_samples, FEATURES.hop_samples)
        spectrum = (frames - frames.mean(-1, keepdim=True)) @ matrix
        real, imaginary = spectrum.chunk(2, dim=-1)
        return ((real.square() + imaginary.square()) @ mels).clamp(min=SMALLEST_ENERGY).log()

    ways: dict[str, Callable[[torch.Tensor], Any]] = {
        "one matrix product, as in exported models": by_matrix,
        "torchaudio": partial(torchaudio_log_mel, features=FEATURES),
        "psla-wds": transform,
    }
    if find_spec("asrfront"):
        from asrfront import whisper

        settings = {"n_mels": FEATURES.num_mels, "pad_or_trim": False}
        ways["asrfront, C"] = lambda waveform: whisper.log_mel(waveform.numpy(), **settings)
    else:
        logger.warning("left out, not installed: asrfront; pip install -e '.[bench]' adds it")

    def repeated(way: Callable[[torch.Tensor], Any]) -> int:
        with torch.inference_mode():
            for _ in range(ROUND_CLIPS):
                way(waveform)
        return ROUND_CLIPS

    return {name: harness.timed(partial(repeated, way)) for name, way in ways.items()}


def compare_opened(ways: dict[str, Open], args: Args) -> list[Row]:
    timing = {"batch_size": args.batch_size, "seconds": args.seconds}
    rates = {name: harness.steady(opened, **timing) for name, opened in ways.items()}
    return harness.compare(rates, repeats=args.repeats)


def whole_ways(clips: Batches, paths: list[Path], devices: list[torch.device]) -> dict[str, Open]:
    """Ways from encoded clips to normalised log-mel; the others are compared with the first."""
    ways: dict[str, Open] = {
        "torchaudio, clip by clip, 1 thread": partial(torchaudio_way, paths, len(clips[0]))
    }
    for device in devices:
        ways[f"torch, batched, {device.type}"] = partial(torch_way, clips, device)
        for threads in dict.fromkeys((1, num_cores())):
            name = f"DALI graph, {device.type}, {threads} thread{'s' * (threads > 1)}"
            ways[name] = partial(dali_way, clips, device, threads=threads)
    for threads in dict.fromkeys((1, num_cores())):
        name = f"psla-wds on a CPU, {threads} thread{'s' * (threads > 1)}"
        ways[name] = partial(cpu_way, clips, threads=threads)
    return ways


@contextmanager
def torchaudio_way(paths: list[Path], batch_size: int) -> Iterator[Iterator[torch.Tensor]]:
    """The paper's way: clip by clip, on the CPU."""
    log_mels = (torchaudio_log_mel(load(path), FEATURES) for path in itertools.cycle(paths))
    batches = (list(itertools.islice(log_mels, batch_size)) for _ in itertools.count())
    yield (normalise(torch.stack(batch), FEATURES) for batch in batches)


@contextmanager
def torch_way(
    clips: Batches, device: torch.device, *, decodes: bool = True
) -> Iterator[Iterator[torch.Tensor]]:
    """Clips decoded by libsndfile in one thread, then log-mel on the device.

    Args:
        decodes: False for waveforms that lie on the device already.
    """
    log_mel, waveforms = LogMel(FEATURES).to(device), decoded(clips[0]).to(device)
    source = (decoded(b).to(device) for b in itertools.cycle(clips)) if decodes else None
    endless = source or itertools.repeat(waveforms)
    yield (normalise(fit(log_mel(w), FEATURES.num_frames), FEATURES) for w in endless)


@contextmanager
def dali_way(
    clips: Batches, device: torch.device, *, threads: int
) -> Iterator[Iterator[torch.Tensor]]:
    """The graph of training on a GPU."""
    settings = {"batch_size": len(clips[0]), "num_threads": threads, "device": device}
    front_end = FrontEnd(Feed(partial(encoded, clips), FEATURES), **settings)
    yield (front_end.run()[0] for _ in itertools.count())
    del front_end


@contextmanager
def cpu_way(clips: Batches, *, threads: int) -> Iterator[Iterator[torch.Tensor]]:
    """The front end of training on a CPU."""
    front_end = CpuFrontEnd(partial(encoded, clips), FEATURES, num_threads=threads)
    yield (front_end.run()[0] for _ in itertools.count())


def check_equal(ways: dict[str, Open]) -> None:
    """Raise `AssertionError` unless every way gives the features of the first."""
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


def stage_rows(clips: Batches, device: torch.device, args: Args) -> list[Row]:
    """The cost of each stage, from graphs that end with it. Decoding always runs on the CPU."""
    with Pipeline(1, 1, None):
        feed = Feed(partial(encoded, clips), FEATURES)
        names = list(graph_stages(feed, CPU))
    ways: dict[str, Open] = {name: partial(stage_way, clips, device, name) for name in names}
    before_us, rows = 0.0, []
    for row in compare_opened(ways, args):
        until_us = 1e6 / row["clips_per_s"]
        rows.append(row | {"device": device.type, "us_per_clip": until_us - before_us})
        before_us = until_us
    return rows


@contextmanager
def stage_way(clips: Batches, device: torch.device, stage: str) -> Iterator[Iterator[object]]:
    """The graph up to a stage; what only later stages need is not computed."""
    feed = Feed(partial(encoded, clips), FEATURES)
    gpu = None if device.type == "cpu" else torch.cuda.current_device()
    pipeline = Pipeline(len(clips[0]), num_cores(), gpu, prefetch_queue_depth=PREFETCH_BATCHES)
    with pipeline:
        pipeline.set_outputs(graph_stages(feed, device)[stage])
    with warnings.catch_warnings():  # inputs of later stages are not used
        warnings.filterwarnings("ignore", message="The external source node")
        pipeline.build()

    def run() -> Iterator[object]:
        while True:
            feed.release()
            outputs = pipeline.run()
            feed.deliver()
            yield outputs

    yield run()
    del pipeline


if __name__ == "__main__":
    run_benchmark("benchmarks.bench_features", __doc__, Args, measure)
