"""Mean and deviation of the log-mel values of clips, which a model subtracts and divides by."""

import os
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float32, Int64

from psla_wds.audio.files import reason_of
from psla_wds.audio.pcm import decode_pcm
from psla_wds.errors import ShardError
from psla_wds.features.config import FeatureConfig
from psla_wds.printable import typed
from psla_wds.progress import progress_bar
from psla_wds.reading.reader import Reader
from psla_wds.shards.index import ShardIndex

CLIPS_AT_ONCE = 32
OFF = 0.5
"""Standard deviations by which the normalisation may be off without a warning."""


class LogMelMoments:
    """Mean and standard deviation of the log-mel values that a model sees, without padding."""

    def __init__(self, features: FeatureConfig) -> None:
        from psla_wds.features.log_mel import LogMel  # here, since torch takes seconds to import

        self._front_end, self._max_samples = LogMel(features), features.max_clip_samples
        self._count, self._sum, self._squares = 0, 0.0, 0.0

    def add(self, waveform: Float32[np.ndarray, " samples"]) -> None:
        import torch

        log_mel = self._front_end(torch.from_numpy(waveform[: self._max_samples])).double()
        self._count += log_mel.numel()
        self._sum += log_mel.sum().item()
        self._squares += log_mel.square().sum().item()

    def summary(self) -> dict[str, float]:
        mean = self._sum / max(self._count, 1)
        variance = self._squares / max(self._count, 1) - mean**2
        return {"mean": mean, "std": max(variance, 0.0) ** 0.5}


def is_off(log_mel: dict[str, float], features: FeatureConfig) -> bool:
    """Whether the normalisation is half a standard deviation or more off that of the clips."""
    differences = (log_mel["mean"] - features.mean, log_mel["std"] - features.std)
    return max(map(abs, differences)) > OFF * features.std


def random_rows(index: ShardIndex, num_clips: int, seed: int) -> Int64[np.ndarray, " rows"]:
    """Rows of a random sample of the clips, in their order."""
    chosen = min(num_clips, len(index))
    return np.sort(np.random.default_rng(seed).choice(len(index), chosen, replace=False))


def waveforms_of(
    index: ShardIndex, rows: Int64[np.ndarray, " rows"]
) -> Iterator[Float32[np.ndarray, " samples"]]:
    """The clips of some rows, decoded; `ShardError` at one that cannot be."""
    reader = Reader(index, threads=len(os.sched_getaffinity(0)))
    try:
        with progress_bar(desc="decoding a sample", total=len(rows)) as bar:
            for start in range(0, len(rows), CLIPS_AT_ONCE):
                some = rows[start : start + CLIPS_AT_ONCE]
                for row, clip in zip(some, reader.start(some).wait(), strict=True):
                    yield _decoded(index, row, clip.tobytes())
                    bar.update()
    finally:
        reader.close()


def _decoded(index: ShardIndex, row: np.integer, audio: bytes) -> Float32[np.ndarray, " samples"]:
    try:
        pcm, _ = decode_pcm(audio)
    except RuntimeError as error:
        raise ShardError(
            f"the clip cannot be decoded: {reason_of(error)}",
            where=index.where(row),
            fix=f"find all such clips: psla-wds check {typed(index.shards[0].parent)} --deep",
        ) from None
    return pcm.astype(np.float32) / 32768
