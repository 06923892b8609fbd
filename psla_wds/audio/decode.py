"""Audio files, streams and arrays to waveforms of one channel at another sample rate.

`load_clip` reads an excerpt at once, for packing; `decode` reads a recording of any length block by
block, for tagging. Both give the same samples.
"""

import functools
import io
import math
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeAlias

import numpy as np
import soundfile
import soxr
from jaxtyping import Float, Float32, Shaped

from psla_wds.audio import ffmpeg
from psla_wds.errors import AudioError

Block: TypeAlias = Float32[np.ndarray, " samples"]
"""A part of a recording: one channel, in [-1, 1]."""

AUDIO_SUFFIXES = {
    *(".aif", ".aiff", ".au", ".caf", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".wav"),
    *ffmpeg.SUFFIXES,
}
"""Suffixes of audio files, to find them in a folder with other files."""

MAX_CLIP_S, MAX_RATE_HZ = 3600.0, 192_000
"""Longest excerpt, and highest rate for that length: memory is taken for what a header claims."""
CUT_TOLERANCE_S = 1.0
"""Allowed difference between the length of a file and the times that a manifest has for it."""
BLOCK_SAMPLES = 2**16
"""Samples of all channels to decode at a time; at most a second, since low rates grow in
resampling."""
MAX_CHANNELS = 1024
"""libsndfile's limit; an array with more channels has its axes swapped."""
UNKNOWN_BYTES = 2**31 - 2**16
"""Sizes in WAV headers from here on mean that the size is not known, as in a pipe."""
SLACK_BYTES = 4096
"""Excess of a header's size over the file's that is common and harmless."""
ENDLESS = sys.maxsize
TRAILER_BYTES = 2**20
"""Size of notes and tags that may follow the sound in a pipe."""
FIXES = {
    "not-finite": "repair it where it was made, or leave it out",
    "empty": "give a longer recording",
    "needs-ffmpeg": "apt-get install ffmpeg, or convert it to WAV or FLAC",
    "bad-rate": "give samples per second",
    "bad-shape": "give (samples,), or (samples, channels) as soundfile.read does; transpose what "
    "torchaudio.load gives",
    "bad-type": "give floats in [-1, 1], or signed integers",
}
"""Fixes by the reason of a refusal, other than for a file that cannot be read."""


