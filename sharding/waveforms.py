"""What the procedural sounds are made of: tones, noise, resonances, rhythms."""

from collections.abc import Iterable, Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Float64, Int64
from scipy.fft import irfft, next_fast_len
from scipy.signal import lfilter

Waveform: TypeAlias = Float64[np.ndarray, " samples"]
Onsets: TypeAlias = Int64[np.ndarray, " onsets"]
Modes: TypeAlias = Sequence[float] | Float64[np.ndarray, " modes"]

# Nothing above this share of the sample rate is made: the rest is for anti-aliasing filters.
HIGHEST_SHARE_OF_RATE = 0.46


def seconds(num_samples: int, sample_rate_hz: int) -> Waveform:
    """The time of every sample, from 0."""
    return np.arange(num_samples) / sample_rate_hz


def glide(num_samples: int, start: float, stop: float) -> Waveform:
    """From `start` to `stop`, both positive, by equal ratios: a straight line to the ear."""
    return np.exp(np.linspace(np.log(start), np.log(stop), num_samples))


def wander(
    rng: np.random.Generator, num_samples: int, sample_rate_hz: int, turns_per_s: float
) -> Waveform:
    """A random curve within [-1, 1] that changes its course `turns_per_s` times a second."""
    position = seconds(num_samples, sample_rate_hz) * turns_per_s + rng.random()
    knots = rng.uniform(-1.0, 1.0, int(position[-1]) + 2)
    return np.interp(position, np.arange(len(knots)), knots)


def hump(num_samples: int) -> Waveform:
    """One swell from near 0 to 1 and back: a Hann window without its zeros."""
    return np.sin(np.pi * (np.arange(num_samples) + 0.5) / num_samples) ** 2


def decay(num_samples: int, sample_rate_hz: int, time_constant_s: float) -> Waveform:
    """From 1, down to 1/e after each `time_constant_s`."""
    return np.exp(-seconds(num_samples, sample_rate_hz) / time_constant_s)


def gate(num_samples: int, sample_rate_hz: int, on_s: float, off_s: float) -> Waveform:
    """1 for `on_s`, 0 for `off_s`, and again; the edges are softened so that they do not click."""
    open_ = seconds(num_samples, sample_rate_hz) % (on_s + off_s) < on_s
    return soften(open_.astype(np.float64), sample_rate_hz, 100.0)


def sine(frequency_hz: Waveform, sample_rate_hz: int) -> Waveform:
    """A pure tone that follows a curve of frequencies."""
    return _sin(2 * np.pi * _turns(frequency_hz, sample_rate_hz))


def reed(frequency_hz: Waveform, sample_rate_hz: int, amplitudes: Sequence[float]) -> Waveform:
    """A tone with given amplitudes of its harmonics; those too high for the rate are left out."""
    phase = 2 * np.pi * _turns(frequency_hz, sample_rate_hz)
    highest_hz = float(frequency_hz.max())
    tone = np.zeros_like(phase)
    for harmonic, amplitude in enumerate(amplitudes, start=1):
        if harmonic == 1 or harmonic * highest_hz < HIGHEST_SHARE_OF_RATE * sample_rate_hz:
            tone += amplitude * _sin(harmonic * phase)
    return tone


def buzz(frequency_hz: Waveform, sample_rate_hz: int) -> Waveform:
    """A pulse train with peaks of 1 which does not alias: all its harmonics equally strong.

    The sum of cosines in closed form (Winham & Steiglitz 1970).
    """
    highest = HIGHEST_SHARE_OF_RATE * sample_rate_hz / float(frequency_hz.max())
    num_harmonics = max(1, int(highest))
    half_phase = np.pi * np.maximum(_turns(frequency_hz, sample_rate_hz), 1e-6)  # never 0/0
    ratio = _sin((2 * num_harmonics + 1) * half_phase) / _sin(half_phase)
    return (ratio - 1) / (2 * num_harmonics)


def _turns(frequency_hz: Waveform, sample_rate_hz: int) -> Waveform:
    """How far round its circle a tone is, in [0, 1)."""
    turns = np.cumsum(frequency_hz) / sample_rate_hz
    return turns - np.floor(turns)


