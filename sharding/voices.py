"""Voices of people and animals: a source (vocal folds, wings) and what shapes it."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float64
from scipy.signal import sosfilt

from sharding.waveforms import (
    HIGHEST_SHARE_OF_RATE,
    Modes,
    Waveform,
    buzz,
    glide,
    hump,
    noise,
    overlay,
    rhythm,
    sine,
    soften,
    wander,
)

# Typical bandwidths of the first four formants, after Klatt 1980.
FORMANT_BANDWIDTHS_HZ = (60.0, 90.0, 150.0, 250.0)
FRICATIVE_LEVEL = 0.005  # some 20 dB below the vowels, which peak near 0.08 after `_formants`


@dataclass(frozen=True)
class Speaker:
    """What tells men, women and children apart: pitch and the size of the vocal tract."""

    lowest_pitch_hz: float
    highest_pitch_hz: float
    fourth_formant_hz: float
    vowels_hz: Float64[np.ndarray, "vowels 3"]
    """First three formants in heed, hid, head, had, hod, hawed, hood, who'd, hud, heard."""


# Formants: the means of Peterson & Barney 1952; pitches: a range about theirs.
MAN = Speaker(
    90.0,
    150.0,
    3500.0,
    np.array(
        [
            (270.0, 2290.0, 3010.0),
            (390.0, 1990.0, 2550.0),
            (530.0, 1840.0, 2480.0),
            (660.0, 1720.0, 2410.0),
            (730.0, 1090.0, 2440.0),
            (570.0, 840.0, 2410.0),
            (440.0, 1020.0, 2240.0),
            (300.0, 870.0, 2240.0),
            (640.0, 1190.0, 2390.0),
            (490.0, 1350.0, 1690.0),
        ]
    ),
)
WOMAN = Speaker(
    180.0,
    250.0,
    4100.0,
    np.array(
        [
            (310.0, 2790.0, 3310.0),
            (430.0, 2480.0, 3070.0),
            (610.0, 2330.0, 2990.0),
            (860.0, 2050.0, 2850.0),
            (850.0, 1220.0, 2810.0),
            (590.0, 920.0, 2710.0),
            (470.0, 1160.0, 2680.0),
            (370.0, 950.0, 2670.0),
            (760.0, 1400.0, 2780.0),
            (500.0, 1640.0, 1960.0),
        ]
    ),
)
CHILD = Speaker(
    270.0,
    390.0,
    5000.0,
    np.array(
        [
            (370.0, 3200.0, 3730.0),
            (530.0, 2730.0, 3600.0),
            (690.0, 2610.0, 3570.0),
            (1010.0, 2320.0, 3320.0),
            (1030.0, 1370.0, 3170.0),
            (680.0, 1060.0, 3180.0),
            (560.0, 1410.0, 3310.0),
            (430.0, 1170.0, 3260.0),
            (850.0, 1590.0, 3360.0),
            (560.0, 1820.0, 2160.0),
        ]
    ),
)


def male_speech(rng: np.random.Generator, num_samples: int, sample_rate_hz: int) -> Waveform:
    """A man speaking syllables of no language."""
    return _speech(rng, num_samples, sample_rate_hz, MAN)


def female_speech(rng: np.random.Generator, num_samples: int, sample_rate_hz: int) -> Waveform:
    """A woman speaking syllables of no language."""
    return _speech(rng, num_samples, sample_rate_hz, WOMAN)


def child_speech(rng: np.random.Generator, num_samples: int, sample_rate_hz: int) -> Waveform:
    """A child speaking syllables of no language."""
    return _speech(rng, num_samples, sample_rate_hz, CHILD)