class ClipRefusedError(Exception):
    """The clip cannot be used; `reason` is one word for counting, the message has the details."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def load_clip(
    source: Path | io.BytesIO,
    *,
    start_s: float = 0.0,
    end_s: float = math.inf,
    may_be_cut: bool = False,
    max_s: float = math.inf,
    sample_rate_hz: int,
) -> Block:
    """An excerpt: the mean of its channels, resampled by soxr in its high quality.

    Args:
        source: an audio file, or the bytes of one.
        may_be_cut: whether a file that is at most a second longer than the excerpt is the excerpt
            itself, to take as a whole; other files must be the recording, and reach to `end_s`.
        max_s: longest excerpt; the rest of a longer one is left out.

    Raises `ClipRefusedError` if the file is missing, unreadable, truncated, empty in this range,
    too long, needs an ffmpeg that is not installed, has values that are not finite, or has neither
    the length of the excerpt nor that of the recording.
    """
    if isinstance(source, Path) and not source.is_file():
        raise ClipRefusedError("missing", "there is no such file")
    with _opened(source, seekable=True) as audio:
        if may_be_cut and _is_cut(audio.num_samples / audio.rate_hz, start_s, end_s):
            start_s, end_s = 0.0, math.inf
        start, stop = _checked_range(audio, start_s, min(end_s, start_s + max_s))
        (excerpt,) = audio.blocks(start, stop, size=stop - start)  # faster than many blocks
    pieces = _pieces(excerpt, audio.rate_hz)
    return np.concatenate(list(resample(pieces, audio.rate_hz, sample_rate_hz)))


def decode(source: Path | int, sample_rate_hz: int) -> Iterator[Block]:
    """A recording of any length at another rate, in memory that does not grow with its length.

    Args:
        source: a file, or the descriptor or name of a pipe with a WAV or AU file, whose header need
            not know its length.

    Raises `AudioError` where the audio is damaged or truncated, which can be after many blocks.
    """
    with _audio_errors(source if isinstance(source, Path) else "stdin"), _opened(source) as audio:
        yield from resample(audio.blocks(), audio.rate_hz, sample_rate_hz)


def decode_array(
    waveform: Shaped[np.ndarray, "*shape"], sample_rate_hz: int | float, *, to_hz: int
) -> Iterator[Block]:
    """A waveform in memory at another rate, in the same blocks as a file of it.

    Args:
        waveform: (samples,) or (samples, channels): floats in [-1, 1], or signed integers at full
            scale.

    Raises `AudioError` if it is empty, has another shape or type, or values that are not finite;
    or if `sample_rate_hz` is not positive.
    """
    with _audio_errors("waveform"):
        if not 0 < sample_rate_hz < np.inf:
            raise ClipRefusedError("bad-rate", f"sample_rate_hz={sample_rate_hz} is not a rate")
        if waveform.ndim not in (1, 2) or not 0 < np.prod(waveform.shape[1:]) <= MAX_CHANNELS:
            raise ClipRefusedError("bad-shape", f"shape {waveform.shape} is not a waveform's")
        pieces = _pieces(waveform[:, None] if waveform.ndim == 1 else waveform, sample_rate_hz)
        yield from resample(map(_as_float, pieces), sample_rate_hz, to_hz)


def resample(
    blocks: Iterable[Float32[np.ndarray, "samples channels"]],
    source_rate_hz: int | float,
    sample_rate_hz: int,
) -> Iterator[Block]:
    """The mean of the channels at another rate; sizes of blocks do not change the samples.

    Raises `ClipRefusedError` if there is no sample, or if some are not finite.
    """
    num_samples = 0
    for block in _resampled(map(mix_channels, blocks), source_rate_hz, sample_rate_hz):
        if not np.isfinite(block).all():
            raise ClipRefusedError("not-finite", "the audio holds NaN or infinite values")
        num_samples += len(block)
        yield block
    if not num_samples:
        raise ClipRefusedError("empty", "no sample is left after resampling")


def mix_channels(waveform: Float32[np.ndarray, "samples channels"]) -> Block:
    """The mean of the channels."""
    # The same numbers as waveform.mean(axis=1), which is 30 times slower for two channels.
    return functools.reduce(np.add, waveform.T) / np.float32(waveform.shape[1])


def reason_of(error: Exception) -> str:
    """The reason why reading failed, without a file name or address in memory, so that it is the
    same wherever a clip lies."""
    if isinstance(error, soundfile.LibsndfileError):
        return error.error_string
    return getattr(error, "strerror", None) or str(error)


def is_cut_short(file: io.BufferedIOBase) -> bool:
    """Whether a WAV file is shorter than its header says: libsndfile reads it without an error.
    False for other files, and for headers that do not know."""
    claimed_end = 0
    file.seek(0)
    if file.read(4) == b"RIFF":
        file.seek(12)
        while len(chunk := file.read(8)) == 8:
            size = int.from_bytes(chunk[4:], "little")
            if chunk[:4] == b"data":
                claimed_end = file.tell() + size if size < UNKNOWN_BYTES else 0
                break
            file.seek(size + size % 2, os.SEEK_CUR)
    return claimed_end > file.seek(0, os.SEEK_END) + SLACK_BYTES


class _SoundFile(soundfile.SoundFile):
    """A file without seeking: soundfile seeks after each read where it can, which leaves a gap in
    MP3."""

    def seekable(self) -> bool:
        return False


class _Audio:
    """An open file or pipe, and the samples in it."""

    def __init__(self, file: _SoundFile, raw: io.BufferedIOBase | int) -> None:
        self._file, self._raw = file, raw
        self.rate_hz: int = file.samplerate
        is_pipe = isinstance(raw, int) and not stat.S_ISREG(os.fstat(raw).st_mode)
        if is_pipe and file.format == "MP3":  # libsndfile gives noise, then an error
            raise RuntimeError("MP3 cannot be read from a pipe; WAV can: ffmpeg -i - -f wav -")
        is_known = not is_pipe or file.frames * file.channels < UNKNOWN_BYTES // 8  # bytes a sample
        self.num_samples: int = file.frames if is_known else ENDLESS
        """Samples of a channel, as the header says; `ENDLESS` if it does not know."""

    def blocks(
        self, start: int = 0, stop: int = ENDLESS, *, size: int | None = None
    ) -> Iterator[Float32[np.ndarray, "samples channels"]]:
        """The samples from `start` to before `stop`, `size` at a time; `ClipRefusedError` at the
        end of a file that is shorter than its header says."""
        stop, position = min(stop, self.num_samples), start
        size = size or _block_samples(self.rate_hz, self._file.channels)
        if start:  # not to 0, since some codecs cannot seek
            self._file.seek(start)
        while position < stop:
            wanted = min(size, stop - position)
            block = self._file.read(wanted, dtype="float32", always_2d=True)
            position += len(block)
            if len(block):
                yield block
            if len(block) < wanted:  # reading on would skip a damaged part
                break
        if position < stop < ENDLESS:
            raise ClipRefusedError(
                "truncated", f"{position - start} of {stop - start} samples are there"
            )
        if stop == self.num_samples:
            self._check_end()

    def _check_end(self) -> None:
        if not isinstance(self._raw, int):
            if is_cut_short(self._raw):
                raise ClipRefusedError("truncated", "the file ends before its header says so")
            return
        num_bytes = 0  # after the sound; a WAV header cannot state more than 4 GiB
        while part := os.read(self._raw, 2**16):
            num_bytes += len(part)
            if num_bytes > TRAILER_BYTES:
                raise RuntimeError("more follows than its header says; AU has no such limit")


@contextmanager
def _opened(source: Path | io.BytesIO | int, *, seekable: bool = False) -> Iterator[_Audio]:
    """A file, bytes or pipe to read; ffmpeg decodes formats that libsndfile cannot read.

    Args:
        seekable: whether any part can be read and the length is known, for all codecs.

    Raises `ClipRefusedError`.
    """
    raw: io.BufferedIOBase | int
    try:
        with ExitStack() as stack:
            if isinstance(source, Path):
                raw = stack.enter_context(source.open("rb"))
                if not source.is_file():
                    source = raw = raw.fileno()
                elif source.suffix.lower() in ffmpeg.SUFFIXES:
                    if ffmpeg.version() is None:
                        advice = f"install ffmpeg to read {source.suffix} files"
                        raise ClipRefusedError("needs-ffmpeg", advice)
                    source = raw = stack.enter_context(ffmpeg.decoded(source, seekable=seekable))
            else:
                raw = source
            file = stack.enter_context(_SoundFile(source, closefd=False))
            yield _Audio(file, raw)
    except (RuntimeError, OSError) as error:
        raise ClipRefusedError("unreadable", reason_of(error)) from None


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


def _checked_range(audio: _Audio, start_s: float, end_s: float) -> tuple[int, int]:
    """The first sample of the excerpt, and the one after its last."""
    num_samples, rate_hz = audio.num_samples, audio.rate_hz
    start = round(start_s * rate_hz)
    stop = num_samples if math.isinf(end_s) else min(round(end_s * rate_hz), num_samples)
    if stop <= start:
        length_s = num_samples / rate_hz
        raise ClipRefusedError(
            "empty", f"nothing from {start_s:g} s on: the file has {length_s:g} s"
        )
    if stop - start > MAX_CLIP_S * min(rate_hz, MAX_RATE_HZ):
        raise ClipRefusedError("too-long", f"longer than {MAX_CLIP_S:g} s; set start_s and end_s")
    return start, stop


def _block_samples(rate_hz: int | float, num_channels: int) -> int:
    return max(1, min(int(rate_hz), BLOCK_SAMPLES // num_channels))


def _pieces(
    waveform: Shaped[np.ndarray, "samples channels"], rate_hz: int | float
) -> Iterator[Shaped[np.ndarray, "piece channels"]]:
    size = _block_samples(rate_hz, waveform.shape[1])
    return (waveform[start : start + size] for start in range(0, len(waveform), size))


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
