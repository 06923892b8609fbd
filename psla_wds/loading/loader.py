"""The loader: batches of log-mel spectrograms and targets, in the order of a schedule."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float32, Int64

from psla_wds.audio.pcm import decode_pcm
from psla_wds.errors import ConfigError, ShardError
from psla_wds.features.config import FeatureConfig
from psla_wds.features.encoded_batch import EncodedBatch, UndecodableBatchError
from psla_wds.features.on_cpu import CpuFrontEnd
from psla_wds.loading.epochs import BatchSource
from psla_wds.reading.config import ReaderConfig
from psla_wds.reading.read_tuner import verdict
from psla_wds.reading.reader import DamagedClipError
from psla_wds.sampling.augment import Draws, mixed_targets
from psla_wds.sampling.config import AugmentConfig, SamplerConfig
from psla_wds.sampling.schedule import Schedule
from psla_wds.shards.index import ShardIndex
from psla_wds.shards.soft_labels import SoftLabels

if TYPE_CHECKING:
    from psla_wds.features.dali import FrontEnd


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """Draws, features and reading. Defaults are the paper's for the full AudioSet."""

    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    features: FeatureConfig = field(default_factory=FeatureConfig)
    reader: ReaderConfig = field(default_factory=ReaderConfig)
    device: torch.device | str | None = None
    """Device of the features and batches. Default: the current GPU, or the CPU."""

    @property
    def log_mel_shape(self) -> tuple[int, int]:
        """Frames and mels of a spectrogram."""
        return self.features.num_frames, self.features.num_mels


@dataclass(frozen=True)
class Batch:
    """Input of one forward pass on one rank."""

    log_mel: Float32[torch.Tensor, "draws frames mels"]
    """Normalised; on the training device."""
    targets: Float32[torch.Tensor, "draws classes"]
    """0 or 1, or between them where draws are mixed; on the training device."""
    rows: Int64[np.ndarray, " draws"]
    soft_targets: Float32[torch.Tensor, "draws classes"] | None = None
    """A teacher's scores, mixed as the clips are; None if the index has no soft labels."""


class Loader(BatchSource[Batch]):
    """Batches of a schedule, in its order; `psla_wds.loading.batches` opens it."""

    def __init__(self, index: ShardIndex, schedule: Schedule, config: LoaderConfig) -> None:
        self._config, self._device = config, _device(config)
        self._uses_dali = needs_dali(self._device)
        _check_sample_rate(index, config.features)
        super().__init__(index, schedule, config.reader)
        self._changes = schedule.changes
        if not (index.num_samples > config.features.max_clip_samples).any():
            self._changes = tuple(c for c in schedule.changes if c != "crops")
        self._iteration = 0
        self._front_end: FrontEnd | CpuFrontEnd | None = self._open_front_end()

    def _next(self) -> Batch:
        assert self._front_end
        while True:
            try:
                log_mel, encoded = self._front_end.run()
                break
            except UndecodableBatchError as error:
                self._ahead.replace(self._undecodable_clip(error))
                # It would continue with the batch after the bad one; a new front end begins with
                # the bad one, so that no batch is lost and the order stays.
                self._front_end = self._open_front_end()
        self._iteration += 1
        if self._checks_lengths:
            self._check_lengths(encoded, self._front_end.lengths)
        draws, soft_labels = encoded.draws, self._index.soft_labels
        soft_targets = None if soft_labels is None else self._targets(soft_labels, draws)
        return Batch(log_mel, self._targets(self._index, draws), draws.rows, soft_targets)

    def _restart(self) -> None:
        self._iteration = 0
        self._front_end = self._open_front_end()

    def close(self) -> None:
        """End the threads and close the shards."""
        self._front_end = None
        super().close()

    @property
    def damaged_rows(self) -> frozenset[int]:
        """Rows of the clips that were replaced because they are damaged."""
        return frozenset(self._ahead.damaged)

    @property
    def storage_wait_s(self) -> float:
        """Seconds spent waiting for reads so far; the rest of the waiting was for decoding."""
        return self._ahead.waited_s

    def verdict(self, data_wait: float, storage_wait: float) -> str:
        """One line: what bounded a stretch of training, by shares of its time, and what helps."""
        threads = self._config.reader.decoders()
        return verdict(data_wait, storage_wait, tuner=self._ahead.tuner, decode_threads=threads)

    def _targets(
        self, labels: ShardIndex | SoftLabels, draws: Draws
    ) -> Float32[torch.Tensor, "draws classes"]:
        targets = torch.from_numpy(mixed_targets(labels, draws))
        if self._device.type != "cuda":
            return targets
        return targets.pin_memory().to(self._device, non_blocking=True)

    @property
    def _checks_lengths(self) -> bool:
        return "crops" in self._changes and not self._schedule.replaces_damaged

    def _open_front_end(self) -> "FrontEnd | CpuFrontEnd":
        """A front end that begins with the current iteration."""
        first, features = self._iteration, self._config.features
        threads = self._config.reader.decoders()

        def source(iteration: int) -> EncodedBatch:
            return self._ahead.batch(first + iteration)

        if not self._uses_dali:
            return CpuFrontEnd(source, features, self._changes, num_threads=threads)
        from psla_wds.features.dali import Feed, FrontEnd

        return FrontEnd(
            Feed(source, features, self._changes),
            batch_size=self._schedule.clips_per_pass,
            num_threads=threads,
            device=self._device,
            with_lengths=self._checks_lengths,
        )

    def _check_lengths(self, batch: EncodedBatch, lengths: list[int]) -> None:
        """Raise if a clip of several windows is not as long as the index says, which counts
        them."""
        for row, length in zip(batch.draws.rows.tolist(), lengths, strict=False):
            if length != self._index.num_samples[row]:
                stated = f"{self._index.num_samples[row]:,} samples by the index"
                raise DamagedClipError(f"has {length:,} and {stated}", self._index, row)

    def _undecodable_clip(self, error: UndecodableBatchError) -> DamagedClipError:
        """The clip that the front end failed on; DALI does not say which."""
        for row, clip in error.batch.clips:
            try:
                decode_pcm(clip.data)
            except RuntimeError as reason:
                return DamagedClipError(f"cannot be decoded: {reason}", self._index, row)
        raise ShardError(
            "the front end cannot decode a clip of a batch, though libsndfile can decode all",
            where="; ".join(self._index.where(row) for row, _ in error.batch.clips),
            fix="delete this shard and its sidecar, and run the same psla-wds build again",
        ) from error


def needs_dali(device: torch.device) -> bool:
    """Whether DALI makes the batches on this device: on a GPU. `ConfigError` unless it, which one
    of two extras installs, can be imported then."""
    if device.type == "cpu":
        return False
    try:
        import psla_wds.features.dali  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"NVIDIA DALI, which makes the batches on a GPU, cannot be imported: {error}",
            where="the Python environment",
            fix="python -m pip install nvidia-dali-cuda130; for drivers before 580, "
            "python -m pip install nvidia-dali-cuda120",
        ) from None
    return True


def _check_sample_rate(index: ShardIndex, features: FeatureConfig) -> None:
    if index.sample_rate_hz != features.sample_rate_hz:
        raise ConfigError(
            f"the shards are at {index.sample_rate_hz} Hz, the front end expects "
            f"{features.sample_rate_hz} Hz",
            where="features.sample_rate_hz",
            fix=f"build the shards with --sample-rate-hz {features.sample_rate_hz}",
        )


def _device(config: LoaderConfig) -> torch.device:
    if config.device is not None:
        return torch.device(config.device)
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())
