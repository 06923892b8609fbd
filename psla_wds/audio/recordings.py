"""Recordings of any length, block by block: decoded, mixed down and resampled as clips are when
they are packed, in memory that does not grow with their length.
"""

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import numpy as np
import soundfile
import soxr
from jaxtyping import Float, Float32, Shaped

from psla_wds.audio import ffmpeg
from psla_wds.audio.decode import mix_channels, reason_of
from psla_wds.audio.wav_header import UNKNOWN_BYTES, is_cut_short
from psla_wds.errors import AudioError

Block: TypeAlias = Float32[np.ndarray, " samples"]
"""A stretch of a recording: one channel, in [-1, 1]."""

BLOCK_SAMPLES = 2**16
"""Of all channels together, decoded at a time; at most a second, since low rates grow when they
are resampled."""
MAX_CHANNELS = 1024
"""libsndfile's limit; an array with more has its axes the other way round."""
TRAILER_BYTES = 2**20
"""Notes and tags that may follow the sound in a pipe."""


def decode(source: Path | int, sample_rate_hz: int) -> Iterator[Block]:
    """A file of audio at another rate; ffmpeg decodes what libsndfile does not read.

    Args:
        source: a file, or the descriptor or name of a pipe that a WAV or AU file comes out of,
            whose header need not know its length.

    Raises `AudioError` where the audio is damaged, which can be after many blocks; a file that
    ends before its header says so is.
    """
    where = source if isinstance(source, Path) else "stdin"
    try:
        with _opened(source) as (file, pipe):
            blocks = _Blocks(file)
            yield from resample(blocks, file.samplerate, sample_rate_hz, where=where)
            if blocks.num_read < _expected_frames(file, source, pipe):
                raise RuntimeError("it ends before its header says so")
            if pipe is not None:
                _check_end(pipe)
    except OSError as error:
        raise AudioError(
            f"the recording cannot be opened: {error.strerror}",
            where=where,
            fix="check its name, and that you may read it",
        ) from None
    except RuntimeError as error:
        raise AudioError(
            f"the audio cannot be read: {reason_of(error)}",
            where=where,
            fix="convert it to WAV or FLAC",
        ) from None


def length_s(path: Path) -> float | None:
    """Seconds that a file says it has; None where only decoding tells, or it cannot be read."""
    if path.suffix.lower() in ffmpeg.SUFFIXES or not path.is_file():
        return None
    try:
        header = soundfile.info(str(path))
    except (RuntimeError, OSError):
        return None
    return header.frames / header.samplerate


def blocks_of(waveform: np.ndarray, sample_rate_hz: int | float, *, to_hz: int) -> Iterator[Block]:
    """A waveform in memory at another rate, in the same blocks as a file of it.

    Args:
        waveform: floats in [-1, 1], or integers, whose largest value is 1; samples come first,
            then, if there is a second axis, channels.

    Raises `AudioError` if it is empty, of no such shape or type, or holds values that are not
    finite; `sample_rate_hz` must be positive.
    """
    where = "waveform"
    if not 0 < sample_rate_hz < np.inf:
        raise AudioError(
            f"sample_rate_hz={sample_rate_hz} is no rate", where=where, fix="give samples a second"
        )
    if waveform.ndim not in (1, 2) or not 0 < np.prod(waveform.shape[1:]) <= MAX_CHANNELS:
        raise AudioError(
            f"an array of shape {waveform.shape} is no waveform",
            where=where,
            fix="give (samples,), or (samples, channels), as soundfile.read does; torchaudio's "
            "have channels first: transpose them",
        )
    return resample(_blocks_of(waveform, sample_rate_hz), sample_rate_hz, to_hz, where=where)


def resample(
    blocks: Iterable[Float32[np.ndarray, "samples channels"]],
    source_rate_hz: int | float,
    sample_rate_hz: int,
    *,
    where: object,
) -> Iterator[Block]:
    """The mean of the channels at another rate: the samples that `audio.as_mono` gives for the
    whole, bit by bit. `AudioError` if there are none, or some are not finite.
    """
    num_samples = 0
    for block in _resampled(blocks, source_rate_hz, sample_rate_hz):
        if not np.isfinite(block).all():  # what is not spreads over the length of soxr's filter
            raise AudioError(
                "the audio holds NaN or infinite values",
                where=where,
                fix="mend what made it, or leave it out",
            )
        num_samples += len(block)
        yield block
    if not num_samples:
        raise AudioError(
            f"there is no sample at {sample_rate_hz} Hz", where=where, fix="give a longer recording"
        )


