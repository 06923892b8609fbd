"""Faults of a waveform that can still be used: silent, clipped, or up-sampled."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32

SILENT_DBFS = -70.0
"""Level below which a clip counts as silent: about ten steps of 16 bits."""
FULL_SCALE = 32766 / 32768
CLIPPED_RUN = 3
"""Samples in a row at full scale that count as clipped."""
RATES_HZ = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
FFT_SIZE = 1024
NOISE_16_BIT = 1 / 32768**2 / 12
"""Power of rounding to 16 bits: all that up-sampled audio has above its band."""
FLOOR_DB = 10.0
EDGE_DB, EDGE_HZ = 20.0, 600.0
"""Fall (dB) within a range (Hz) that a resampler's filter gives a spectrum; sounds fade slower."""


def level_dbfs(waveform: Float32[np.ndarray, " samples"]) -> float:
    """Root mean square around the mean, in dB of full scale."""
    return 20 * math.log10(max(float(waveform.std()), 1e-9))


def is_clipped(waveform: Float32[np.ndarray, " samples"]) -> bool:
    """Whether several samples in a row are at full scale."""
    at_limit = (np.abs(waveform) >= FULL_SCALE).astype(np.int8)
    return bool((np.convolve(at_limit, np.ones(CLIPPED_RUN, np.int8)) >= CLIPPED_RUN).any())


@dataclass(frozen=True)
class Spectrum:
    """The mean power of a waveform at each frequency."""

    sample_rate_hz: int
    frequencies_hz: Float[np.ndarray, " bins"]
    above_db: Float[np.ndarray, " bins"]
    """Power in dB above the rounding to 16 bits."""

    @classmethod
    def of(cls, waveform: Float32[np.ndarray, " samples"], sample_rate_hz: int) -> "Spectrum":
        from scipy.signal import welch  # here, since packing does not need SciPy

        segment = min(FFT_SIZE, len(waveform))
        frequencies_hz, power = welch(waveform, sample_rate_hz, nperseg=segment)
        rounding = NOISE_16_BIT / (sample_rate_hz / 2)
        above_db = 10 * np.log10(np.maximum(power / rounding, 1e-3))
        return cls(sample_rate_hz, frequencies_hz, above_db)

    def bandwidth_hz(self) -> float:
        """Highest frequency that is `FLOOR_DB` above the rounding; 0 if none is."""
        heard = np.flatnonzero(self.above_db > FLOOR_DB)
        return float(self.frequencies_hz[heard[-1]]) if len(heard) else 0.0

    def likely_rate_hz(self) -> int:
        """The rate of the original recording: a lower one if the spectrum ends at a filter's edge
        just below half of it, with only rounding above; otherwise the waveform's own."""
        top_hz = self.bandwidth_hz()
        inside = (self.frequencies_hz > top_hz - EDGE_HZ) & (self.frequencies_hz <= top_hz)
        sharp = top_hz > EDGE_HZ and self.above_db[inside].max() > FLOOR_DB + EDGE_DB
        lower = [r for r in RATES_HZ if r < self.sample_rate_hz and top_hz <= r / 2 * 1.02]
        return lower[0] if sharp and lower else self.sample_rate_hz
