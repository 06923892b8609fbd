"""Waveforms and targets in NumPy, for any framework: the draws of training, only decoded.

Neither torch nor DALI is imported. Draws, their order, partners, mixing weights and masks are
those of `psla_wds.loading.batches` for the same seed.
"""

import io
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import soundfile
from jaxtyping import Float32, Int64, UInt8

from psla_wds.loading.epochs import Epochs, Share, current_share
from psla_wds.reading.read_ahead import ReadAhead, rows_read
from psla_wds.reading.reader import (
    CLIPS_PER_TASK,
    DamagedClipError,
    ReaderConfig,
    open_reader,
    undecodable_clip,
)
from psla_wds.sampling.augment import AugmentConfig, Draws, roll_start
from psla_wds.sampling.plan import SamplerConfig
from psla_wds.sampling.schedule import EvaluationSchedule, Plans, Schedule, TrainingSchedule
from psla_wds.shards.index import ShardIndex


@dataclass(frozen=True, kw_only=True)
class WaveformConfig:
    """What is drawn, and how it is read. Defaults are the paper's for the full AudioSet."""

    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    reader: ReaderConfig = field(default_factory=ReaderConfig)
    """`decode_threads` are Python's here, where DALI's are in training."""
    log_mel_shape: tuple[int, int] = (1056, 128)
    """Frames and mels of the spectrogram that the masks of a draw are meant for."""


PAPER = WaveformConfig()
DECODED_BATCHES = 2
"""Batches that are decoded at a time, the one returned next included."""


@dataclass(frozen=True)
class WaveformBatch:
    """The clips of some draws, decoded and otherwise as they are."""

    draws: Draws
    """Rows, and what is random: partners, mixing weights, masks."""
    clip_ids: tuple[str, ...]
    waveforms: list[Float32[np.ndarray, " _"]]  # `_`: no two need be of one length
    """In [-1, 1], at the sample rate of the index."""
    targets: Float32[np.ndarray, "draws classes"]
    """1 where a clip carries a class, 0 elsewhere."""
    partner_waveforms: list[Float32[np.ndarray, " _"]]
    """Of the draws that are mixed (`draws.mixed`), in their order; no others have a partner."""
    partner_targets: Float32[np.ndarray, "mixed classes"]

    def mixed(self) -> tuple[list[Float32[np.ndarray, " _"]], Float32[np.ndarray, "draws classes"]]:
        """Waveforms and soft targets as training has them: shifted, mixed, and without mean."""
        draws, targets = self.draws, self.targets.copy()
        lam = draws.lam[draws.mixed, None]
        targets[draws.mixed] = lam * targets[draws.mixed] + (1 - lam) * self.partner_targets
        partners = iter(self.partner_waveforms)
        shares = np.stack([draws.lam, 1 - draws.lam], axis=1) * draws.gains
        waveforms = []
        for row, waveform in enumerate(self.waveforms):
            clips = [waveform, next(partners)] if draws.mixed[row] else [waveform]
            rolled = [_rolled(clip, r) for clip, r in zip(clips, draws.rolls[row], strict=False)]
            waveforms.append(_mix(rolled, shares[row]))
        return waveforms, targets


def training_waveforms(
    index: ShardIndex,
    *,
    batch_size: int,
    seed: int = 0,
    first_step: int = 0,
    config: WaveformConfig = PAPER,
    share: Share | None = None,
) -> Epochs[WaveformBatch]:
    """The draws of `training_batches` with the same arguments, only decoded.

    Args:
        batch_size: draws of a step, over all processes.
        first_step: steps done before, over all epochs; what follows is what would have followed.
        share: this process's part; that of torch's default process group, if there is one,
            unless given.
    """
    schedule = TrainingSchedule(
        Plans(index, config.sampler, seed=seed),
        config.augment,
        (share or current_share()).layout(batch_size),
        log_mel_shape=config.log_mel_shape,
        first_step=first_step,
    )
    return Epochs(
        WaveformLoader(index, schedule, config.reader),
        steps_per_epoch=schedule.steps_per_epoch,
        first_step=first_step,
    )


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


