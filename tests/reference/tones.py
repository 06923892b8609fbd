"""Sines, and the pitch of what became of them."""

import numpy as np


def sine(rate_hz: int, frequency_hz: float = 1000.0, length_s: float = 1.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * frequency_hz * np.arange(round(rate_hz * length_s)) / rate_hz)


def peak_hz(waveform: np.ndarray, rate_hz: int = 16_000) -> float:
    """Frequency of the highest peak of the spectrum."""
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform))))
    return float(spectrum.argmax() * rate_hz / len(waveform))
