"""Ways from encoded clips in memory to log-mel, and DALI's graph cut off after each stage."""

import io
import itertools
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile
import torch
from nvidia.dali import Pipeline

from benchmarks.harness import synchronize
from benchmarks.paper_way import clip_features
from psla_wds.features.config import FeatureConfig
from psla_wds.features.dali import PREFETCH_BATCHES, Feed, FrontEnd, graph_stages
from psla_wds.features.encoded_batch import NULL_WAV, EncodedBatch
from psla_wds.features.log_mel import LogMel, fit, normalise
from psla_wds.sampling.augment import plain_draws

FEATURES = FeatureConfig()
COPIED_BYTES = 2**28
COPY_REPEATS = 10


class Clips:
    """Encoded clips in memory, cut into batches that come again and again."""

    def __init__(self, clips: list[np.ndarray], batch_size: int) -> None:
        self.batch_size = batch_size
        self._clips = clips
        self._starts = range(0, len(clips) - batch_size + 1, batch_size)

    def batch(self, iteration: int) -> list[np.ndarray]:
        start = self._starts[iteration % len(self._starts)]
        return self._clips[start : start + self.batch_size]

    def encoded_batch(self, iteration: int) -> EncodedBatch:
        """What DALI is fed: no clip is mixed or masked, though the graph does the work of both."""
        draws = plain_draws(np.arange(self.batch_size))
        return EncodedBatch.of(draws, self.batch(iteration))

    def waveforms(self, iteration: int) -> torch.Tensor:
        """Decoded by libsndfile, (clips, samples): all have one length."""
        decoded = [
            soundfile.read(io.BytesIO(c.data), dtype="float32") for c in self.batch(iteration)
        ]
        return torch.from_numpy(np.stack([samples for samples, _ in decoded]))


@contextmanager
def torchaudio_way(paths: list[Path], batch_size: int) -> Iterator[Iterator[torch.Tensor]]:
    """The paper's: clip by clip, on the CPU."""
    features = (
        normalise(clip_features(path, None, 1.0, FEATURES), FEATURES)
        for path in itertools.cycle(paths)
    )
    yield (torch.stack([next(features) for _ in range(batch_size)]) for _ in itertools.count())


@contextmanager
def torch_way(clips: Clips, device: torch.device) -> Iterator[Iterator[torch.Tensor]]:
    """Decoded by libsndfile in one thread, then two matrix products on the device."""
    log_mel = LogMel(FEATURES).to(device)
    yield (_finish(log_mel(clips.waveforms(i).to(device))) for i in itertools.count())


@contextmanager
def matrix_way(clips: Clips, device: torch.device) -> Iterator[Iterator[torch.Tensor]]:
    """The same on waveforms that lie on the device: the alternative to DALI's later stages."""
    log_mel, waveforms = LogMel(FEATURES).to(device), clips.waveforms(0).to(device)
    yield (_finish(log_mel(waveforms)) for _ in itertools.count())


def _finish(log_mel: torch.Tensor) -> torch.Tensor:
    return normalise(fit(log_mel, FEATURES.num_frames), FEATURES)


@contextmanager
def dali_way(
    clips: Clips, device: torch.device, *, threads: int
) -> Iterator[Iterator[torch.Tensor]]:
    """The graph of training."""
    front_end = FrontEnd(
        clips.encoded_batch,
        FEATURES,
        batch_size=clips.batch_size,
        num_threads=threads,
        device=device,
    )
    yield (front_end.run()[0] for _ in itertools.count())
    del front_end


def stage_names() -> list[str]:
    """Stages of the graph, in order."""
    with Pipeline(1, 1, None):
        feed = Feed(Clips([NULL_WAV], 1).encoded_batch, FEATURES, rolls=False)
        return list(graph_stages(feed, FEATURES, torch.device("cpu")))


@contextmanager
def stage_way(
    clips: Clips, device: torch.device, stage: str, *, threads: int
) -> Iterator[Iterator[object]]:
    """The graph as far as a stage; what only later ones need is not computed."""
    feed = Feed(clips.encoded_batch, FEATURES, rolls=False)
    pipeline = Pipeline(
        clips.batch_size,
        threads,
        None if device.type == "cpu" else torch.cuda.current_device(),
        prefetch_queue_depth=PREFETCH_BATCHES,
    )
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


def stage_bytes(clip_bytes: float, num_samples: int) -> dict[str, float]:
    """What each stage must at least read and write of a clip that is not mixed."""
    samples = 4 * num_samples
    frames = (num_samples - FEATURES.window_samples) // FEATURES.hop_samples + 1
    power, log_mel = 4 * frames * FEATURES.num_bins, 4 * frames * FEATURES.num_mels
    fitted = 4 * FEATURES.num_frames * FEATURES.num_mels
    moved = (clip_bytes + samples, 2 * samples, samples + power, power + log_mel, log_mel + fitted)
    return dict(zip(stage_names(), moved, strict=True))


def copy_bandwidth(device: torch.device) -> float:
    """Bytes a second that torch reads and writes in copying a large tensor on the device."""
    source = torch.zeros(COPIED_BYTES, dtype=torch.uint8, device=device)
    target = source.clone()
    synchronize()
    started = time.perf_counter()
    for _ in range(COPY_REPEATS):
        target.copy_(source)
    synchronize()
    return 2 * COPIED_BYTES * COPY_REPEATS / (time.perf_counter() - started)
