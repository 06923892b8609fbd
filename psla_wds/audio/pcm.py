"""Samples of clips in shards."""

import io

import numpy as np
import soundfile
from jaxtyping import Float32, Int16

from psla_wds.audio.decode import MAX_CLIP_S, MAX_RATE_HZ, mix_channels
from psla_wds.audio.encode import to_pcm
from psla_wds.audio.flac import MOST_VALUES, decode_flac


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
    decoded = decode_flac(encoded) or _by_libsndfile(encoded)
    return mix_channels(decoded[0]), decoded[1]


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
