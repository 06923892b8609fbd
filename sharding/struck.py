"""Things that are struck, plucked, dropped or broken: drums, bells, strings, steps, glass."""

import numpy as np
from scipy.signal import lfilter

from sharding.waveforms import (
    Onsets,
    Waveform,
    decay,
    impulses,
    noise,
    overlay,
    rhythm,
    ring,
    scattered,
    seconds,
    sine,
    soften,
)

# Partials of a church bell over its prime (hum, prime, tierce, quint, nominal, ...), and how
# long they last compared with the hum: after Fletcher & Rossing 1998.
BELL_RATIOS = np.array([0.5, 1.0, 1.2, 1.5, 2.0, 2.5, 2.67, 3.0, 4.0])
BELL_LASTING = np.array([1.0, 0.6, 0.5, 0.4, 0.35, 0.2, 0.2, 0.15, 0.1])
# Transverse modes of a bar with free ends: Fletcher & Rossing 1998.
BAR_RATIOS = np.array([1.0, 2.756, 5.404])
# How much stiffness stretches the partials of a piano string in its middle: Fletcher 1964.
PIANO_STIFFNESS = 4e-4
MAJOR_SCALE = np.array([0, 2, 4, 5, 7, 9, 11, 12])


def church_bell(rng: np.random.Generator, num_samples: int, sample_rate_hz: int) -> Waveform:
    """A large bell, struck every second or two; it rings on."""
    blows = _blows(rng, num_samples, sample_rate_hz, rng.uniform(1.0, 2.0))
    partials_hz = rng.uniform(220, 480) * BELL_RATIOS * rng.uniform(0.99, 1.01, len(BELL_RATIOS))
    lasting_s = rng.uniform(1.5, 3.0) * BELL_LASTING
    gains = (0.5, 0.7, 0.9, 0.4, 1.0, 0.4, 0.4, 0.5, 0.4)
    return ring(blows, sample_rate_hz, partials_hz, lasting_s, gains)


def wind_chime(rng: np.random.Generator, num_samples: int, sample_rate_hz: int) -> Waveform:
    """Small metal tubes, each with its own pitch, struck now and then by the wind."""
    chime = np.zeros(num_samples)
    onsets = scattered(rng, num_samples, sample_rate_hz, rng.uniform(3, 7))
    tube_of = rng.integers(0, 5, len(onsets))
    for tube, pitch_hz in enumerate(rng.uniform(1000, 2300, 5)):
        mine = onsets[tube_of == tube]
        blows = impulses(num_samples, mine, rng.uniform(0.3, 1.0, len(mine)))
        chime += ring(
            blows, sample_rate_hz, pitch_hz * BAR_RATIOS, (0.6, 0.3, 0.1), (1.0, 0.6, 0.3)
        )
    return chime


def plucked_string(rng: np.random.Generator, num_samples: int, sample_rate_hz: int) -> Waveform:
    """A guitar playing note after note: noise goes round a delay line (Karplus & Strong 1983)."""
    onsets = rhythm(rng, num_samples, sample_rate_hz, rng.uniform(0.18, 0.6), 0.05)
    lowest_hz = rng.uniform(110, 220)
    pitches_hz = lowest_hz * 2 ** (rng.choice(MAJOR_SCALE, len(onsets)) / 12)
    lengths = np.diff(onsets, append=num_samples).tolist()
    notes = (_pluck(rng, n, hz, sample_rate_hz) for n, hz in zip(lengths, pitches_hz, strict=True))
    return overlay(num_samples, onsets, notes)


def _pluck(
    rng: np.random.Generator, num_samples: int, pitch_hz: float, sample_rate_hz: int
) -> Waveform:
    period = round(sample_rate_hz / pitch_hz - 0.5)  # the average of two samples adds half of one
    burst = np.zeros(num_samples)
    burst[:period] = rng.uniform(-1, 1, period)[:num_samples]
    loop = np.zeros(period + 2)
    loop[0], loop[-2:] = 1.0, -0.498  # just under one half: the string loses a little each round
    return lfilter([1.0], loop, burst)


