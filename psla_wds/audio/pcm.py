"""Samples of clips in shards."""

import io
import struct

import numpy as np
import soundfile
from jaxtyping import Float32, Int16

from psla_wds.audio.decode import MAX_CHANNELS, MAX_CLIP_S, MAX_RATE_HZ, mix_channels
from psla_wds.audio.encode import from_pcm, to_pcm
from psla_wds.audio.flac import MOST_VALUES, decode_flac

_WAV_HEADER = struct.Struct("<4sI4s4sIHHIIHH4sI")
"""Header of a WAV file with 16-bit samples and nothing else, as `build --codec wav` writes it."""


def decode_pcm(encoded: bytes | memoryview) -> tuple[Int16[np.ndarray, " samples"], int]:
    """Samples (mean of the channels, clipped at full scale) and sample rate of a clip.

    Raises `RuntimeError` if the clip is damaged, or holds values that are not finite.
    """
    waveform, sample_rate_hz = decode_float(encoded)
    if not np.isfinite(waveform).all():
        raise RuntimeError("it holds NaN or infinite values")
    return to_pcm(waveform), sample_rate_hz


def decode_float(encoded: bytes | memoryview) -> tuple[Float32[np.ndarray, " samples"], int]:
    """Samples (mean of the channels) and sample rate of a clip; `RuntimeError` if damaged."""
    decoded = decode_flac(encoded) or _decode_wav(encoded) or _by_libsndfile(encoded)
    return mix_channels(decoded[0]), decoded[1]


def _decode_wav(
    encoded: bytes | memoryview,
) -> tuple[Float32[np.ndarray, "samples channels"], int] | None:
    """Samples of a WAV file as `_by_libsndfile` gives them, in a fraction of its time; None if the
    file is not an ordinary one with 16 bits."""
    if not _WAV_HEADER.size < len(encoded) <= _WAV_HEADER.size + 2 * MOST_VALUES:
        return None
    num_channels, rate_hz = struct.unpack_from("<HI", encoded, 22)
    if not (0 < num_channels <= MAX_CHANNELS and 0 < rate_hz <= MAX_RATE_HZ):
        return None
    sample_bytes, num_bytes = 2 * num_channels, len(encoded) - _WAV_HEADER.size
    ordinary = _WAV_HEADER.pack(
        *(b"RIFF", len(encoded) - 8, b"WAVE", b"fmt ", 16, 1, num_channels, rate_hz),
        *(rate_hz * sample_bytes, sample_bytes, 16, b"data", num_bytes),
    )
    if encoded[: _WAV_HEADER.size] != ordinary or num_bytes % sample_bytes:
        return None
    samples = from_pcm(np.frombuffer(encoded, "<i2", offset=_WAV_HEADER.size))
    return samples.reshape(-1, num_channels), rate_hz


def _by_libsndfile(
    encoded: bytes | memoryview,
) -> tuple[Float32[np.ndarray, "samples channels"], int]:
    with soundfile.SoundFile(io.BytesIO(encoded)) as file:
        if file.frames * file.channels > MAX_CLIP_S * MAX_RATE_HZ:
            raise RuntimeError(f"its header claims {file.frames:,} samples")
        # As floats, since libsndfile lets loud Ogg wrap, and reads float WAV as near silence. With
        # their number, since finding it takes seeking, which GSM and G.721 cannot. In blocks, since
        # a header may claim far more than there is.
        left, blocks = file.frames, list[Float32[np.ndarray, "samples channels"]]()
        while left or not blocks:
            wanted = min(left, max(MOST_VALUES // file.channels, 1))
            blocks.append(file.read(wanted, dtype="float32", always_2d=True))
            left = left - wanted if len(blocks[-1]) == wanted else 0
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks), file.samplerate
