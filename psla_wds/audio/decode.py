"""Audio files, streams and arrays to waveforms of one channel at another sample rate.

`load_clip` reads an excerpt at once, for packing; `decode` reads a recording of any length block by
block, for tagging. Both give the same samples.
"""

import functools
import io
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import soxr
from jaxtyping import Float, Float32, Shaped

from psla_wds.audio.files import ENDLESS, Audio, Notes, block_samples, opened
from psla_wds.audio.quality import Levels
from psla_wds.errors import AudioError, ClipRefusedError

Block: TypeAlias = Float32[np.ndarray, " samples"]
"""A part of a recording: one channel, in [-1, 1]."""

MAX_CLIP_S, MAX_RATE_HZ = 3600.0, 192_000
"""Longest excerpt, and highest rate for that length: memory is taken for what a header claims."""
CUT_TOLERANCE_S = 1.0
"""Allowed difference between the length of a file and the times that a manifest has for it."""
LOADED_VALUES = 2**22
"""Samples of all channels that a clip is read by."""
ENERGY_RUN, ENERGY_STEP = 64, 2048
"""So many samples in a row, of so many, are enough to compare levels."""
CANCEL_DB = 20.0
"""Difference in dB between channels and their mean from which they are said to cancel."""
MAX_CHANNELS = 1024
"""libsndfile's limit; an array with more channels has its axes swapped."""
FIXES = {
    "not-finite": "repair it where it was made, or leave it out",
    "empty": "give a longer recording",
    "truncated": "copy or download it again",
    "damaged": "copy or download it again",
    "no-audio-track": "leave it out",
    "bad-rate": "give samples per second",
    "bad-shape": "give (samples,), or (samples, channels) as soundfile.read does; transpose what "
    "torchaudio.load gives",
    "bad-type": "give floats in [-1, 1], or signed integers",
}
"""Fixes by the reason of a refusal, other than for a file that cannot be read."""


@dataclass(frozen=True)
class Excerpt:
    """The part of a recording to load."""

    start_s: float = 0.0
    end_s: float = math.inf
    may_be_cut: bool = False
    """Whether a file that is at most a second longer than the excerpt is the excerpt itself, to
    take as a whole; other files must be the recording, and reach to `end_s`."""
    max_s: float = math.inf
    """Longest excerpt; the rest of a longer one is left out."""


def load_clip(
    source: Path | io.BytesIO,
    excerpt: Excerpt | None = None,
    *,
    sample_rate_hz: int,
    notes: Notes | None = None,
    suffix: str = "",
) -> Block:
    """An excerpt: the mean of its channels, resampled by soxr in its high quality.

    Args:
        source: an audio file, or the bytes of one.
        excerpt: default: the whole.
        notes: takes what is odd about the audio.
        suffix: that of the name of bytes, to note where it is wrong.

    Raises `ClipRefusedError` if the file is missing, unreadable, truncated, without an audio track,
    empty in this range, too long, has values that are not finite, or has neither the length of the
    excerpt nor that of the recording.
    """
    notes, excerpt = notes or Notes(), excerpt or Excerpt()
    if isinstance(source, Path) and not source.is_file():
        raise ClipRefusedError("missing", "there is no such file")
    with opened(source, notes, suffix=suffix) as audio:
        start, stop = _checked_range(audio, excerpt)
        blocks = _pieces_of(_bounded(audio, start, stop), audio.rate_hz)
        return np.concatenate(list(resample(blocks, audio.rate_hz, sample_rate_hz, notes)))


def decode(source: Path | int, sample_rate_hz: int, notes: Notes | None = None) -> Iterator[Block]:
    """A recording of any length at another rate, in memory that does not grow with its length.

    Args:
        source: a file, or the descriptor or name of a pipe with a WAV or AU file, whose header need
            not know its length.
        notes: takes what is odd about the audio; complete when the last block is read.

    Raises `AudioError` where the audio is damaged or truncated, which can be after many blocks.
    """
    notes = notes or Notes()
    where = source if isinstance(source, Path) else "stdin"
    with _audio_errors(where), opened(source, notes) as audio:
        yield from _watched(audio.blocks(), audio.rate_hz, sample_rate_hz, notes)


