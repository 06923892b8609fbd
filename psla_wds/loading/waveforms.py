"""Waveforms and targets in NumPy, for any framework: the draws of training, only decoded.

Neither torch nor DALI is imported. Draws, their order, partners, mixing weights, masks and places
in long clips are those of `psla_wds.loading.batches` for the same seed.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
from jaxtyping import Float32, UInt8

from psla_wds.audio.pcm import decode_float
from psla_wds.config import Within, check_ranges
from psla_wds.features.config import FeatureConfig
from psla_wds.features.mixup import Waveform, mixed, mixes
from psla_wds.loading.epochs import BatchSource, Epochs, Share, current_share
from psla_wds.reading.config import ReaderConfig
from psla_wds.reading.reader import CLIPS_PER_TASK, DamagedClipError
from psla_wds.sampling.augment import Draws
from psla_wds.sampling.config import AugmentConfig, SamplerConfig
from psla_wds.sampling.schedule import EvaluationSchedule, Schedule, TrainingSchedule
from psla_wds.shards.index import ShardIndex

DECODED_BATCHES = 2
"""Batches being decoded at a time, including the one returned next."""


@dataclass(frozen=True, kw_only=True)
class WaveformConfig:
    """Draws and reading. Defaults are the paper's for the full AudioSet."""

    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    reader: ReaderConfig = field(default_factory=ReaderConfig)
    """`decode_threads` only decode here; those of log-mel batches on a CPU also transform."""
    log_mel_shape: Annotated[tuple[int, int], Within(1, 1_000_000)] = (1056, 128)
    """Frames and mels of the spectrogram that the draw's masks apply to."""
    max_clip_samples: Annotated[int | None, Within(1, 2**31)] = None
    """Samples that these frames cover, to which `WaveformBatch.mixed` crops longer clips
    (`FeatureConfig.max_clip_samples`). Default: those of frames of 25 ms every 10 ms."""

    def __post_init__(self) -> None:
        check_ranges(self)

    def longest(self, sample_rate_hz: int) -> int:
        """Most samples that the model hears of a clip."""
        if self.max_clip_samples is not None:
            return self.max_clip_samples
        frames, high_hz = self.log_mel_shape[0], sample_rate_hz / 2
        features = FeatureConfig(num_frames=frames, sample_rate_hz=sample_rate_hz, high_hz=high_hz)
        return features.max_clip_samples


PAPER = WaveformConfig()


@dataclass(frozen=True)
class WaveformBatch:
    """The decoded clips of some draws, otherwise unchanged."""

    draws: Draws
    """Rows, and what is random: partners, mixing weights, masks."""
    clip_ids: tuple[str, ...]
    waveforms: list[Waveform]
    """In [-1, 1], at the sample rate of the index."""
    targets: Float32[np.ndarray, "draws classes"]
    """1 where a clip has a class, else 0."""
    partner_waveforms: list[Waveform]
    """Partners of the draws that are mixed (`draws.mixed`), in their order."""
    partner_targets: Float32[np.ndarray, "mixed classes"]
    max_samples: int | None = None
    """Samples to which `mixed` crops longer clips; None: it does not."""

    def mixed(self) -> tuple[list[Waveform], Float32[np.ndarray, "draws classes"]]:
        """Waveforms and soft targets as in training: shifted, cropped, mixed, with the mean
        removed.

        A partner is cut or padded to the length of its clip, as in the official code.
        """
        partners = iter(self.partner_waveforms)
        waveforms = [
            mixed(mix, waveform, next(partners) if mix.has_partner else None, self.max_samples)
            for mix, waveform in zip(mixes(self.draws), self.waveforms, strict=True)
        ]
        return waveforms, self.draws.mix(self.targets.copy(), self.partner_targets)


def training_waveforms(
    index: ShardIndex,
    *,
    batch_size: int,
    seed: int = 0,
    first_step: int = 0,
    config: WaveformConfig = PAPER,
    share: Share | None = None,
) -> Epochs[WaveformBatch]:
    """The draws of `training_batches` with the same arguments, only decoded."""
    layout = (share or current_share()).layout(batch_size)
    schedule = TrainingSchedule(index, config, layout, seed=seed, first_step=first_step)
    longest = config.longest(index.sample_rate_hz) if "crops" in schedule.changes else None
    return Epochs(WaveformLoader(index, schedule, config.reader, max_samples=longest), schedule)


def evaluation_waveforms(
    index: ShardIndex,
    *,
    batch_size: int,
    config: WaveformConfig = PAPER,
    share: Share | None = None,
) -> "WaveformLoader":
    """Every clip once over all processes; the last batch is cut, or missing on the last ranks."""
    schedule = EvaluationSchedule(index, (share or current_share()).layout(batch_size))
    return WaveformLoader(index, schedule, config.reader)


class WaveformLoader(BatchSource[WaveformBatch]):
    """Decoded batches of a schedule; threads decode one while another is in use."""

    def __init__(
        self,
        index: ShardIndex,
        schedule: Schedule,
        config: ReaderConfig,
        *,
        max_samples: int | None = None,
    ) -> None:
        index.check_shards()
        self._max_samples = max_samples
        super().__init__(index, schedule, config)
        self._pool = ThreadPoolExecutor(config.decoders(), thread_name_prefix="decode")
        self._decoding: deque[tuple[Draws, Iterator[list[Waveform]]]] = deque()
        self._iteration = 0  # of the first batch in `_decoding`

    def _next(self) -> WaveformBatch:
        while True:
            self._decode_ahead()
            if not self._decoding:
                raise StopIteration
            draws, decoded = self._decoding[0]
            try:
                waveforms = [waveform for part in decoded for waveform in part]
            except DamagedClipError as error:
                self._ahead.replace(error)
                self._decoding.clear()  # other draws may have the clip as well
                continue
            self._decoding.popleft()
            self._iteration += 1
            return self._batch(draws, waveforms)

    def _restart(self) -> None:
        self._decoding.clear()
        self._iteration = 0

    def close(self) -> None:
        """End the threads and close the shards."""
        self._pool.shutdown(cancel_futures=True)
        super().close()

    def _decode_ahead(self) -> None:
        while len(self._decoding) < DECODED_BATCHES:
            try:
                batch = self._ahead.batch(self._iteration + len(self._decoding))
            except StopIteration:
                return
            clips = batch.clips
            starts = range(0, len(clips), CLIPS_PER_TASK)
            decoded = self._pool.map(self._decode, [clips[i : i + CLIPS_PER_TASK] for i in starts])
            self._decoding.append((batch.draws, decoded))

    def _decode(self, clips: list[tuple[int, UInt8[np.ndarray, " _"]]]) -> list[Waveform]:
        """Each clip as one channel, the mean of its channels."""
        waveforms = []
        for row, encoded in clips:
            try:
                waveform, _ = decode_float(encoded.data)
            except RuntimeError as reason:
                problem = f"cannot be decoded: {reason}"
                raise DamagedClipError(problem, self._index, row) from None
            waveforms.append(waveform)
        return waveforms

    def _batch(self, draws: Draws, waveforms: list[Waveform]) -> WaveformBatch:
        num_draws, index = len(draws.rows), self._index
        return WaveformBatch(
            draws=draws,
            clip_ids=tuple(index.clip_id(row) for row in draws.rows),
            waveforms=waveforms[:num_draws],
            targets=index.targets(draws.rows),
            partner_waveforms=waveforms[num_draws:],
            partner_targets=index.targets(draws.partners[draws.mixed]),
            max_samples=self._max_samples,
        )
