"""Weather, water, crowds and machines: noise, and what gives it a face."""

import numpy as np

from sharding.waveforms import (
    Waveform,
    buzz,
    decay,
    impulses,
    noise,
    reed,
    ring,
    scattered,
    seconds,
    soften,
    wander,
)


def white_noise(rng: np.random.Generator, num_samples: int, sample_rate_hz: int) -> Waveform:
    """The steady hiss of a radio between stations."""
    return rng.standard_normal(num_samples)


def wind(rng: np.random.Generator, num_samples: int, sample_rate_hz: int) -> Waveform:
    """Gusts: a low roar, and above it a band that howls when the gust is strong."""
    gusts = (1 + wander(rng, num_samples, sample_rate_hz, 1.5)) / 2
    howl_hz = rng.uniform(350, 700)
    howl = noise(rng, num_samples, sample_rate_hz, howl_hz, 1.15 * howl_hz)
    roar = noise(rng, num_samples, sample_rate_hz, 60.0, 250.0)
    return roar * (0.3 + 0.7 * gusts) + 0.7 * howl * gusts**2


def rain(rng: np.random.Generator, num_samples: int, sample_rate_hz: int) -> Waveform:
    """Rain: the even hiss of the many drops far away, and single ones that tap nearby."""
    hiss = noise(rng, num_samples, sample_rate_hz, 1500.0, 6500.0)
    onsets = scattered(rng, num_samples, sample_rate_hz, rng.uniform(60, 250))
    drops = impulses(num_samples, onsets, rng.exponential(1.0, len(onsets)))
    tap_hz = rng.uniform(1200, 3000)
    taps = ring(drops, sample_rate_hz, (tap_hz, 1.9 * tap_hz), (0.001, 0.0005), (1.0, 1.0))
    return rng.uniform(0.15, 0.4) * hiss + 1.2 * taps


def sea_waves(rng: np.random.Generator, num_samples: int, sample_rate_hz: int) -> Waveform:
    """A wave that rolls in and breaks: a swelling low rush, and a shorter hiss at its top."""
    period_s = rng.uniform(2.5, 5.0)
    turn = seconds(num_samples, sample_rate_hz) / period_s + rng.random()
    swell = (1 - np.cos(2 * np.pi * turn)) / 2
    rush = noise(rng, num_samples, sample_rate_hz, 150.0, 900.0)
    spray = noise(rng, num_samples, sample_rate_hz, 1500.0, 6000.0)
    return rush * (0.15 + swell) + 0.7 * spray * (0.03 + np.square(swell * swell))


def thunder(rng: np.random.Generator, num_samples: int, sample_rate_hz: int) -> Waveform:
    """A crack, which is short and bright, and a rumble, which rolls and dies away."""
    crack = noise(rng, num_samples, sample_rate_hz, 300.0, 2500.0)
    crack *= decay(num_samples, sample_rate_hz, rng.uniform(0.05, 0.15))
    rolling = (1.1 + wander(rng, num_samples, sample_rate_hz, 6.0)) / 2
    rumble = noise(rng, num_samples, sample_rate_hz, 30.0, 130.0) * rolling
    return 0.6 * crack + rumble * decay(num_samples, sample_rate_hz, rng.uniform(0.6, 1.5))


def applause(rng: np.random.Generator, num_samples: int, sample_rate_hz: int) -> Waveform:
    """Many hands clapping: each clap some 10 ms of noise between 1 and 3 kHz.

    Peltola, Erkut, Cook & Välimäki 2007.
    """
    onsets = scattered(rng, num_samples, sample_rate_hz, rng.uniform(25, 110))
    claps = impulses(num_samples, onsets, 0.2 + rng.exponential(1.0, len(onsets)))
    loudness = soften(claps, sample_rate_hz, 25.0)  # falls to 1/e in 6 ms
    return loudness * noise(rng, num_samples, sample_rate_hz, 900.0, 2800.0)


def vacuum_cleaner(rng: np.random.Generator, num_samples: int, sample_rate_hz: int) -> Waveform:
    """The steady whine of a fast motor, and the rush of air through a tube."""
    turning_hz = rng.uniform(300, 600) * np.ones(num_samples)
    whine = reed(turning_hz, sample_rate_hz, (1.0, 0.6, 0.15, 0.5, 0.1, 0.2, 0.05, 0.12))
    air = noise(rng, num_samples, sample_rate_hz, 300.0, 2500.0)
    return whine + rng.uniform(0.3, 0.7) * air


def engine(rng: np.random.Generator, num_samples: int, sample_rate_hz: int) -> Waveform:
    """A car: a pulse each time a cylinder fires, through an exhaust pipe; the revs drift."""
    drift_octaves = rng.uniform(0.05, 0.6) * wander(rng, num_samples, sample_rate_hz, 0.8)
    firing_hz = rng.uniform(30, 90) * np.exp2(drift_octaves)
    # The cylinders differ, so half of the firing rate can be heard too.
    pulses = buzz(firing_hz, sample_rate_hz) + 0.5 * buzz(firing_hz / 2, sample_rate_hz)
    pipe_hz = rng.uniform(80, 140) * np.array([1.0, 2.6, 5.5, 9.0])
    exhaust = ring(
        pulses, sample_rate_hz, pipe_hz, (0.008, 0.004, 0.002, 0.001), (1.0, 0.7, 0.6, 0.4)
    )
    clatter = noise(rng, num_samples, sample_rate_hz, 400.0, 2500.0) * np.abs(pulses)
    return exhaust + 0.5 * clatter


def helicopter(rng: np.random.Generator, num_samples: int, sample_rate_hz: int) -> Waveform:
    """Blades that pass 9 to 18 times a second, each a thump of low noise; and a turbine."""
    turn = seconds(num_samples, sample_rate_hz) * rng.uniform(9, 18)
    thump = np.square(np.square((1 + np.cos(2 * np.pi * turn)) / 2))
    blades = noise(rng, num_samples, sample_rate_hz, 60.0, 500.0) * thump
    wash = noise(rng, num_samples, sample_rate_hz, 500.0, 2500.0) * (0.15 + thump)
    turbine = reed(np.full(num_samples, rng.uniform(900, 1600)), sample_rate_hz, (1.0, 0.3))
    return blades + 0.2 * wash + 0.05 * turbine
