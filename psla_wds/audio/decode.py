"""Audio files to waveforms and back: decode, downmix, resample, encode."""

import functools
import io
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
import soxr
from jaxtyping import Float32, Int16

from psla_wds.audio import ffmpeg
from psla_wds.audio.ogg import with_fixed_serial
from psla_wds.audio.wav_header import is_cut_short

Codec = Literal["flac", "opus", "vorbis", "wav"]

EXTENSIONS = {"flac": "flac", "opus": "opus", "vorbis": "ogg", "wav": "wav"}
"""Of the members of a tar, by codec."""
OPUS_RATES_HZ = (8_000, 12_000, 16_000, 24_000, 48_000)

AUDIO_SUFFIXES = {
    ".aif",
    ".aiff",
    ".au",
    ".caf",
    ".flac",
    ".mp3",
    ".oga",
    ".ogg",
    ".opus",
    ".wav",
    *ffmpeg.SUFFIXES,
}
"""Of the files that are taken for audio where a folder holds others as well."""

MAX_CLIP_S = 3600.0
"""Longer excerpts are refused: a header can promise any length, and memory is taken for it."""
CUT_TOLERANCE_S = 1.0
"""What a cut clip may exceed, and a whole recording fall short of, the times it is listed with."""
SILENT_DBFS = -70.0
"""Clips below it are nearly silent: about ten steps of 16 bits."""

_FORMATS = {
    "flac": ("FLAC", "PCM_16"),
    "opus": ("OGG", "OPUS"),
    "vorbis": ("OGG", "VORBIS"),
    "wav": ("WAV", "PCM_16"),
}
_SAMPLES_AT_ONCE = 2**18  # libvorbis overflows its stack when it is given many minutes at once

MAX_RATE_HZ = 192_000
"""Of the longest clip; a header can promise any rate as well."""


class ClipRefusedError(Exception):
    """The clip cannot be used; `reason` is one word for counting, the message says more."""

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
) -> Float32[np.ndarray, " samples"]:
    """The excerpt as one channel in [-1, 1] at `sample_rate_hz`: the mean of its channels,
    resampled by soxr at its high quality, whose filter keeps aliases out.

    Args:
        source: an audio file, or the bytes of one.
        may_be_cut: the file is the excerpt itself, and taken whole, if it is no longer than that
            (and a second); otherwise it must be the recording, and reach to `end_s`.
        max_s: more than that of the excerpt is left out.

    Raises `ClipRefusedError` when the file is missing, unreadable, shorter than it says, empty
    in this range, too long, of another length than the excerpt and the recording, needs an
    ffmpeg that is not there, or holds values that are not finite.
    """
    try:
        if isinstance(source, Path) and not source.is_file():
            raise ClipRefusedError("missing", "there is no such file")
        with _opened(source) as file:
            length_s = file.frames / file.samplerate
            if may_be_cut and _is_cut(length_s, start_s, end_s):
                start_s, end_s = 0.0, math.inf
            waveform, is_all = _read_range(file, start_s, min(end_s, start_s + max_s))
            source_rate_hz = file.samplerate
        if is_all and is_cut_short(source):
            raise ClipRefusedError("truncated", "the file ends before its header says so")
    except (RuntimeError, OSError) as error:
        raise ClipRefusedError("unreadable", reason_of(error)) from None
    return as_mono(waveform, source_rate_hz, sample_rate_hz)


def as_mono(
    waveform: Float32[np.ndarray, "source_samples channels"],
    source_rate_hz: int,
    sample_rate_hz: int,
) -> Float32[np.ndarray, " samples"]:
    """The mean of the channels at another rate; `ClipRefusedError` if there is nothing to hear."""
    mono = mix_channels(waveform)
    if source_rate_hz != sample_rate_hz:
        mono = soxr.resample(mono, source_rate_hz, sample_rate_hz, quality="HQ")
    if not np.isfinite(mono).all():  # whatever is not finite spreads over the filter's length
        raise ClipRefusedError("not-finite", "the audio holds NaN or infinite values")
    if not len(mono):
        raise ClipRefusedError("empty", "no sample is left after resampling")
    return mono


def mix_channels(
    waveform: Float32[np.ndarray, "samples channels"],
) -> Float32[np.ndarray, " samples"]:
    """The mean of the channels."""
    # The same numbers as waveform.mean(axis=1), which is 30 times as slow for two channels.
    return functools.reduce(np.add, waveform.T) / np.float32(waveform.shape[1])


