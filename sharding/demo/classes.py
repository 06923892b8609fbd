"""Classes of the demo corpus, their families, and annotators who miss labels."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from psla_wds.labels.class_list import ClassList
from sharding.demo.sounds import Event, Waveform, noise, pulses, struck, sweeps, tones


@dataclass(frozen=True)
class SoundClass:
    """A kind of sound; its position in `SOUND_CLASSES` is its index in the class list."""

    mid: str
    name: str
    """AudioSet's name of the class."""
    frequency: float
    """How often it is drawn, relative to the others."""
    generate: Callable[[Event], Waveform]
    """Fills an event with a sound of any loudness that is never silent."""


# fmt: off
SOUND_CLASSES = (  # few are frequent and most are rare, as in AudioSet
    SoundClass("/s/piano", "Piano", 300.0, partial(
        struck, pitch_hz=(110, 440), ratios=(1, 2, 3, 4, 5), per_s=(2, 5), lasting_s=(0.3, 0.7),
        notes=(0, 2, 4, 5, 7, 9, 11, 12))),
    SoundClass("/s/engine", "Engine", 200.0, partial(
        tones, pitch_hz=(30, 80), harmonics=tuple(1 / k for k in range(1, 31)))),
    SoundClass("/s/rain", "Rain", 130.0, partial(noise, band_hz=(1500, 6500))),
    SoundClass("/s/bird", "Bird vocalization, bird call, bird song", 90.0, partial(
        sweeps, low_hz=(1800, 3500), octaves=(0.4, 1), per_s=(4, 9), harmonics=(1, 0.1))),
    SoundClass("/s/bass_drum", "Bass drum", 60.0, partial(
        struck, pitch_hz=(45, 75), ratios=(1, 1.59), per_s=(1.5, 3), lasting_s=(0.08, 0.16))),
    SoundClass("/s/siren", "Siren", 40.0, partial(
        sweeps, low_hz=(500, 750), octaves=(0.9, 1.3), per_s=(0.4, 1.2), harmonics=(1, 0.4, 0.2))),
    SoundClass("/s/wind", "Wind", 28.0, partial(noise, band_hz=(80, 350))),
    SoundClass("/s/hi_hat", "Hi-hat", 19.0, partial(
        pulses, band_hz=(6000, 7500), per_s=(3, 8), lasting_s=(0.01, 0.04))),
    SoundClass("/s/cricket", "Cricket", 13.0, partial(
        pulses, band_hz=(4200, 4500), per_s=(12, 30), lasting_s=(0.01, 0.02))),
    SoundClass("/s/applause", "Applause", 9.0, partial(
        pulses, band_hz=(900, 2800), per_s=(30, 100), lasting_s=(0.005, 0.01), jitter=1.0)),
    SoundClass("/s/church_bell", "Church bell", 6.0, partial(
        struck, pitch_hz=(220, 480), ratios=(1, 2, 2.4, 3, 4, 5), per_s=(0.5, 1),
        lasting_s=(2, 4))),
    SoundClass("/s/train_horn", "Train horn", 4.0, partial(
        tones, pitch_hz=(270, 400), harmonics=(1, 0.8, 0.6, 0.5, 0.3, 0.2))),
    SoundClass("/s/helicopter", "Helicopter", 3.0, partial(
        pulses, band_hz=(100, 900), per_s=(9, 18), lasting_s=(0.02, 0.04))),
)
# fmt: on


@dataclass(frozen=True)
class Family:
    """A class of classes."""

    mid: str
    name: str
    members: tuple[str, ...]
    """Mids of sound classes."""


FAMILIES = (
    Family("/s/instrument", "Musical instrument", ("/s/piano", "/s/bass_drum", "/s/hi_hat")),
    Family("/s/vehicle", "Vehicle", ("/s/engine", "/s/train_horn", "/s/helicopter")),
    Family("/s/animal", "Animal", ("/s/bird", "/s/cricket")),
)


def class_list(*, families: bool) -> ClassList:
    """The sounds, then with `families` those too."""
    classes = (*SOUND_CLASSES, *(FAMILIES if families else ()))
    return ClassList(tuple(c.mid for c in classes), tuple(c.name for c in classes))


def ontology() -> str:
    """All classes in the form of AudioSet's ontology.json."""
    children = {family.mid: family.members for family in FAMILIES}
    classes = class_list(families=True)
    nodes = [
        {"id": mid, "name": name, "child_ids": children.get(mid, ()), "restrictions": []}
        for mid, name in zip(classes.mids, classes.names, strict=True)
    ]
    return json.dumps(nodes, indent=1) + "\n"


def true_labels(sounds: Sequence[SoundClass]) -> list[str]:
    """Mids of the sounds, then of their families."""
    mids = [sound.mid for sound in sounds]
    return mids + [family.mid for family in FAMILIES if not set(family.members).isdisjoint(mids)]


def annotated_labels(
    rng: np.random.Generator, labels: Sequence[str], missing: tuple[float, float]
) -> list[str]:
    """The labels left by annotators who miss families (type II) or members (type I).

    `missing` has the shares of both over all clips. No one misses both in a clip, so it keeps a
    label.
    """
    missed: set[str] = set()
    for family, chance in zip(FAMILIES, rng.random(len(FAMILIES)), strict=True):
        if chance < missing[0]:
            missed.add(family.mid)
        elif chance < sum(missing):
            missed.update(family.members)
    return [mid for mid in labels if mid not in missed]
