"""Samples of clips in shards, in 16 bits."""

import io

import numpy as np
import soundfile
from jaxtyping import Int16

from psla_wds.audio.decode import MAX_CLIP_S, MAX_RATE_HZ, mix_channels
from psla_wds.audio.encode import to_pcm


def decode_pcm(encoded: bytes | memoryview) -> tuple[Int16[np.ndarray, " samples"], int]:
    """Samples (mean of the channels, clipped at full scale) and sample rate of a clip.

    Raises `RuntimeError` if the clip is damaged, or holds values that are not finite.
    """
    with soundfile.SoundFile(io.BytesIO(encoded)) as file:
        if file.frames * file.channels > MAX_CLIP_S * MAX_RATE_HZ:
            raise RuntimeError(f"its header claims {file.frames:,} samples")
        # As floats, since libsndfile lets loud Ogg wrap, and reads float WAV as near silence. With
        # their number, since finding it takes seeking, which GSM and G.721 cannot.
        waveform = file.read(file.frames, dtype="float32", always_2d=True)
        sample_rate_hz = file.samplerate
    if not np.isfinite(waveform).all():
        raise RuntimeError("it holds NaN or infinite values")
    return to_pcm(mix_channels(waveform)), sample_rate_hz
