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
from psla_wds.loading.epochs import BatchSource, Epochs, Share, current_share
from psla_wds.reading.config import ReaderConfig
from psla_wds.reading.reader import CLIPS_PER_TASK, DamagedClipError
from psla_wds.sampling.augment import Draws, first_sample
from psla_wds.sampling.config import AugmentConfig, SamplerConfig
from psla_wds.sampling.schedule import EvaluationSchedule, Schedule, TrainingSchedule
from psla_wds.shards.index import ShardIndex

DECODED_BATCHES = 2
"""Batches being decoded at a time, including the one returned next."""

Waveform = Float32[np.ndarray, " _"]  # `_`: lengths differ


@dataclass(frozen=True, kw_only=True)
class WaveformConfig:
    """Draws and reading. Defaults are the paper's for the full AudioSet."""

    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    reader: ReaderConfig = field(default_factory=ReaderConfig)
    """Here, `decode_threads` are Python threads; in training they are DALI's."""
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
        draws, weights = self.draws, self.draws.weights
        shares = np.stack([draws.rolls, draws.crops], axis=2)
        heard = map(self._heard, self.waveforms, shares[:, 0])
        mixed = [weight * waveform for weight, waveform in zip(weights[:, 0], heard, strict=True)]
        places = np.flatnonzero(draws.mixed)
        for place, waveform in zip(places, self.partner_waveforms, strict=True):
            partner = self._heard(waveform, shares[place, 1])
            common = min(len(mixed[place]), len(partner))
            mixed[place][:common] += weights[place, 1] * (partner - partner.mean())[:common]
        targets = draws.mix(self.targets.copy(), self.partner_targets)
        return [waveform - waveform.mean() for waveform in mixed], targets

    def _heard(self, waveform: Waveform, shares: Float32[np.ndarray, "2"]) -> Waveform:
        """What a draw hears of a clip, by its roll and its crop."""
        start = first_sample(shares[0], len(waveform))
        rolled = np.roll(waveform, -start) if start else waveform
        kept = min(len(waveform), self.max_samples or len(waveform))
        first = first_sample(shares[1], len(waveform) - kept + 1)
        return rolled[first : first + kept]


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
