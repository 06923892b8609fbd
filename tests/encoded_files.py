"""Files in containers that libsndfile does not read, made by FFmpeg's libraries."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

RATE_HZ = 48_000
LENGTH_S = 6


def waveform() -> np.ndarray:
    rng, time_s = np.random.default_rng(0), np.arange(LENGTH_S * RATE_HZ) / RATE_HZ
    tone = 0.3 * np.sin(2 * np.pi * 440 * time_s * (1 + time_s / 6))
    left = tone + 0.05 * rng.standard_normal(len(tone))
    return np.stack([left, 0.5 * left[::-1]], axis=1).astype(np.float32)


def encode(path: Path, samples: np.ndarray, codec: str, options: dict[str, str]) -> Path:
    """Encode by FFmpeg's libraries; `options` with a slash are the muxer's."""
    muxer = {name[1:]: value for name, value in options.items() if name[0] == "/"}
    with av.open(str(path), "w", options=muxer) as container:
        own = {name: value for name, value in options.items() if name[0] != "/"}
        stream: Any = container.add_stream(codec, rate=RATE_HZ, layout="stereo", options=own)
        if codec == "wmav2":
            stream.bit_rate = 128_000
        kind = stream.codec_context.format.name
        whole = samples if kind.startswith("flt") else np.rint(samples * 32767).astype(np.int16)
        packed = whole.reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(packed, "flt" if whole is samples else "s16", "stereo")
        frame.sample_rate = RATE_HZ
        fifo = av.AudioFifo()
        fifo.write(frame)
        resampler = av.AudioResampler(kind, "stereo", RATE_HZ)
        size, position = stream.codec_context.frame_size or 1024, 0
        while (part := fifo.read(size, partial=True)) is not None:
            for converted in resampler.resample(part):
                converted.pts, converted.time_base = position, Fraction(1, RATE_HZ)
                position += converted.samples
                container.mux(stream.encode(converted))
        container.mux(stream.encode(None))
    return path
