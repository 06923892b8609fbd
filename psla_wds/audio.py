"""Audio files to waveforms and back: decode, downmix, resample, encode."""

import io
import math
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import soundfile
import soxr
from jaxtyping import Float32, Int16

Codec = Literal["flac", "wav"]
CODECS: tuple[str, ...] = get_args(Codec)

MAX_CLIP_S = 3600.0
"""Longer excerpts are refused: a header can promise any length, and memory is taken for it."""

MAX_RATE_HZ = 192_000
"""Of the longest clip; a header can promise any rate as well."""


class ClipRefusedError(Exception):
    """The clip cannot be used; `reason` is one word for counting, the message says more."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def load_clip(
    path: Path, *, start_s: float = 0.0, end_s: float = math.inf, sample_rate_hz: int
) -> Float32[np.ndarray, " samples"]:
    """The excerpt as one channel in [-1, 1] at `sample_rate_hz`: the mean of its channels,
    resampled by soxr at its high quality, whose filter keeps aliases out.

    Raises `ClipRefusedError` when the file is missing, unreadable, shorter than it says, empty
    in this range, too long, or holds values that are not finite.
    """
    try:
        if not path.is_file():
            raise ClipRefusedError("missing", "there is no such file")
        with soundfile.SoundFile(path) as file:
            waveform, source_rate_hz = _read_range(file, start_s, end_s), file.samplerate
    except (soundfile.LibsndfileError, RuntimeError, OSError) as error:
        raise ClipRefusedError("unreadable", str(error)) from None
    waveform = waveform.mean(axis=1)
    if not np.isfinite(waveform).all():
        raise ClipRefusedError("not-finite", "the audio holds NaN or infinite values")
    if source_rate_hz != sample_rate_hz:
        waveform = soxr.resample(waveform, source_rate_hz, sample_rate_hz, quality="HQ")
    if not len(waveform):
        raise ClipRefusedError("empty", "no sample is left after resampling")
    return waveform


def encode_clip(
    waveform: Float32[np.ndarray, " samples"], *, sample_rate_hz: int, codec: Codec
) -> bytes:
    """The waveform as a file of 16-bit audio; a 16-bit source survives bit by bit."""
    pcm = np.clip(np.rint(waveform * 32768.0), -32768, 32767).astype(np.int16)
    buffer = io.BytesIO()
    soundfile.write(buffer, pcm, sample_rate_hz, format=codec.upper(), subtype="PCM_16")
    return buffer.getvalue()


def decode_pcm(encoded: bytes | memoryview) -> tuple[Int16[np.ndarray, " samples"], int]:
    """Samples, the mean of the channels, and sample rate of a clip; `RuntimeError` if damaged."""
    with soundfile.SoundFile(io.BytesIO(encoded)) as file:
        if file.frames * file.channels > MAX_CLIP_S * MAX_RATE_HZ:
            raise RuntimeError(f"its header claims {file.frames:,} samples")
        pcm, sample_rate_hz = file.read(dtype="int16"), file.samplerate
    if pcm.ndim == 2:  # shards that others built may hold stereo
        pcm = np.rint(pcm.mean(axis=1)).astype(np.int16)
    return pcm, sample_rate_hz


def _read_range(
    file: soundfile.SoundFile, start_s: float, end_s: float
) -> Float32[np.ndarray, "samples channels"]:
    start = round(start_s * file.samplerate)
    stop = file.frames if math.isinf(end_s) else min(round(end_s * file.samplerate), file.frames)
    if stop <= start:
        length_s = file.frames / file.samplerate
        raise ClipRefusedError(
            "empty", f"nothing from {start_s:g} s on: the file has {length_s:g} s"
        )
    if stop - start > MAX_CLIP_S * min(file.samplerate, MAX_RATE_HZ):
        raise ClipRefusedError("too-long", f"longer than {MAX_CLIP_S:g} s; set start_s and end_s")
    file.seek(start)
    waveform = file.read(stop - start, dtype="float32", always_2d=True)
    if len(waveform) < stop - start:
        raise ClipRefusedError("truncated", f"{len(waveform)} of {stop - start} samples are there")
    return waveform
