"""Clips which are hard for a front end in different ways, and batches of them."""

import csv
import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from psla_wds.features.config import FeatureConfig
from psla_wds.features.encoded_batch import EncodedBatch
from psla_wds.sampling.augment import plain_draws

SAMPLE_RATE_HZ = 16_000

OTHER_CONFIGS = {
    "64 mels at 8 kHz": FeatureConfig(sample_rate_hz=8_000, num_mels=64, high_hz=4_000.0),
    "32 kHz, hop 20 ms": FeatureConfig(sample_rate_hz=32_000, hop_ms=20.0, high_hz=14_000.0),
    "window of one hop": FeatureConfig(hop_ms=25.0, low_hz=0.0, num_mels=40),
}


def speech_like(num_samples: int = 48_000) -> np.ndarray:
    """A voice with a gliding pitch, formants, syllables and breath."""
    time_s = np.arange(num_samples) / SAMPLE_RATE_HZ
    pitch_hz = 120 + 20 * np.sin(2 * np.pi * 0.7 * time_s)
    phase = 2 * np.pi * np.cumsum(pitch_hz) / SAMPLE_RATE_HZ
    voice = sum(_formants(120 * k) * np.sin(k * phase) for k in range(1, 40))
    syllables = np.clip(np.sin(2 * np.pi * 4 * time_s), 0, 1)
    return 0.1 * voice * syllables + 0.002 * white_noise(num_samples)


def _formants(frequency_hz: float) -> float:
    return sum(np.exp(-(((frequency_hz - peak) / 200) ** 2)) for peak in (500, 1500, 2500))


def music_like(num_samples: int = 48_000) -> np.ndarray:
    """Decaying chords of pure harmonics: almost nothing between them, nothing above 5 kHz."""
    time_s = np.arange(num_samples) / SAMPLE_RATE_HZ
    tones = [root * k for root in (220.0, 277.2, 329.6) for k in range(1, 16)]
    chord = sum(np.sin(2 * np.pi * hz * time_s) * 100 / hz for hz in tones)
    return 0.2 * chord * np.exp(-3 * (time_s % 0.5))


def white_noise(num_samples: int = 48_000) -> np.ndarray:
    return 0.1 * np.random.default_rng(num_samples).standard_normal(num_samples)


def pink_noise(num_samples: int = 48_000) -> np.ndarray:
    spectrum = np.fft.rfft(white_noise(num_samples))
    return np.fft.irfft(spectrum / np.sqrt(np.arange(1, len(spectrum) + 1)), num_samples) * 10


def near_silence(num_samples: int = 48_000) -> np.ndarray:
    return np.random.default_rng(0).integers(-1, 2, num_samples) / 32768


def drifting_offset(num_samples: int = 48_000) -> np.ndarray:
    """A quiet sound on a rumble and an offset which are a thousand times louder."""
    time_s = np.arange(num_samples) / SAMPLE_RATE_HZ
    drift = np.linspace(-0.5, 0.5, num_samples) + 0.3 * np.sin(2 * np.pi * 7 * time_s)
    return drift + 0.01 * white_noise(num_samples)


def silence_inside(num_samples: int = 48_000) -> np.ndarray:
    waveform = white_noise(num_samples)
    waveform[num_samples // 3 : num_samples // 2] = 0.0
    return waveform


SIGNALS: dict[str, Callable[[int], np.ndarray]] = {
    "speech": speech_like,
    "music": music_like,
    "white noise": white_noise,
    "pink noise": pink_noise,
    "near silence": near_silence,
    "drifting offset": drifting_offset,
    "silence inside": silence_inside,
}


def real_clips(count: int) -> list[Path]:
    """Clips evenly spaced over the manifest of PSLA_REAL_CLIPS; those that are not at 16 kHz
    are left out.
    """
    if "PSLA_REAL_CLIPS" not in os.environ:
        pytest.skip("PSLA_REAL_CLIPS names no folder with a manifest.csv and clips")
    folder = Path(os.environ["PSLA_REAL_CLIPS"])
    with (folder / "manifest.csv").open(newline="") as file:
        paths = [folder / row["path"] for row in csv.DictReader(file)]
    spaced = paths[:: max(1, len(paths) // count)][:count]
    return [path for path in spaced if soundfile.info(path).samplerate == SAMPLE_RATE_HZ]


def encode(waveform: np.ndarray, container: str = "FLAC") -> np.ndarray:
    """A file of 16-bit audio (Vorbis for "OGG"); [samples] or [samples, channels]."""
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(waveform, -1, 1), SAMPLE_RATE_HZ, format=container)
    return np.frombuffer(buffer.getvalue(), np.uint8)


def source_of(*batches: EncodedBatch) -> Callable[[int], EncodedBatch]:
    def source(iteration: int) -> EncodedBatch:
        if iteration >= len(batches):
            raise StopIteration
        return batches[iteration]

    return source


def plain_batch(audio: list[np.ndarray]) -> EncodedBatch:
    """The clips as they are, not mixed and not masked; draws can be changed in place."""
    return EncodedBatch.of(plain_draws(np.arange(len(audio))), audio)


def mixed_batch(container: str) -> EncodedBatch:
    """Clips from one sample to longer than 1056 frames; half of them mixed, half masked."""
    lengths = [1, 399, 400, 4_001, 48_000, 80_000, 169_200, 200_001]
    kinds = [*SIGNALS.values(), speech_like]
    waveforms = [
        kind(n) if n > 4_000 else white_noise(n) for kind, n in zip(kinds, lengths, strict=True)
    ]
    audio = [encode(waveform, container) for waveform in waveforms]
    batch = plain_batch(audio)
    # Partners longer and shorter than their clip, the one-sample clip among them.
    for draw, (partner, lam) in {
        0: (4, 0.3),
        1: (3, 0.4),
        3: (0, 0.6),
        5: (7, 0.5),
        6: (2, 0.9),
    }.items():
        batch.partner_audio[draw] = audio[partner]
        batch.draws.partners[draw], batch.draws.lam[draw] = partner, lam
    batch.draws.masks[[2, 4, 5, 7]] = [
        [0, 48, 0, 0],
        [80, 48, 864, 192],
        [127, 1, 0, 1],
        [17, 0, 600, 50],
    ]
    return batch