def piano(rng: np.random.Generator, num_samples: int, sample_rate_hz: int) -> Waveform:
    """A piano playing a tune: stretched partials, the higher ones weaker and shorter."""
    onsets = rhythm(rng, num_samples, sample_rate_hz, rng.uniform(0.2, 0.55), 0.04)
    lowest_hz = 110 * 2 ** (rng.integers(9, 28) / 12)
    pitches_hz = lowest_hz * 2 ** (rng.choice(MAJOR_SCALE, len(onsets)) / 12)
    lengths = np.minimum(num_samples - onsets, int(0.9 * sample_rate_hz)).tolist()
    notes = (_piano_note(n, hz, sample_rate_hz) for n, hz in zip(lengths, pitches_hz, strict=True))
    return overlay(num_samples, onsets, notes)


def _piano_note(num_samples: int, pitch_hz: float, sample_rate_hz: int) -> Waveform:
    partial = np.arange(1, 9)
    partials_hz = partial * pitch_hz * np.sqrt(1 + PIANO_STIFFNESS * partial**2)
    hammer = np.zeros(num_samples)
    hammer[0] = 1.0
    note = ring(hammer, sample_rate_hz, partials_hz, 0.6 / partial**0.7, 1 / partial**1.3)
    damper = np.minimum(1, (num_samples - np.arange(num_samples)) / (0.05 * sample_rate_hz))
    return note * damper


def bass_drum(rng: np.random.Generator, num_samples: int, sample_rate_hz: int) -> Waveform:
    """A kick drum keeping time: a low tone that sinks as the skin slackens, and a click."""
    length = int(0.4 * sample_rate_hz)
    lowest_hz, start_hz = rng.uniform(42, 62), rng.uniform(100, 200)
    sinking_hz = lowest_hz + start_hz * decay(length, sample_rate_hz, 0.03)
    boom = sine(sinking_hz, sample_rate_hz) * decay(length, sample_rate_hz, rng.uniform(0.08, 0.16))
    click = noise(rng, length, sample_rate_hz, 500.0, 3000.0) * decay(length, sample_rate_hz, 0.003)
    onsets = rhythm(rng, num_samples, sample_rate_hz, rng.uniform(0.35, 0.65), 0.02)
    return overlay(num_samples, onsets, [boom + 0.25 * click] * len(onsets))


def snare_drum(rng: np.random.Generator, num_samples: int, sample_rate_hz: int) -> Waveform:
    """A snare drum: two modes of the skin near 180 and 330 Hz, and the rattle of the wires."""
    interval_s = rng.choice([0.125, 0.25, 0.5]) * rng.uniform(0.9, 1.2)
    blows = _blows(rng, num_samples, sample_rate_hz, interval_s)
    skin_hz = rng.uniform(0.9, 1.15) * np.array([180.0, 330.0])
    skin = ring(blows, sample_rate_hz, skin_hz, (0.05, 0.03), (1.0, 0.6))
    wires = _fading(blows, sample_rate_hz, rng.uniform(0.04, 0.08))
    return skin + 0.35 * wires * noise(rng, num_samples, sample_rate_hz, 1000.0, 7000.0)


def hi_hat(rng: np.random.Generator, num_samples: int, sample_rate_hz: int) -> Waveform:
    """Two cymbals closed on each other: very short bursts of the highest noise, in time."""
    blows = _blows(rng, num_samples, sample_rate_hz, rng.uniform(0.12, 0.3))
    loudness = _fading(blows, sample_rate_hz, rng.uniform(0.01, 0.035))
    return loudness * noise(rng, num_samples, sample_rate_hz, 6500.0, 10000.0)


def knock(rng: np.random.Generator, num_samples: int, sample_rate_hz: int) -> Waveform:
    """Knuckles on a wooden door: 3 to 5 quick blows, and a rest of the time of 2 or 3."""
    onsets = rhythm(rng, num_samples, sample_rate_hz, rng.uniform(0.13, 0.24), 0.08)
    in_a_row = rng.integers(3, 6)
    onsets = onsets[np.arange(len(onsets)) % (in_a_row + rng.integers(2, 4)) < in_a_row]
    blows = impulses(num_samples, onsets, rng.uniform(0.6, 1.0, len(onsets)))
    door_hz = rng.uniform(0.8, 1.3) * np.array([170.0, 310.0, 520.0, 900.0])
    return ring(blows, sample_rate_hz, door_hz, (0.03, 0.02, 0.012, 0.006), (1.0, 0.9, 0.7, 0.5))


