"""Five generators of sounds: noise, pulses, tones, sweeps, and bodies that are struck.

Each takes a random generator, the number of samples and the sample rate, and then, by name, what a
class fixes; it returns a `Waveform` of any loudness, never silent. Ranges are (low, high), and
every sound draws its own value from each.
"""

from typing import TypeAlias

import numpy as np
from jaxtyping import Float64, Int64

Waveform: TypeAlias = Float64[np.ndarray, " samples"]
Range: TypeAlias = tuple[float, float]

HIGHEST_SHARE_OF_RATE = 0.46
"""Highest frequency of a partial, as a share of the sample rate: above it resampling cuts."""


def noise(
    rng: np.random.Generator,
    num_samples: int,
    rate_hz: int,
    *,
    band_hz: Range,
    gusts_per_s: float = 0.0,
) -> Waveform:
    """A band of noise; with gusts, its loudness rises and falls so many times a second."""
    loudness = 0.55 + 0.45 * _wander(rng, num_samples, rate_hz, gusts_per_s)
    return band_noise(rng, num_samples, rate_hz, band_hz) * loudness


def pulses(
    rng: np.random.Generator,
    num_samples: int,
    rate_hz: int,
    *,
    band_hz: Range,
    per_s: Range,
    lasting_s: Range,
    regular: bool = True,
) -> Waveform:
    """Short bursts of a band of noise, evenly spaced or at random, each with its own loudness."""
    interval_s = 1 / rng.uniform(*per_s)
    onsets = _onsets(rng, num_samples, interval_s * rate_hz, 0.03 if regular else 1.0)
    last, since_s = _since_onset(onsets, num_samples, rate_hz)
    loudness = rng.uniform(0.5, 1.0, len(onsets))[last] * np.exp(-since_s / rng.uniform(*lasting_s))
    return band_noise(rng, num_samples, rate_hz, band_hz) * loudness


def tones(
    rng: np.random.Generator,
    num_samples: int,
    rate_hz: int,
    *,
    pitch_hz: Range,
    harmonics: tuple[float, ...],
    drift_octaves: float = 0.0,
    gate_s: Range | None = None,
) -> Waveform:
    """A pitch with harmonics of these amplitudes, drifting; a gate turns it on and off by turns."""
    drift = drift_octaves * _wander(rng, num_samples, rate_hz, 1.0)
    tone = _harmonics(rng.uniform(*pitch_hz) * np.exp2(drift), rate_hz, harmonics)
    if gate_s is None:
        return tone
    on_s, off_s = rng.uniform(*gate_s, 2)
    return tone * (_time_s(num_samples, rate_hz) % (on_s + off_s) < on_s)


def sweeps(
    rng: np.random.Generator,
    num_samples: int,
    rate_hz: int,
    *,
    low_hz: Range,
    octaves: Range,
    per_s: Range,
    returning: bool,
) -> Waveform:
    """A tone that glides over some octaves again and again: up and down, or up and silent."""
    turn = _time_s(num_samples, rate_hz) * rng.uniform(*per_s) + rng.random() * returning
    height = (1 - np.cos(2 * np.pi * turn)) / 2 if returning else np.minimum(2 * (turn % 1), 1)
    pitch_hz = rng.uniform(*low_hz) * np.exp2(rng.uniform(*octaves) * height)
    tone = _harmonics(pitch_hz, rate_hz, (1.0, 0.4, 0.2) if returning else (1.0, 0.1))
    return tone if returning else tone * np.sin(np.pi * height)


def struck(
    rng: np.random.Generator,
    num_samples: int,
    rate_hz: int,
    *,
    pitch_hz: Range,
    ratios: tuple[float, ...],
    per_s: Range,
    lasting_s: Range,
    notes: tuple[int, ...] = (0,),
) -> Waveform:
    """A body struck again and again, each time at one of the notes (in semitones above its pitch).

    Its partials die away, and each higher one sooner.
    """
    onsets = _onsets(rng, num_samples, rate_hz / rng.uniform(*per_s), 0.05)
    last, since_s = _since_onset(onsets, num_samples, rate_hz)
    pitches_hz = rng.uniform(*pitch_hz) * np.exp2(rng.choice(notes, len(onsets)) / 12)[last]
    decay_s, blows = rng.uniform(*lasting_s), rng.uniform(0.6, 1.0, len(onsets))[last]
    sound = np.zeros(num_samples)
    for number, ratio in enumerate(ratios, start=1):
        partial = np.sin(2 * np.pi * ratio * pitches_hz * since_s) / number
        partial *= ratio * pitches_hz < HIGHEST_SHARE_OF_RATE * rate_hz
        sound += partial * np.exp(-since_s * (number / decay_s))
    return sound * blows


def band_noise(
    rng: np.random.Generator, num_samples: int, rate_hz: int, band_hz: Range
) -> Waveform:
    """Gaussian noise that falls by 12 dB an octave outside the band; its deviation is 1."""
    frequency_hz = np.fft.rfftfreq(num_samples, 1 / rate_hz)
    frequency_hz[0] = frequency_hz[1] / 2  # finite in the next line; that bin is emptied below
    below, above = np.square(band_hz[0] / frequency_hz), np.square(frequency_hz / band_hz[1])
    gain = 1 / np.sqrt((1 + below * below) * (1 + above * above))
    gain[0] = 0.0
    band = np.fft.irfft(np.fft.rfft(rng.standard_normal(num_samples)) * gain, num_samples)
    return band / band.std()


def _harmonics(pitch_hz: Waveform, rate_hz: int, amplitudes: tuple[float, ...]) -> Waveform:
    """A tone that follows a curve of pitches; harmonics too high for the rate are left out."""
    turns = np.cumsum(pitch_hz) / rate_hz
    limit_hz = HIGHEST_SHARE_OF_RATE * rate_hz
    audible = [k for k in range(1, len(amplitudes) + 1) if k * pitch_hz.max() < limit_hz]
    waves = (amplitudes[k - 1] * np.sin(2 * np.pi * (k * turns % 1)) for k in audible)
    return np.sum(list(waves), axis=0)


def _time_s(num_samples: int, rate_hz: int) -> Waveform:
    return np.arange(num_samples) / rate_hz


def _wander(
    rng: np.random.Generator, num_samples: int, rate_hz: int, turns_per_s: float
) -> Waveform:
    """A random curve within [-1, 1] that changes direction about `turns_per_s` times a second."""
    position = _time_s(num_samples, rate_hz) * turns_per_s + rng.random()
    knots = rng.uniform(-1.0, 1.0, int(position[-1]) + 2)
    return np.interp(position, np.arange(len(knots)), knots)


def _onsets(
    rng: np.random.Generator, num_samples: int, interval: float, jitter: float
) -> Int64[np.ndarray, " onsets"]:
    """Samples at which something begins, the first at 0; `jitter` is a share of the interval."""
    gaps = interval * (1 + jitter * rng.uniform(-1, 1, 2 + int(4 * num_samples / interval)))
    onsets = np.cumsum(np.append(0, np.maximum(gaps, 1))).astype(np.int64)
    return onsets[onsets < num_samples]


def _since_onset(
    onsets: Int64[np.ndarray, " onsets"], num_samples: int, rate_hz: int
) -> tuple[Int64[np.ndarray, " samples"], Waveform]:
    """Number of the last onset at or before each sample, and the seconds since then."""
    samples = np.arange(num_samples)
    last = np.searchsorted(onsets, samples, side="right") - 1
    return last, (samples - onsets[last]) / rate_hz