def _speech(
    rng: np.random.Generator, num_samples: int, sample_rate_hz: int, speaker: Speaker
) -> Waveform:
    """Source and filter, a vowel and perhaps a fricative a syllable (Klatt 1980)."""
    syllable_s = 1 / rng.uniform(3.5, 5.5)
    onsets = rhythm(rng, num_samples, sample_rate_hz, syllable_s, 0.3)
    source = _vocal_folds(rng, num_samples, sample_rate_hz, speaker)
    hiss = noise(rng, num_samples, sample_rate_hz, 3500.0, 6500.0)
    speech = np.zeros(num_samples)
    for onset, stop in pairwise([*onsets.tolist(), num_samples]):
        if onset > 0 and rng.random() < 0.12:
            continue  # a pause
        vowel = np.append(rng.choice(speaker.vowels_hz), speaker.fourth_formant_hz)
        voiced = _formants(source[onset:stop], sample_rate_hz, vowel)
        speech[onset:stop] += voiced * np.sqrt(hump(stop - onset)) * rng.uniform(0.5, 1.0)
        if rng.random() < 0.5:
            fricative = hiss[onset : min(stop, onset + int(0.08 * sample_rate_hz))]
            speech[onset : onset + len(fricative)] += (
                FRICATIVE_LEVEL * fricative * hump(len(fricative))
            )
    return speech


def _vocal_folds(
    rng: np.random.Generator, num_samples: int, sample_rate_hz: int, speaker: Speaker
) -> Waveform:
    """Pulses whose pitch sinks over the sentence and never stands still, with some breath."""
    pitch_hz = rng.uniform(speaker.lowest_pitch_hz, speaker.highest_pitch_hz)
    melody = 1 + 0.18 * wander(rng, num_samples, sample_rate_hz, 2.5)
    tremor = 1 + 0.01 * wander(rng, num_samples, sample_rate_hz, 60.0)
    pulses = buzz(pitch_hz * melody * tremor * glide(num_samples, 1.1, 0.9), sample_rate_hz)
    breath = 0.01 * rng.standard_normal(num_samples)
    # The folds fall by 12 dB an octave, the lips give 6 back.
    return soften(pulses + breath, sample_rate_hz, 200.0)


def _formants(
    source: Waveform, sample_rate_hz: int, formants_hz: Modes, widen: float = 1.0
) -> Waveform:
    """`source` through resonators in cascade, as the vocal tract (Klatt 1980)."""
    sections = []
    for frequency_hz, bandwidth_hz in zip(formants_hz, FORMANT_BANDWIDTHS_HZ, strict=False):
        if frequency_hz < HIGHEST_SHARE_OF_RATE * sample_rate_hz:
            radius = np.exp(-np.pi * widen * bandwidth_hz / sample_rate_hz)
            first = 2 * radius * np.cos(2 * np.pi * frequency_hz / sample_rate_hz)
            second = -(radius**2)
            sections.append([1 - first - second, 0, 0, 1, -first, -second])
    return sosfilt(sections, source)


def dog_bark(rng: np.random.Generator, num_samples: int, sample_rate_hz: int) -> Waveform:
    """Barks: rough bursts of a tenth to a fifth of a second, whose pitch jumps up and falls."""
    size = rng.uniform(0.8, 1.5)  # 1: a dog of middle size; small dogs bark higher
    onsets = rhythm(rng, num_samples, sample_rate_hz, rng.uniform(0.3, 0.6), 0.25)
    barks = (_bark(rng, sample_rate_hz, size) for _ in onsets)
    return overlay(num_samples, onsets, barks)


def _bark(rng: np.random.Generator, sample_rate_hz: int, size: float) -> Waveform:
    length = int(rng.uniform(0.12, 0.2) * sample_rate_hz)
    pitch_hz = 420 / size * (0.7 + 0.5 * hump(length)) * rng.uniform(0.93, 1.07)
    rough = 1 + 0.6 * wander(rng, length, sample_rate_hz, 180.0)
    source = buzz(pitch_hz, sample_rate_hz) * rough + 0.25 * rng.standard_normal(length)
    throat = _formants(source, sample_rate_hz, (750 / size, 1500 / size, 2600 / size), widen=3.0)
    attack_early = np.sqrt(np.linspace(0, 1, length))
    return throat * np.sin(np.pi * attack_early) * rng.uniform(0.7, 1.0)


