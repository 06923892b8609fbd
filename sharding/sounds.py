"""The classes of the demo corpus: what they are called, how often they occur, who makes them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from sharding import noises, struck, tones, voices
from sharding.waveforms import Waveform

Generator = Callable[[np.random.Generator, int, int], Waveform]
"""(rng, num_samples, sample_rate_hz) to a sound of that length, of any loudness, never silent."""


@dataclass(frozen=True)
class SoundClass:
    """A kind of sound; its position in `SOUND_CLASSES` is its index in the class list."""

    name: str
    display_name: str
    frequency: float
    """How often it is drawn, relative to the others."""
    generate: Generator

    @property
    def mid(self) -> str:
        return f"/s/{self.name}"


# Few classes are frequent and most are rare, as in AudioSet, where speech alone is in half of
# the clips. The names are AudioSet's where it has the class.
SOUND_CLASSES = (
    SoundClass("male_speech", "Male speech, man speaking", 300.0, voices.male_speech),
    SoundClass("female_speech", "Female speech, woman speaking", 220.0, voices.female_speech),
    SoundClass("guitar", "Guitar, plucked string instrument", 165.0, struck.plucked_string),
    SoundClass("piano", "Piano", 135.0, struck.piano),
    SoundClass("engine", "Engine", 110.0, noises.engine),
    SoundClass("bass_drum", "Bass drum", 90.0, struck.bass_drum),
    SoundClass("wind", "Wind", 75.0, noises.wind),
    SoundClass("bird", "Bird vocalization, bird call, bird song", 65.0, voices.bird_song),
    SoundClass("siren", "Siren", 55.0, tones.siren_wail),
    SoundClass("rain", "Rain", 48.0, noises.rain),
    SoundClass("child_speech", "Child speech, kid speaking", 42.0, voices.child_speech),
    SoundClass("hi_hat", "Hi-hat", 37.0, struck.hi_hat),
    SoundClass("applause", "Applause", 33.0, noises.applause),
    SoundClass("snare_drum", "Snare drum", 29.0, struck.snare_drum),
    SoundClass("footsteps", "Walk, footsteps", 26.0, struck.footsteps),
    SoundClass("church_bell", "Church bell", 23.0, struck.church_bell),
    SoundClass("dog", "Bark", 20.0, voices.dog_bark),
    SoundClass("sea_waves", "Waves, surf", 18.0, noises.sea_waves),
    SoundClass("telephone", "Telephone bell ringing", 16.0, tones.telephone_ring),
    SoundClass("whistling", "Whistling", 14.0, tones.whistling),
    SoundClass("vacuum_cleaner", "Vacuum cleaner", 12.0, noises.vacuum_cleaner),
    SoundClass("cat", "Meow", 10.0, voices.cat_meow),
    SoundClass("cricket", "Cricket", 9.0, voices.cricket),
    SoundClass("thunder", "Thunder", 8.0, noises.thunder),
    SoundClass("knock", "Knock", 7.0, struck.knock),
    SoundClass("helicopter", "Helicopter", 6.0, noises.helicopter),
    SoundClass("alarm", "Beep, bleep", 5.0, tones.alarm_beeps),
    SoundClass("clock", "Tick-tock", 4.0, struck.clock_tick),
    SoundClass("glass", "Shatter", 3.5, struck.glass_breaking),
    SoundClass("two_tone_siren", "Ambulance (siren)", 3.0, tones.siren_two_tone),
    SoundClass("dialing", "Telephone dialing, DTMF", 2.5, tones.telephone_dialing),
    SoundClass("water_drops", "Drip", 2.0, struck.water_drops),
    SoundClass("train_horn", "Train horn", 1.7, tones.train_horn),
    SoundClass("chime", "Wind chime", 1.4, struck.wind_chime),
    SoundClass("laser", "Laser, ray gun", 1.2, tones.laser),
    SoundClass("bee", "Bee, wasp, etc.", 1.0, voices.bee),
    SoundClass("white_noise", "White noise", 0.8, noises.white_noise),
)


def class_probabilities() -> Float64[np.ndarray, " classes"]:
    """How likely each class is to be drawn; they sum to 1."""
    frequencies = np.array([sound.frequency for sound in SOUND_CLASSES], np.float64)
    return frequencies / frequencies.sum()
