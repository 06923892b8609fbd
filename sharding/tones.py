"""Sirens, alarms, telephones, whistles: tones whose pitch and rhythm name them."""

import numpy as np

from sharding.waveforms import (
    Waveform,
    decay,
    gate,
    glide,
    hump,
    noise,
    overlay,
    reed,
    rhythm,
    ring,
    seconds,
    sine,
    wander,
)

# Amplitudes of the harmonics of a horn loudspeaker driven hard, as in sirens.
HORN = (1.0, 0.5, 0.35, 0.2, 0.12)
# ITU-T Q.23: a key of a telephone is one of the low tones and one of the high ones.
DTMF_LOW_HZ = (697.0, 770.0, 852.0, 941.0)
DTMF_HIGH_HZ = (1209.0, 1336.0, 1477.0)


def siren_wail(rng: np.random.Generator, num_samples: int, sample_rate_hz: int) -> Waveform:
    """A siren that glides up and down between about 600 and 1400 Hz, once in 1.2 to 4 seconds."""
    turn = seconds(num_samples, sample_rate_hz) / rng.uniform(1.2, 4.0) + rng.random()
    low_hz, octaves = rng.uniform(500, 750), rng.uniform(0.9, 1.3)
    height = (1 - np.cos(2 * np.pi * turn)) / 2
    return reed(low_hz * np.exp2(octaves * height), sample_rate_hz, HORN)


def siren_two_tone(rng: np.random.Generator, num_samples: int, sample_rate_hz: int) -> Waveform:
    """A European siren: two notes a fourth apart (DIN 14610: 360 to 630 Hz), by turns."""
    turn = seconds(num_samples, sample_rate_hz) / rng.uniform(0.8, 1.4) + rng.random()
    low_hz = rng.uniform(380, 470)
    return reed(np.where(turn % 1 < 0.5, low_hz, low_hz * 4 / 3), sample_rate_hz, HORN)


def alarm_beeps(rng: np.random.Generator, num_samples: int, sample_rate_hz: int) -> Waveform:
    """Beeps of an alarm clock or a smoke alarm (near 3.1 kHz): a piezo's tone, on and off."""
    frequency_hz = np.full(num_samples, rng.choice([2000.0, 2400.0, 3100.0]) * rng.uniform(0.95, 1))
    on_s, off_s = rng.uniform(0.06, 0.3, 2)
    return reed(frequency_hz, sample_rate_hz, (1.0, 0.1, 0.2)) * gate(
        num_samples, sample_rate_hz, on_s, off_s
    )


def telephone_ring(rng: np.random.Generator, num_samples: int, sample_rate_hz: int) -> Waveform:
    """An old telephone: a clapper between two gongs; rings as in Britain: twice, then a rest."""
    blows = np.zeros(num_samples)
    blows[rhythm(rng, num_samples, sample_rate_hz, 1 / rng.uniform(35, 50), 0.02)] = 1.0
    now_s = seconds(num_samples, sample_rate_hz) % 3.0
    blows *= (now_s < 0.4) | ((now_s > 0.6) & (now_s < 1.0))
    gong_hz = rng.uniform(900, 1500)
    partials_hz = gong_hz * np.array([1.0, 1.19, 2.3, 2.75, 4.2])
    gains = (1.0, 0.8, 0.6, 0.5, 0.3)
    return ring(blows, sample_rate_hz, partials_hz, (0.25, 0.22, 0.12, 0.1, 0.06), gains)


def telephone_dialing(rng: np.random.Generator, num_samples: int, sample_rate_hz: int) -> Waveform:
    """Keys of a telephone, each a pair of tones (ITU-T Q.23), some 5 a second."""
    key_length = int(rng.uniform(0.08, 0.16) * sample_rate_hz)
    gap_s = rng.uniform(0.04, 0.12)
    onsets = rhythm(rng, num_samples, sample_rate_hz, key_length / sample_rate_hz + gap_s, 0.05)
    keys = (_key(rng, key_length, sample_rate_hz) for _ in onsets)
    return overlay(num_samples, onsets, keys)


def _key(rng: np.random.Generator, num_samples: int, sample_rate_hz: int) -> Waveform:
    low_hz = np.full(num_samples, rng.choice(DTMF_LOW_HZ))
    high_hz = np.full(num_samples, rng.choice(DTMF_HIGH_HZ))
    return sine(low_hz, sample_rate_hz) + sine(high_hz, sample_rate_hz)


def whistling(rng: np.random.Generator, num_samples: int, sample_rate_hz: int) -> Waveform:
    """A person whistling a tune: a pure tone, gliding from note to note, and a little breath."""
    note_s = rng.uniform(0.2, 0.5)
    position = seconds(num_samples, sample_rate_hz) / note_s
    semitones = np.cumsum(rng.choice([-4, -2, -1, 0, 2, 3, 5], int(position[-1]) + 2))
    steps = np.arange(len(semitones)) + 0.5
    # Each note is held over the middle 70 % of its time; the pitch slides in between.
    edges = np.concatenate([steps - 0.35, steps + 0.35])
    order = np.argsort(edges)
    melody = np.interp(position, edges[order], np.tile(semitones % 14, 2)[order])
    vibrato = 0.2 * np.sin(2 * np.pi * 5.5 * position * note_s)  # 5.5 Hz, a fifth of a semitone
    tone = sine(rng.uniform(900, 1300) * np.exp2((melody + vibrato) / 12), sample_rate_hz)
    breath = noise(rng, num_samples, sample_rate_hz, 1000.0, 3000.0)
    return (tone + 0.015 * breath) * (0.35 + 0.65 * np.sqrt(np.sin(np.pi * (position % 1))))


def train_horn(rng: np.random.Generator, num_samples: int, sample_rate_hz: int) -> Waveform:
    """Blasts of a locomotive: a chord of 3 reeds between 250 and 500 Hz (K3LA: D# F# B)."""
    root_hz = rng.uniform(250, 330)
    chord = np.zeros(num_samples)
    for ratio in (1.0, 1.19, 1.59):  # the intervals of D#4, F#4 and B4
        drift = 1 + 0.004 * wander(rng, num_samples, sample_rate_hz, 4.0)
        chord += reed(root_hz * ratio * drift, sample_rate_hz, (0.6, 1.0, 0.9, 0.7, 0.5, 0.4, 0.3))
    return chord * gate(num_samples, sample_rate_hz, rng.uniform(0.5, 1.5), rng.uniform(0.2, 0.4))


def laser(rng: np.random.Generator, num_samples: int, sample_rate_hz: int) -> Waveform:
    """A ray gun of the arcades: one and the same steep fall in pitch, some 3 times a second."""
    length = int(rng.uniform(0.15, 0.35) * sample_rate_hz)
    fall_hz = glide(length, rng.uniform(3000, 5000), rng.uniform(120, 300))
    shot = reed(fall_hz, sample_rate_hz, (1.0, 0.4)) * decay(length, sample_rate_hz, 0.15)
    shot[-length // 4 :] *= hump(2 * (length // 4 + 1))[-len(shot[-length // 4 :]) :]
    onsets = rhythm(rng, num_samples, sample_rate_hz, rng.uniform(0.2, 0.5), 0.1)
    return overlay(num_samples, onsets, [shot] * len(onsets))