def cat_meow(rng: np.random.Generator, num_samples: int, sample_rate_hz: int) -> Waveform:
    """Meows: a long note that rises and falls while the mouth opens and closes."""
    onsets = rhythm(rng, num_samples, sample_rate_hz, rng.uniform(0.9, 1.5), 0.2)
    pitch_hz = rng.uniform(480, 720)
    meows = (_meow(rng, sample_rate_hz, pitch_hz) for _ in onsets)
    return overlay(num_samples, onsets, meows)


def _meow(rng: np.random.Generator, sample_rate_hz: int, pitch_hz: float) -> Waveform:
    length = int(rng.uniform(0.5, 0.9) * sample_rate_hz)
    opening = hump(length)
    curve_hz = pitch_hz * (0.75 + 0.35 * opening) * glide(length, 1.08, 0.88)
    vibrato = 1 + 0.01 * wander(rng, length, sample_rate_hz, 30.0)
    source = soften(buzz(curve_hz * vibrato, sample_rate_hz), sample_rate_hz, 900.0)
    closed = _formants(source, sample_rate_hz, (600.0, 2600.0, 3600.0), widen=2.0)
    open_ = _formants(source, sample_rate_hz, (1300.0, 2000.0, 3400.0), widen=2.0)
    return (closed * (1 - opening) + open_ * opening) * np.sqrt(opening)


def bird_song(rng: np.random.Generator, num_samples: int, sample_rate_hz: int) -> Waveform:
    """Chirps: short whistled sweeps between 2 and 7 kHz, a bird repeating its own one or two."""
    syllables = [_chirp(rng, sample_rate_hz) for _ in range(rng.integers(1, 3))]
    onsets = rhythm(rng, num_samples, sample_rate_hz, rng.uniform(0.13, 0.32), 0.15)
    sung = [i == 0 or rng.random() < 0.8 for i in range(len(onsets))]
    choices = rng.integers(0, len(syllables), len(onsets))
    return overlay(num_samples, onsets[sung], (syllables[i] for i in choices[sung]))


def _chirp(rng: np.random.Generator, sample_rate_hz: int) -> Waveform:
    length = int(rng.uniform(0.05, 0.14) * sample_rate_hz)
    start_hz, stop_hz = rng.uniform(2300, 6000, 2)
    bend = 1 + rng.uniform(-0.15, 0.15) * hump(length)
    return sine(glide(length, start_hz, stop_hz) * bend, sample_rate_hz) * hump(length)


def cricket(rng: np.random.Generator, num_samples: int, sample_rate_hz: int) -> Waveform:
    """A field cricket: chirps of 3 to 5 pulses of one tone near 4.5 kHz, 2 to 4 chirps a second."""
    pulse_length = int(rng.uniform(0.015, 0.022) * sample_rate_hz)
    carrier_hz = np.full(pulse_length, rng.uniform(4000, 5000))
    pulse = sine(carrier_hz, sample_rate_hz) * hump(pulse_length)
    num_pulses, period = int(rng.integers(3, 6)), int(1.7 * pulse_length)
    onsets = rhythm(rng, num_samples, sample_rate_hz, rng.uniform(0.25, 0.45), 0.05)
    starts = (onsets[:, None] + period * np.arange(num_pulses)).ravel()
    starts = starts[starts < num_samples]
    return overlay(num_samples, starts, [pulse] * len(starts))


def bee(rng: np.random.Generator, num_samples: int, sample_rate_hz: int) -> Waveform:
    """A bee that flies about: wing beats near 230 a second (honey bees), nearer and farther."""
    unsteady = 1 + 0.08 * wander(rng, num_samples, sample_rate_hz, 5.0)
    wings = buzz(rng.uniform(190, 270) * unsteady, sample_rate_hz)
    body = _formants(wings, sample_rate_hz, (450.0, 1000.0, 2300.0), widen=6.0)
    nearness = 1 + 0.85 * wander(rng, num_samples, sample_rate_hz, 2.0)
    return body * nearness