class WaveformLoader:
    """Iterates once over a schedule. Close it, best by `with`: it holds threads and files."""

    def __init__(self, index: ShardIndex, schedule: Schedule, config: ReaderConfig) -> None:
        index.check_shards()
        self._index = index
        self._reader = open_reader(index, config)
        self._ahead = ReadAhead(self._reader, index, schedule, config)
        self._pool = ThreadPoolExecutor(config.decoders(), thread_name_prefix="decode")
        self._decoding: deque[_Decoding] = deque()
        self._iteration = 0  # of the first batch in `_decoding`

    def __iter__(self) -> "WaveformLoader":
        return self

    def __next__(self) -> WaveformBatch:
        while True:
            self._decode_ahead()
            if not self._decoding:
                raise StopIteration
            draws, chunks = self._decoding[0].draws, self._decoding[0].chunks
            try:
                waveforms = [waveform for chunk in chunks for waveform in chunk.result()]
            except DamagedClipError as error:
                self._ahead.replace(error)
                self._decoding.clear()  # other draws may have the clip as well
                continue
            self._decoding.popleft()
            self._iteration += 1
            return self._batch(draws, waveforms)

    def __enter__(self) -> "WaveformLoader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the threads and close the shards."""
        self._pool.shutdown(cancel_futures=True)
        self._reader.close()

    @property
    def damaged(self) -> dict[str, str]:
        """Clips that were replaced because they are damaged, by id, each with what is wrong."""
        return {self._index.clip_id(row): what for row, what in self._ahead.damaged.items()}

    def _decode_ahead(self) -> None:
        while len(self._decoding) < DECODED_BATCHES:
            try:
                batch = self._ahead.batch(self._iteration + len(self._decoding))
            except StopIteration:
                return
            rows, clips = rows_read(batch.draws), [*batch.audio, *batch.partner_audio]
            parts = [slice(i, i + CLIPS_PER_TASK) for i in range(0, len(rows), CLIPS_PER_TASK)]
            chunks = [self._pool.submit(self._decode, rows[part], clips[part]) for part in parts]
            self._decoding.append(_Decoding(batch.draws, chunks))

    def _decode(
        self, rows: Int64[np.ndarray, " rows"], clips: list[UInt8[np.ndarray, " _"]]
    ) -> list[Float32[np.ndarray, " _"]]:
        return [
            _decode_clip(self._index, int(row), clip) for row, clip in zip(rows, clips, strict=True)
        ]

    def _batch(self, draws: Draws, waveforms: list[np.ndarray]) -> WaveformBatch:
        num_draws, index = len(draws.rows), self._index
        return WaveformBatch(
            draws=draws,
            clip_ids=tuple(index.clip_id(row) for row in draws.rows),
            waveforms=waveforms[:num_draws],
            targets=index.targets(draws.rows),
            partner_waveforms=waveforms[num_draws:],
            partner_targets=index.targets(draws.partners[draws.mixed]),
        )


@dataclass(frozen=True)
class _Decoding:
    draws: Draws
    chunks: list[Future[list[np.ndarray]]]


def _decode_clip(
    index: ShardIndex, row: int, encoded: UInt8[np.ndarray, " bytes"]
) -> Float32[np.ndarray, " samples"]:
    """The clip as one channel, the mean of its channels."""
    try:
        waveform, _ = soundfile.read(io.BytesIO(encoded.data), dtype="float32", always_2d=True)
    except RuntimeError as reason:
        raise undecodable_clip(index, row, reason) from None
    return waveform.mean(axis=1)


def _rolled(
    waveform: Float32[np.ndarray, " samples"], share: np.float32
) -> Float32[np.ndarray, " samples"]:
    return np.roll(waveform, -roll_start(share, len(waveform)))


def _mix(
    clips: list[Float32[np.ndarray, " _"]], weights: Float32[np.ndarray, " 2"]
) -> Float32[np.ndarray, " samples"]:
    """The weighted sum of a clip and of its partner, if it has one, cut or padded to its length, as
    PSLA's code: the partner without its mean, and the sum without its own."""
    mixed = weights[0] * clips[0]
    for partner in clips[1:]:
        common = min(len(mixed), len(partner))
        mixed[:common] += weights[1] * (partner - partner.mean())[:common]
    return mixed - mixed.mean()