def _sin(phase: Waveform) -> Waveform:
    """The sine in float32, which is 10x faster than in float64; its error of 1e-5 is not heard."""
    return np.sin(phase.astype(np.float32)).astype(np.float64)


def noise(
    rng: np.random.Generator, num_samples: int, sample_rate_hz: int, low_hz: float, high_hz: float
) -> Waveform:
    """Gaussian noise of a band, falling by 12 dB an octave outside; its deviation is near 1."""
    length = next_fast_len(num_samples, real=True)
    frequency_hz = np.fft.rfftfreq(length, 1 / sample_rate_hz)
    frequency_hz[0] = frequency_hz[1] / 2  # keeps the next line finite; the bin is emptied below
    below, above = np.square(low_hz / frequency_hz), np.square(frequency_hz / high_hz)
    gain = 1 / np.sqrt((1 + below * below) * (1 + above * above))  # ** 4 is 20x slower
    gain[0] = 0.0
    spectrum = rng.standard_normal(2 * len(gain)).view(np.complex128) * gain
    band = irfft(spectrum, length)[:num_samples]
    return band * (length / (2 * np.sqrt(np.square(gain).sum())))


def soften(signal: Waveform, sample_rate_hz: int, cutoff_hz: float) -> Waveform:
    """`signal`, falling by 6 dB an octave above `cutoff_hz`."""
    memory = np.exp(-2 * np.pi * cutoff_hz / sample_rate_hz)
    return lfilter([1 - memory], [1, -memory], signal)


def ring(
    excitation: Waveform,
    sample_rate_hz: int,
    frequencies_hz: Modes,
    decays_s: Modes,
    gains: Modes,
) -> Waveform:
    """What a body sounds like when `excitation` strikes it: modal synthesis.

    Every mode is a sinusoid that dies away with its own time constant (van den Doel & Pai 1998).
    """
    body = np.zeros_like(excitation)
    for frequency_hz, decay_s, gain in zip(frequencies_hz, decays_s, gains, strict=True):
        if frequency_hz < HIGHEST_SHARE_OF_RATE * sample_rate_hz:
            angle = 2 * np.pi * frequency_hz / sample_rate_hz
            radius = np.exp(-1 / (decay_s * sample_rate_hz))
            feedback = [1, -2 * radius * np.cos(angle), radius**2]
            body += lfilter([gain * np.sin(angle)], feedback, excitation)
    return body


def rhythm(
    rng: np.random.Generator,
    num_samples: int,
    sample_rate_hz: int,
    interval_s: float,
    jitter: float,
) -> Onsets:
    """Onsets from 0 on, `interval_s` apart, each interval off by up to `jitter` (a share of it)."""
    most = int(num_samples / sample_rate_hz / (interval_s * (1 - jitter))) + 1
    gaps_s = interval_s * rng.uniform(1 - jitter, 1 + jitter, most)
    onsets = np.cumsum(np.append(0.0, gaps_s)) * sample_rate_hz
    return onsets[onsets < num_samples].astype(np.int64)


def scattered(
    rng: np.random.Generator, num_samples: int, sample_rate_hz: int, rate_per_s: float
) -> Onsets:
    """Onsets of a Poisson process, in order; the first one is at 0."""
    count = rng.poisson(rate_per_s * num_samples / sample_rate_hz)
    return np.append(0, np.sort(rng.integers(0, num_samples, count)))


def impulses(num_samples: int, onsets: Onsets, gains: Float64[np.ndarray, " onsets"]) -> Waveform:
    """Silence but for one sample of its gain at each onset."""
    signal = np.zeros(num_samples)
    np.add.at(signal, onsets, gains)
    return signal


def overlay(
    num_samples: int, onsets: Onsets, grains: Iterable[Float64[np.ndarray, " _"]]
) -> Waveform:
    """The sum of short sounds, each beginning at its onset and cut at the end."""
    sound = np.zeros(num_samples)
    for onset, grain in zip(onsets.tolist(), grains, strict=True):
        stop = min(num_samples, onset + len(grain))
        sound[onset:stop] += grain[: stop - onset]
    return sound