def _resampled(
    blocks: Iterable[Float32[np.ndarray, "samples channels"]],
    source_rate_hz: int | float,
    sample_rate_hz: int,
) -> Iterator[Block]:
    mono = (mix_channels(block) for block in blocks)
    if source_rate_hz == sample_rate_hz:
        yield from mono
        return
    stream = soxr.ResampleStream(source_rate_hz, sample_rate_hz, 1, "float32", quality="HQ")
    for block in mono:
        yield stream.resample_chunk(block)
    yield stream.resample_chunk(np.empty(0, np.float32), last=True)


def _check_end(pipe: int) -> None:
    """Raise if sound follows what a header claims: WAV has no number for more than 4 GiB."""
    num_bytes = 0
    while part := os.read(pipe, 2**16):
        num_bytes += len(part)
        if num_bytes > TRAILER_BYTES:
            raise RuntimeError("more follows than its header says; AU has no such limit")


class _Blocks:
    """What a file holds, piece by piece, and counted: some codecs cannot tell where they are."""

    def __init__(self, file: soundfile.SoundFile) -> None:
        self._file = file
        self.num_read = 0
        """Samples of a channel."""

    def __iter__(self) -> Iterator[Float32[np.ndarray, "samples channels"]]:
        block_samples = _block_samples(self._file.samplerate, self._file.channels)
        while len(block := self._file.read(block_samples, dtype="float32", always_2d=True)):
            self.num_read += len(block)
            yield block


def _expected_frames(file: soundfile.SoundFile, source: Path | int, pipe: int | None) -> int:
    """Samples of a channel that a header claims, if it knows."""
    if pipe is not None:  # a sample has 8 bytes at most
        return file.frames if file.frames * file.channels < UNKNOWN_BYTES // 8 else 0
    assert isinstance(source, Path)
    return file.frames + is_cut_short(source)  # libsndfile counts what is there


def _blocks_of(
    waveform: Shaped[np.ndarray, "samples *channels"], sample_rate_hz: int | float
) -> Iterator[Float32[np.ndarray, "samples channels"]]:
    table = waveform[:, None] if waveform.ndim == 1 else waveform
    block_samples = _block_samples(sample_rate_hz, table.shape[1])
    for start in range(0, len(table), block_samples):
        yield _as_float(table[start : start + block_samples])


def _as_float(
    block: Shaped[np.ndarray, "samples channels"],
) -> Float[np.ndarray, "samples channels"]:
    if np.issubdtype(block.dtype, np.signedinteger):
        return block.astype(np.float32) / np.float32(-float(np.iinfo(block.dtype).min))
    if not np.issubdtype(block.dtype, np.floating):
        raise AudioError(
            f"values of type {block.dtype} are no samples",
            where="waveform",
            fix="give floats in [-1, 1], or signed integers",
        )
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused
        return block.astype(np.float32)


def _block_samples(sample_rate_hz: int | float, num_channels: int) -> int:
    return max(1, min(int(sample_rate_hz), BLOCK_SAMPLES // num_channels))


@contextmanager
def _opened(source: Path | int) -> Iterator[tuple[soundfile.SoundFile, int | None]]:
    """The recording, and the pipe that it comes out of, if it does."""
    if isinstance(source, int):
        with soundfile.SoundFile(source, closefd=False) as file:
            is_file = stat.S_ISREG(os.fstat(source).st_mode)
            if file.format == "MP3" and not is_file:  # libsndfile gives noise, then an error
                raise RuntimeError("MP3 cannot be read from a pipe; WAV can: ffmpeg -i - -f wav -")
            yield file, source
    elif source.suffix.lower() in ffmpeg.SUFFIXES and source.is_file():
        if ffmpeg.version() is None:
            raise RuntimeError(f"{source.suffix} files need ffmpeg, which is not on PATH")
        with (
            ffmpeg.decoding(source) as pipe,
            soundfile.SoundFile(pipe, closefd=False) as file,
        ):
            yield file, pipe
    else:
        with source.open("rb") as opened:  # which says why it cannot be, as libsndfile does not
            if not source.is_file():
                with _opened(opened.fileno()) as piped:
                    yield piped
                return
        with soundfile.SoundFile(source) as file:
            yield file, None
