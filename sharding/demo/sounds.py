"""Five generators of sounds: noise, pulses, tones, sweeps, and bodies that are struck.

What a class fixes comes by name; ranges are (low, high), from which each event draws its own value.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Float64, Int64

Waveform: TypeAlias = Float64[np.ndarray, " samples"]
Number: TypeAlias = int | float
Range: TypeAlias = tuple[Number, Number]


@dataclass(frozen=True)
class Event:
    """A stretch of time to fill with a sound, and the randomness to fill it with."""

    rng: np.random.Generator
    num_samples: int
    rate_hz: int

    def draw(self, limits: Range) -> float:
        return self.rng.uniform(*limits)


def noise(event: Event, *, band_hz: Range) -> Waveform:
    """A band of noise with deviation 1 that falls by 12 dB an octave outside."""
    length = -(-event.num_samples // 1024) * 1024  # a length without large prime factors
    frequency_hz = np.fft.rfftfreq(length, 1 / event.rate_hz)[1:]
    below, above = np.square(band_hz[0] / frequency_hz), np.square(frequency_hz / band_hz[1])
    gain = np.append(0.0, 1 / np.sqrt((1 + below * below) * (1 + above * above)))
    spectrum = np.fft.rfft(event.rng.standard_normal(length)) * gain
    band = np.fft.irfft(spectrum, length)[: event.num_samples]
    return band / band.std()


def pulses(
    event: Event, *, band_hz: Range, per_s: Range, lasting_s: Range, jitter: float = 0.03
) -> Waveform:
    """Bursts of a band of noise, each with its own loudness; full jitter scatters them."""
    last, since_s, gains = _blows(event, per_s, jitter)
    return noise(event, band_hz=band_hz) * gains[last] * np.exp(-since_s / event.draw(lasting_s))


def tones(event: Event, *, pitch_hz: Range, harmonics: tuple[Number, ...]) -> Waveform:
    """A steady pitch with harmonics of these amplitudes."""
    return _harmonics(event, np.full(event.num_samples, event.draw(pitch_hz)), harmonics)


def sweeps(
    event: Event, *, low_hz: Range, octaves: Range, per_s: Range, harmonics: tuple[Number, ...]
) -> Waveform:
    """A tone that glides up and down again and again."""
    time_s = np.arange(event.num_samples) / event.rate_hz
    turn = time_s * event.draw(per_s) + event.rng.random()
    height = event.draw(octaves) * (1 - np.cos(2 * np.pi * turn)) / 2
    return _harmonics(event, event.draw(low_hz) * np.exp2(height), harmonics)


def struck(
    event: Event,
    *,
    pitch_hz: Range,
    ratios: tuple[Number, ...],
    per_s: Range,
    lasting_s: Range,
    notes: tuple[int, ...] = (0,),
) -> Waveform:
    """A body struck again and again, at random notes (semitones above its pitch).

    Its partials, at these ratios to the note, die away; the higher ones are weaker and shorter.
    """
    last, since_s, gains = _blows(event, per_s, jitter=0.05)
    tuning = np.exp2(event.rng.choice(notes, len(gains)) / 12)
    note_hz, decay_s = event.draw(pitch_hz) * tuning[last], event.draw(lasting_s)
    sound = np.zeros(event.num_samples)
    for number, ratio in enumerate(ratios, start=1):
        decay = np.exp(-since_s * (number / decay_s)) / number
        sound += decay * np.sin(2 * np.pi * ratio * note_hz * since_s)
    return sound * gains[last]


def _harmonics(event: Event, pitch_hz: Waveform, amplitudes: tuple[Number, ...]) -> Waveform:
    """A tone that follows a curve of pitches, without the harmonics that are too high."""
    highest = int(0.46 * event.rate_hz / pitch_hz.max())  # what is above, resampling removes
    turning = np.exp(2j * np.pi * np.cumsum(pitch_hz) / event.rate_hz)
    return np.polyval([*amplitudes[:highest][::-1], 0.0], turning).imag  # its powers: harmonics


def _blows(
    event: Event, per_s: Range, jitter: float
) -> tuple[Int64[np.ndarray, " samples"], Waveform, Float64[np.ndarray, " blows"]]:
    """The last blow at or before each sample, the seconds since then, and the gain of each blow.

    The first is at 0. `jitter` is a share of the interval, up to 1.
    """
    interval = event.rate_hz / event.draw(per_s)
    count = 2 + int(4 * event.num_samples / interval)
    gaps = interval * (1 + jitter * event.rng.uniform(-1, 1, count))
    onsets = np.cumsum(np.append(0, np.maximum(gaps, 1))).astype(np.int64)
    samples = np.arange(event.num_samples)
    last = np.searchsorted(onsets, samples, side="right") - 1
    return last, (samples - onsets[last]) / event.rate_hz, event.rng.uniform(0.5, 1.0, count + 1)
