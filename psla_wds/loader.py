"""The loader: batches of log-mel spectrograms and targets, in the order of a schedule."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import torch
from jaxtyping import Float32, Int64

from psla_wds.audio import decode_pcm
from psla_wds.augment import Draws
from psla_wds.errors import ConfigError, ShardError
from psla_wds.features import FeatureConfig
from psla_wds.pipeline import NULL_WAV, EncodedBatch, FrontEnd, UndecodableBatchError
from psla_wds.reader import PendingRead, Reader, ReaderConfig
from psla_wds.schedule import Schedule
from psla_wds.shard_index import ShardIndex


@dataclass(frozen=True)
class Batch:
    """What one rank gets for one forward pass."""

    log_mel: Float32[torch.Tensor, "draws frames mels"]
    """Normalised; on the device of training."""
    targets: Float32[torch.Tensor, "draws classes"]
    """0 or 1, and between them where draws are mixed; on the device of training."""
    rows: Int64[np.ndarray, " draws"]


class Loader:
    """Iterates once over a schedule. Close it, best by `with`: it holds threads and files."""

    def __init__(
        self,
        index: ShardIndex,
        schedule: Schedule,
        *,
        clips_per_pass: int,
        features: FeatureConfig,
        config: ReaderConfig,
        device: torch.device,
    ) -> None:
        _check_sample_rate(index, features)
        self._index, self._schedule, self._device = index, schedule, device
        self._iteration = 0
        self._reader = Reader(index, threads=config.threads)
        self._front_end = FrontEnd(
            _ReadAhead(self._reader, index, schedule, config).encoded_batch,
            features,
            batch_size=clips_per_pass,
            num_threads=config.decode_threads,
            device=device,
        )

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        try:
            log_mel = self._front_end.run()
        except UndecodableBatchError as error:
            self._name_undecodable_clip(error)
        draws = self._schedule(self._iteration)
        assert draws is not None  # or there had been no audio
        self._iteration += 1
        targets = torch.from_numpy(mixed_targets(self._index, draws))
        if self._device.type == "cuda":
            targets = targets.pin_memory().to(self._device, non_blocking=True)
        return Batch(log_mel, targets, draws.rows)

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the threads and close the shards."""
        self._reader.close()

    def _name_undecodable_clip(self, error: UndecodableBatchError) -> NoReturn:
        draws = self._schedule(error.iteration)
        assert draws is not None
        rows = rows_read(draws)
        for row, clip in zip(rows, self._reader.start(rows).wait(), strict=True):
            try:
                decode_pcm(clip.data)
            except RuntimeError as reason:
                shard = self._index.shards[self._index.shard[row]]
                raise ShardError(
                    f"the clip cannot be decoded: {reason}",
                    where=self._index.where(row),
                    fix=f"find all such clips with: python -m sharding.check {shard.parent} --deep",
                ) from None
        raise error


class _ReadAhead:
    """Has the clips of the coming iterations read, within bounds of batches and of bytes."""

    def __init__(
        self, reader: Reader, index: ShardIndex, schedule: Schedule, config: ReaderConfig
    ) -> None:
        self._reader, self._index, self._schedule = reader, index, schedule
        self._max_batches = config.prefetch_batches
        self._max_bytes = config.memory_mib * 2**20
        self._pending: dict[int, _Pending] = {}

    def encoded_batch(self, iteration: int) -> EncodedBatch:
        """What the pipeline is fed; `StopIteration` after the last iteration."""
        if not self._start(iteration):
            raise StopIteration
        pending = self._pending.pop(iteration)
        coming = iteration + 1
        while len(self._pending) < self._max_batches and self._has_room() and self._start(coming):
            coming += 1
        clips = pending.read.wait()
        draws = pending.draws
        partners = iter(clips[len(draws.rows) :])
        return EncodedBatch(
            audio=clips[: len(draws.rows)],
            partner_audio=[next(partners) if mixed else NULL_WAV for mixed in draws.mixed],
            lam=draws.lam,
            masks=draws.masks,
        )

    def _has_room(self) -> bool:
        return sum(pending.num_bytes for pending in self._pending.values()) < self._max_bytes

    def _start(self, iteration: int) -> bool:
        """Begin to read an iteration unless that was done; False when there is none."""
        if iteration in self._pending:
            return True
        draws = self._schedule(iteration)
        if draws is None:
            return False
        rows = rows_read(draws)
        num_bytes = int(self._index.size[rows].sum())
        self._pending[iteration] = _Pending(draws, self._reader.start(rows), num_bytes)
        return True


@dataclass(frozen=True)
class _Pending:
    draws: Draws
    read: PendingRead
    num_bytes: int


def rows_read(draws: Draws) -> Int64[np.ndarray, " rows"]:
    """The rows whose audio the draws need: theirs, then those of the partners there are."""
    return np.concatenate([draws.rows, draws.partners[draws.mixed]])


def mixed_targets(index: ShardIndex, draws: Draws) -> Float32[np.ndarray, "draws classes"]:
    """lam of the clip's classes plus 1 - lam of its partner's; 1 for a class of both."""
    targets = index.targets(draws.rows)
    mixed = draws.mixed
    lam = draws.lam[mixed, None]
    targets[mixed] = lam * targets[mixed] + (1 - lam) * index.targets(draws.partners[mixed])
    return targets


def _check_sample_rate(index: ShardIndex, features: FeatureConfig) -> None:
    if index.sample_rate_hz != features.sample_rate_hz:
        raise ConfigError(
            f"the shards are at {index.sample_rate_hz} Hz, the front end expects "
            f"{features.sample_rate_hz} Hz",
            where="features.sample_rate_hz",
            fix=f"build the shards with --sample-rate-hz {features.sample_rate_hz}",
        )