def decode_array(
    waveform: Shaped[np.ndarray, "*shape"],
    sample_rate_hz: int | float,
    *,
    to_hz: int,
    notes: Notes | None = None,
) -> Iterator[Block]:
    """A waveform in memory at another rate, in the same blocks as a file of it.

    Args:
        waveform: (samples,) or (samples, channels): floats in [-1, 1], or signed integers at full
            scale.
        notes: takes what is odd about the audio, as for a file.

    Raises `AudioError` if it is empty, has another shape or type, or values that are not finite;
    or if `sample_rate_hz` is not positive.
    """
    with _audio_errors("waveform"):
        if not 0 < sample_rate_hz < np.inf:
            raise ClipRefusedError("bad-rate", f"sample_rate_hz={sample_rate_hz} is not a rate")
        if waveform.ndim not in (1, 2) or not 0 < np.prod(waveform.shape[1:]) <= MAX_CHANNELS:
            raise ClipRefusedError("bad-shape", f"shape {waveform.shape} is not a waveform's")
        blocks = [waveform[:, None] if waveform.ndim == 1 else waveform]
        pieces = _pieces_of(blocks, sample_rate_hz)
        yield from _watched(map(_as_float, pieces), sample_rate_hz, to_hz, notes or Notes())


def _watched(
    blocks: Iterable[Float32[np.ndarray, "samples channels"]],
    source_rate_hz: int | float,
    sample_rate_hz: int,
    notes: Notes,
) -> Iterator[Block]:
    """`resample`, with notes of silence and clipping too."""
    levels = Levels()
    watched = map(levels.source, blocks)
    for block in resample(watched, source_rate_hz, sample_rate_hz, notes):
        levels.heard(block)
        yield block
    cancel = notes.flags.keys() & {"channels-cancel"}  # which says why the mean is silent
    silent = {"digital-silence", "silent"} if cancel else set()
    notes.flags |= {flag: said for flag, said in levels.flags().items() if flag not in silent}


def resample(
    blocks: Iterable[Float32[np.ndarray, "samples channels"]],
    source_rate_hz: int | float,
    sample_rate_hz: int,
    notes: Notes | None = None,
) -> Iterator[Block]:
    """The mean of the channels at another rate; sizes of blocks do not change the samples.

    Args:
        notes: takes whether the mean is too loud for 16 bits, or far quieter than the channels.

    Raises `ClipRefusedError` if there is no sample, or if some are not finite.
    """
    num_samples, mix = 0, _Mix()
    for block in _resampled(map(mix, blocks), source_rate_hz, sample_rate_hz):
        # Sums of squares are faster to find; those of finite values can be infinite as well.
        if not (math.isfinite(np.vdot(block, block)) or np.isfinite(block).all()):
            raise ClipRefusedError("not-finite", "the audio holds NaN or infinite values")
        num_samples += len(block)
        yield block
    if not num_samples:
        raise ClipRefusedError("empty", "no sample is left after resampling")
    if notes is not None:
        notes.flags |= mix.flags()


def mix_channels(waveform: Float32[np.ndarray, "samples channels"]) -> Block:
    """The mean of the channels; a view, if there is one."""
    if waveform.shape[1] == 1:
        return waveform[:, 0]
    # The same numbers as waveform.mean(axis=1), which is 30 times slower for two channels.
    total, num_channels = functools.reduce(np.add, waveform.T), waveform.shape[1]
    if num_channels.bit_count() == 1:  # faster, and as exact for powers of two
        return np.multiply(total, np.float32(1 / num_channels), out=total)
    return np.divide(total, np.float32(num_channels), out=total)


class _Mix:
    """`mix_channels`, block by block, with the levels of all blocks."""

    def __init__(self) -> None:
        self._peak, self._energy, self._channel_energy = 0.0, 0.0, 0.0

    def __call__(self, block: Float32[np.ndarray, "samples channels"]) -> Block:
        mono = mix_channels(block)
        if len(mono):
            self._peak = max(self._peak, float(mono.max()), -float(mono.min()))
        if block.shape[1] > 1:
            self._energy += _energy(mono)
            self._channel_energy += _energy(block) / block.shape[1]
        return mono

    def flags(self) -> dict[str, str]:
        flags = {}
        if self._peak > 1:
            flags["over-full-scale"] = f"its peak is {self._peak:.2f}: packing clips it"
        lost_db = 10 * math.log10(max(self._channel_energy, 1e-12) / max(self._energy, 1e-12))
        if lost_db > CANCEL_DB:
            flags["channels-cancel"] = f"the mean of the channels is {lost_db:.0f} dB quieter"
        return flags