def encode_clip(
    waveform: Float32[np.ndarray, " samples"], *, sample_rate_hz: int, codec: Codec
) -> bytes:
    """The waveform as a file of audio, the same bytes for the same samples. In FLAC and WAV, of
    16 bits, a 16-bit source survives bit by bit."""
    pcm = to_pcm(waveform)
    container, subtype = _FORMATS[codec]
    buffer = io.BytesIO()
    with soundfile.SoundFile(
        buffer, "w", sample_rate_hz, channels=1, format=container, subtype=subtype
    ) as file:
        for start in range(0, len(pcm), _SAMPLES_AT_ONCE):
            file.write(pcm[start : start + _SAMPLES_AT_ONCE])
    encoded = buffer.getvalue()
    return with_fixed_serial(encoded) if container == "OGG" else encoded


def to_pcm(waveform: Float32[np.ndarray, " samples"]) -> Int16[np.ndarray, " samples"]:
    return np.clip(np.rint(waveform * 32768.0), -32768, 32767).astype(np.int16)


def decode_pcm(encoded: bytes | memoryview) -> tuple[Int16[np.ndarray, " samples"], int]:
    """Samples, the mean of the channels, and sample rate of a clip; `RuntimeError` if damaged."""
    with soundfile.SoundFile(io.BytesIO(encoded)) as file:
        if file.frames * file.channels > MAX_CLIP_S * MAX_RATE_HZ:
            raise RuntimeError(f"its header claims {file.frames:,} samples")
        pcm, sample_rate_hz = file.read(dtype="int16"), file.samplerate
    if pcm.ndim == 2:  # shards that others built may hold stereo
        pcm = np.rint(pcm.mean(axis=1)).astype(np.int16)
    return pcm, sample_rate_hz


def reason_of(error: Exception) -> str:
    """What an error of reading says, without the name or the place in memory of what was read, so
    that it is the same wherever a clip lies."""
    return error.error_string if isinstance(error, soundfile.LibsndfileError) else str(error)


def level_dbfs(waveform: Float32[np.ndarray, " samples"]) -> float:
    """Root mean square without the mean, in dB of full scale."""
    return 20 * math.log10(max(float(waveform.std()), 1e-9))


@contextmanager
def _opened(source: Path | io.BytesIO) -> Iterator[soundfile.SoundFile]:
    if not isinstance(source, Path) or source.suffix.lower() not in ffmpeg.SUFFIXES:
        with soundfile.SoundFile(source) as file:
            yield file
        return
    if ffmpeg.version() is None:
        raise ClipRefusedError("needs-ffmpeg", f"install ffmpeg to read {source.suffix} files")
    with tempfile.TemporaryDirectory() as folder:
        wav = Path(folder) / "recording.wav"
        ffmpeg.convert(source, wav)
        with soundfile.SoundFile(wav) as file:
            yield file


def _is_cut(length_s: float, start_s: float, end_s: float) -> bool:
    """Whether a file of this length is the excerpt, rather than the recording it is cut from."""
    if length_s <= end_s - start_s + CUT_TOLERANCE_S:
        return True
    if length_s >= end_s - CUT_TOLERANCE_S:
        return False
    raise ClipRefusedError(
        "odd-length",
        f"{length_s:g} s is neither the excerpt ({end_s - start_s:g} s) "
        f"nor the recording, which has at least {end_s:g} s",
    )


def _read_range(
    file: soundfile.SoundFile, start_s: float, end_s: float
) -> tuple[Float32[np.ndarray, "samples channels"], bool]:
    """The excerpt, and whether it reaches to the end of the file."""
    start = round(start_s * file.samplerate)
    stop = file.frames if math.isinf(end_s) else min(round(end_s * file.samplerate), file.frames)
    if stop <= start:
        length_s = file.frames / file.samplerate
        raise ClipRefusedError(
            "empty", f"nothing from {start_s:g} s on: the file has {length_s:g} s"
        )
    if stop - start > MAX_CLIP_S * min(file.samplerate, MAX_RATE_HZ):
        raise ClipRefusedError("too-long", f"longer than {MAX_CLIP_S:g} s; set start_s and end_s")
    if start:  # some codecs cannot seek
        file.seek(start)
    waveform = file.read(stop - start, dtype="float32", always_2d=True)
    if len(waveform) < stop - start:
        raise ClipRefusedError("truncated", f"{len(waveform)} of {stop - start} samples are there")
    return waveform, stop == file.frames