def footsteps(rng: np.random.Generator, num_samples: int, sample_rate_hz: int) -> Waveform:
    """A person walking: at each step the heel thuds, and the sole scrapes a moment later."""
    heels = rhythm(rng, num_samples, sample_rate_hz, rng.uniform(0.42, 0.65), 0.06)
    thuds = impulses(num_samples, heels, rng.uniform(0.6, 1.0, len(heels)))
    floor_hz = rng.uniform(0.8, 1.3) * np.array([90.0, 200.0, 450.0])
    heel = ring(thuds, sample_rate_hz, floor_hz, (0.025, 0.015, 0.006), (1.0, 0.8, 0.5))
    soles = heels + int(rng.uniform(0.07, 0.12) * sample_rate_hz)
    scrapes = impulses(num_samples, soles[soles < num_samples], np.ones(sum(soles < num_samples)))
    gravel = noise(rng, num_samples, sample_rate_hz, 700.0, 3500.0)
    return heel + 0.4 * gravel * soften(
        _fading(scrapes, sample_rate_hz, 0.03), sample_rate_hz, 20.0
    )


def clock_tick(rng: np.random.Generator, num_samples: int, sample_rate_hz: int) -> Waveform:
    """A clock: tick and tock, two dry clicks of 2 to 6 kHz by turns, 2 to 5 of them a second."""
    onsets = rhythm(rng, num_samples, sample_rate_hz, rng.uniform(0.2, 0.5), 0.01)
    tick, tock = rng.uniform(2000, 3500, 2)
    clock = np.zeros(num_samples)
    for beats, pitch_hz in ((onsets[::2], tick), (onsets[1::2], tock)):
        clicks = impulses(num_samples, beats, np.ones(len(beats)))
        modes_hz = pitch_hz * np.array([1.0, 1.7])
        clock += ring(clicks, sample_rate_hz, modes_hz, (0.004, 0.002), (1.0, 0.7))
    return clock


def glass_breaking(rng: np.random.Generator, num_samples: int, sample_rate_hz: int) -> Waveform:
    """A pane that bursts with a crash; the shards ring high as they fall, ever fewer of them."""
    crash = noise(rng, num_samples, sample_rate_hz, 2500.0, 9000.0)
    crash *= decay(num_samples, sample_rate_hz, rng.uniform(0.04, 0.09))
    shards = np.zeros(num_samples)
    for pitch_hz in rng.uniform(2200, 7200, 24):
        falls = (rng.exponential(0.25, 3) * sample_rate_hz).astype(np.int64)
        falls = np.append(0, falls[falls < num_samples])
        blows = impulses(num_samples, falls, rng.uniform(0.1, 1.0, len(falls)))
        shards += ring(blows, sample_rate_hz, (pitch_hz,), (rng.uniform(0.02, 0.12),), (1.0,))
    return 2 * crash + shards


def water_drops(rng: np.random.Generator, num_samples: int, sample_rate_hz: int) -> Waveform:
    """Drops into water: each leaves a bubble, whose tone rises as it dies (van den Doel 2005)."""
    onsets = rhythm(rng, num_samples, sample_rate_hz, rng.uniform(0.15, 0.45), 0.5)
    drops = (_bubble(rng, sample_rate_hz) for _ in onsets)
    return overlay(num_samples, onsets, drops)


def _bubble(rng: np.random.Generator, sample_rate_hz: int) -> Waveform:
    length, lasting_s = int(0.15 * sample_rate_hz), rng.uniform(0.015, 0.035)
    rise_hz = rng.uniform(500, 1300) * (1 + seconds(length, sample_rate_hz) / (4 * lasting_s))
    lasting = decay(length, sample_rate_hz, lasting_s)
    return sine(np.minimum(rise_hz, 5000.0), sample_rate_hz) * lasting * rng.uniform(0.4, 1.0)


def _blows(
    rng: np.random.Generator, num_samples: int, sample_rate_hz: int, interval_s: float
) -> Waveform:
    """Impulses of unequal strength, evenly spaced as a person or a machine strikes."""
    onsets: Onsets = rhythm(rng, num_samples, sample_rate_hz, interval_s, 0.03)
    return impulses(num_samples, onsets, rng.uniform(0.6, 1.0, len(onsets)))


def _fading(blows: Waveform, sample_rate_hz: int, time_constant_s: float) -> Waveform:
    """Jumps up at every blow and dies away: the loudness of what a blow sets rattling."""
    return lfilter([1.0], [1.0, -np.exp(-1 / (time_constant_s * sample_rate_hz))], blows)