def _energy(block: Float32[np.ndarray, "samples *channels"]) -> float:
    """Sum of the squares of some samples: runs, since single ones take as long as all."""
    runs = len(block) // ENERGY_STEP
    some = block[:ENERGY_RUN]
    if runs:
        whole = block[: runs * ENERGY_STEP]
        some = whole.reshape(runs, ENERGY_STEP, *block.shape[1:])[:, :ENERGY_RUN].ravel()
    return float(np.vdot(some, some))


@contextmanager
def _audio_errors(where: object) -> Iterator[None]:
    try:
        yield
    except ClipRefusedError as error:
        fix = FIXES.get(error.reason, "check its name and rights, or convert it to WAV or FLAC")
        raise AudioError(f"the audio cannot be used: {error}", where=where, fix=fix) from None


def _is_cut(length_s: float, start_s: float, end_s: float) -> bool:
    """Whether a file of this length is the excerpt, and not the recording that it is cut from."""
    if length_s <= end_s - start_s + CUT_TOLERANCE_S:
        return True
    if length_s >= end_s - CUT_TOLERANCE_S:
        return False
    raise ClipRefusedError(
        "odd-length",
        f"{length_s:g} s is neither the excerpt ({end_s - start_s:g} s) "
        f"nor the recording, which has at least {end_s:g} s",
    )


def _checked_range(audio: Audio, excerpt: Excerpt) -> tuple[int, int]:
    """The first sample of the excerpt, and the one after its last."""
    start_s, end_s = excerpt.start_s, excerpt.end_s
    if excerpt.may_be_cut and _is_cut(audio.length_s(), start_s, end_s):
        start_s, end_s = 0.0, math.inf
    end_s = min(end_s, start_s + excerpt.max_s)
    start = round(start_s * audio.rate_hz)
    stop = audio.num_samples
    if not math.isinf(end_s):
        stop = min(round(end_s * audio.rate_hz), stop)
    if stop <= start:
        raise _nothing(start_s, audio)
    if stop < ENDLESS and stop - start > _most_samples(audio):
        raise _too_long()
    return start, stop


def _bounded(
    audio: Audio, start: int, stop: int
) -> Iterator[Float32[np.ndarray, "samples channels"]]:
    """Blocks of an excerpt: large ones, which are faster, but not as large as a header claims."""
    least = block_samples(audio.rate_hz, audio.num_channels)
    size = max(LOADED_VALUES // audio.num_channels // least, 1) * least
    num_samples = 0
    for block in audio.blocks(start, stop, size=size):
        num_samples += len(block)
        if num_samples > _most_samples(audio):
            raise _too_long()
        yield block
    if not num_samples:
        raise _nothing(start / audio.rate_hz, audio)


def _most_samples(audio: Audio) -> float:
    return MAX_CLIP_S * min(audio.rate_hz, MAX_RATE_HZ)


def _too_long() -> ClipRefusedError:
    return ClipRefusedError("too-long", f"longer than {MAX_CLIP_S:g} s; set start_s and end_s")


def _nothing(start_s: float, audio: Audio) -> ClipRefusedError:
    audio.check_end()
    length_s = audio.length_s()
    return ClipRefusedError("empty", f"nothing from {start_s:g} s on: the file has {length_s:g} s")


def _pieces_of(
    blocks: Iterable[Shaped[np.ndarray, "samples channels"]], rate_hz: int | float
) -> Iterator[Shaped[np.ndarray, "piece channels"]]:
    for block in blocks:
        size = block_samples(rate_hz, block.shape[1])
        yield from (block[start : start + size] for start in range(0, len(block), size))


def _as_float(
    block: Shaped[np.ndarray, "samples channels"],
) -> Float[np.ndarray, "samples channels"]:
    if np.issubdtype(block.dtype, np.signedinteger):
        return block.astype(np.float32) / np.float32(-float(np.iinfo(block.dtype).min))
    if not np.issubdtype(block.dtype, np.floating):
        raise ClipRefusedError("bad-type", f"values of type {block.dtype} are not samples")
    with np.errstate(over="ignore"):  # too large values become infinite, and are refused
        return block.astype(np.float32)


def _resampled(
    blocks: Iterable[Block], source_rate_hz: int | float, sample_rate_hz: int
) -> Iterator[Block]:
    if source_rate_hz == sample_rate_hz:
        yield from blocks
        return
    stream = soxr.ResampleStream(source_rate_hz, sample_rate_hz, 1, "float32", quality="HQ")
    for block in blocks:
        yield stream.resample_chunk(block)
    yield stream.resample_chunk(np.empty(0, np.float32), last=True)
