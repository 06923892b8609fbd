"""The loader: batches of log-mel spectrograms and targets, in the order of a schedule."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float32, Int64

from psla_wds.audio.decode import decode_pcm
from psla_wds.errors import ConfigError, ShardError
from psla_wds.features.config import FeatureConfig
from psla_wds.features.encoded_batch import NULL_WAV, EncodedBatch, UndecodableBatchError
from psla_wds.reading.read_ahead import ReadAhead, mixed_targets, rows_read
from psla_wds.reading.read_tuner import verdict
from psla_wds.reading.reader import DamagedClipError, ReaderConfig, open_reader, undecodable_clip
from psla_wds.sampling.augment import Draws
from psla_wds.sampling.schedule import Schedule
from psla_wds.shards.index import ShardIndex
from psla_wds.shards.soft_labels import SoftLabels

if TYPE_CHECKING:
    from psla_wds.features.dali import FrontEnd


@dataclass(frozen=True)
class Batch:
    """What one rank gets for one forward pass."""

    log_mel: Float32[torch.Tensor, "draws frames mels"]
    """Normalised; on the device of training."""
    targets: Float32[torch.Tensor, "draws classes"]
    """0 or 1, and between them where draws are mixed; on the device of training."""
    rows: Int64[np.ndarray, " draws"]
    soft_targets: Float32[torch.Tensor, "draws classes"] | None = None
    """A teacher's scores, mixed as the clips are; None where the index has no soft labels."""


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
        check_dali()
        _check_sample_rate(index, features)
        self._index, self._device = index, device
        self._features, self._config, self._clips_per_pass = features, config, clips_per_pass
        self._rolls = schedule.rolls
        self._reader = open_reader(index, config)
        self._ahead = ReadAhead(self._reader, index, schedule, config)
        self._draws: dict[int, Draws] = {}  # of iterations that are in the pipeline
        self._iteration = 0
        self._front_end: FrontEnd | None = None
        self._open_front_end()

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        log_mel = self._next_log_mel()
        draws = self._draws.pop(self._iteration)
        self._iteration += 1
        soft_labels = self._index.soft_labels
        soft_targets = None if soft_labels is None else self._targets(soft_labels, draws)
        return Batch(log_mel, self._targets(self._index, draws), draws.rows, soft_targets)

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the threads, DALI's among them, and close the shards."""
        self._front_end = None
        self._reader.close()

    @property
    def damaged(self) -> dict[str, str]:
        """Clips that were replaced because they are damaged, by id, each with what is wrong."""
        return {self._index.clip_id(row): what for row, what in self._ahead.damaged.items()}

    @property
    def damaged_rows(self) -> frozenset[int]:
        """Their rows."""
        return frozenset(self._ahead.damaged)

    @property
    def storage_wait_s(self) -> float:
        """Time spent waiting for reads so far; the rest of the waiting was for decoding."""
        return self._ahead.waited_s

    def verdict(self, *, waited_s: float, storage_wait_s: float, elapsed_s: float) -> str:
        """One line: what a stretch of training was bounded by, and what would help."""
        return verdict(
            waited_s=waited_s,
            storage_wait_s=storage_wait_s,
            elapsed_s=elapsed_s,
            tuner=self._ahead.tuner,
            decode_threads=self._config.decoders(),
        )

    def _targets(
        self, labels: ShardIndex | SoftLabels, draws: Draws
    ) -> Float32[torch.Tensor, "draws classes"]:
        targets = torch.from_numpy(mixed_targets(labels, draws))
        if self._device.type != "cuda":
            return targets
        return targets.pin_memory().to(self._device, non_blocking=True)

    def _open_front_end(self) -> None:
        """Begin the pipeline, from the current iteration on."""
        from psla_wds.features.dali import FrontEnd

        first = self._iteration
        self._front_end = FrontEnd(
            lambda iteration: self._encoded_batch(first + iteration),
            self._features,
            batch_size=self._clips_per_pass,
            num_threads=self._config.decoders(),
            device=self._device,
            rolls=self._rolls,
        )

    def _encoded_batch(self, iteration: int) -> EncodedBatch:
        batch = self._ahead.batch(iteration)
        draws = self._draws[iteration] = batch.draws
        partners = iter(batch.partner_audio)
        return EncodedBatch(
            audio=batch.audio,
            partner_audio=[next(partners) if mixed else NULL_WAV for mixed in draws.mixed],
            lam=draws.lam,
            masks=draws.masks,
            gains=draws.gains,
            rolls=draws.rolls,
        )

    def _next_log_mel(self) -> Float32[torch.Tensor, "draws frames mels"]:
        while True:
            if self._front_end is None:
                raise RuntimeError("the loader was closed: use it inside its `with` block")
            try:
                return self._front_end.run()
            except UndecodableBatchError as error:
                draws = self._draws[self._iteration]
                damaged = self._find_undecodable(draws)
                if damaged is None:
                    clips = [self._index.where(row) for row in rows_read(draws)]
                    raise ShardError(
                        "DALI cannot decode a clip of a batch, though libsndfile can decode all",
                        where="; ".join(clips),
                        fix="build the shards anew: python -m sharding.build",
                    ) from error
                self._ahead.replace(damaged)
                # DALI goes on with the batch after the bad one; a new pipeline begins with the bad
                # one, so that no batch is lost and the order stays.
                self._draws.clear()
                self._open_front_end()

    def _find_undecodable(self, draws: Draws) -> DamagedClipError | None:
        """DALI does not say which clip it failed on."""
        rows = rows_read(draws)
        for row, clip in zip(rows, self._reader.start(rows).wait(), strict=True):
            try:
                decode_pcm(clip.data)
            except RuntimeError as reason:
                return undecodable_clip(self._index, int(row), reason)
        return None


def check_dali() -> None:
    """Raise unless DALI is installed, which comes with one of two extras, and can be imported."""
    try:
        import psla_wds.features.dali  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"NVIDIA DALI, which makes the batches, cannot be imported: {error}",
            where="the Python environment",
            fix="python -m pip install 'psla-wds[cuda13]', or [cuda12] for drivers before 580",
        ) from None


def _check_sample_rate(index: ShardIndex, features: FeatureConfig) -> None:
    if index.sample_rate_hz != features.sample_rate_hz:
        raise ConfigError(
            f"the shards are at {index.sample_rate_hz} Hz, the front end expects "
            f"{features.sample_rate_hz} Hz",
            where="features.sample_rate_hz",
            fix=f"build the shards with --sample-rate-hz {features.sample_rate_hz}",
        )
