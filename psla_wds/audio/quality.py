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
    around_mean = waveform - waveform.mean()
    power = float(np.vdot(around_mean, around_mean)) / len(waveform)  # faster than std()
    return 10 * math.log10(max(power, 1e-18))


def is_clipped(waveform: Float32[np.ndarray, " samples"]) -> bool:
    """Whether several samples in a row are at full scale."""
    at_limit = (np.abs(waveform) >= FULL_SCALE).astype(np.int8)
    return bool((np.convolve(at_limit, np.ones(CLIPPED_RUN, np.int8)) >= CLIPPED_RUN).any())


class Levels:
    """Silence and clipping of a recording that comes block by block; sizes of blocks do not change
    the flags."""

    def __init__(self) -> None:
        self._tail: Float32[np.ndarray, "samples channels"] | None = None
        self._clipped, self._peak = False, 0.0
        self._count, self._sum, self._energy = 0, 0.0, 0.0

    def source(
        self, block: Float32[np.ndarray, "samples channels"]
    ) -> Float32[np.ndarray, "samples channels"]:
        """Take note of a block as it was recorded, and return it."""
        before = block[:0] if self._tail is None else self._tail
        if len(block) and not self._clipped:
            # A sample above full scale was not clipped there: only floats hold one.
            self._clipped = max(block.max(), -block.min()) >= FULL_SCALE and any(
                is_clipped(np.where(np.abs(channel) > 1, 0, channel))
                for channel in np.concatenate([before, block]).T
            )
        self._tail = np.concatenate([before, block[1 - CLIPPED_RUN :]])[1 - CLIPPED_RUN :]
        return block

    def heard(self, block: Float32[np.ndarray, " samples"]) -> None:
        """Take note of a block as a model hears it."""
        samples = block.astype(np.float64)
        self._peak = max(self._peak, float(np.abs(samples).max(initial=0)))
        self._count += len(samples)
        self._sum += float(samples.sum())
        self._energy += float(samples @ samples)

    def flags(self) -> dict[str, str]:
        """Flags, and their details."""
        flags = {}
        variance = self._energy / self._count - (self._sum / self._count) ** 2
        level = 10 * math.log10(max(variance, 1e-18))
        if self._peak == 0:
            flags["digital-silence"] = "all its samples are 0"
        elif level < SILENT_DBFS:
            flags["silent"] = f"{level:.0f} dBFS, below {SILENT_DBFS:g}"
        if self._clipped:
            flags["clipped"] = f"{CLIPPED_RUN} or more samples in a row are at full scale"
        return flags


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
