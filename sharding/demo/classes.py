"""Classes of the demo corpus, their families, and annotators who miss labels.

In AudioSet's words: a clip that carries a parent but not the child that sounds in it (type I), or
a child but not its parent (type II).
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from psla_wds.labels.class_list import ClassList
from sharding.demo.sounds import Waveform, noise, pulses, struck, sweeps, tones

Generator = Callable[[np.random.Generator, int, int], Waveform]
"""(rng, num_samples, rate_hz) to a sound of that length."""

HORN = (1.0, 0.8, 0.6, 0.5, 0.3, 0.2)
CYLINDERS = tuple(1 / k for k in range(1, 31))
CHURCH_BELL = (1.0, 2.0, 2.4, 3.0, 4.0, 5.0)  # hum, prime, tierce, quint, nominal: Rossing 2000
STRING = (1.0, 2.0, 3.0, 4.0, 5.0)
SKIN = (1.0, 1.59)
MAJOR_SCALE = (0, 2, 4, 5, 7, 9, 11, 12)


@dataclass(frozen=True)
class SoundClass:
    """A kind of sound; its position in `SOUND_CLASSES` is its index in the class list."""

    name: str
    display_name: str
    """AudioSet's name of the class."""
    frequency: float
    """How often it is drawn, relative to the others."""
    generate: Generator

    @property
    def mid(self) -> str:
        return f"/s/{self.name}"


# fmt: off
SOUND_CLASSES = (  # few are frequent and most are rare, as in AudioSet
    SoundClass("piano", "Piano", 300.0, partial(
        struck, pitch_hz=(110, 440), ratios=STRING, per_s=(2, 5), lasting_s=(0.3, 0.7),
        notes=MAJOR_SCALE)),
    SoundClass("engine", "Engine", 200.0, partial(
        tones, pitch_hz=(30, 80), harmonics=CYLINDERS, drift_octaves=0.4)),
    SoundClass("rain", "Rain", 130.0, partial(noise, band_hz=(1500, 6500))),
    SoundClass("bird", "Bird vocalization, bird call, bird song", 90.0, partial(
        sweeps, low_hz=(1800, 3500), octaves=(0.4, 1.0), per_s=(4, 9), returning=False)),
    SoundClass("bass_drum", "Bass drum", 60.0, partial(
        struck, pitch_hz=(45, 75), ratios=SKIN, per_s=(1.5, 3), lasting_s=(0.08, 0.16))),
    SoundClass("siren", "Siren", 40.0, partial(
        sweeps, low_hz=(500, 750), octaves=(0.9, 1.3), per_s=(0.4, 1.2), returning=True)),
    SoundClass("wind", "Wind", 28.0, partial(noise, band_hz=(80, 350), gusts_per_s=1.5)),
    SoundClass("hi_hat", "Hi-hat", 19.0, partial(
        pulses, band_hz=(6000, 7500), per_s=(3, 8), lasting_s=(0.01, 0.04))),
    SoundClass("cricket", "Cricket", 13.0, partial(
        pulses, band_hz=(4200, 4500), per_s=(12, 30), lasting_s=(0.01, 0.02))),
    SoundClass("applause", "Applause", 9.0, partial(
        pulses, band_hz=(900, 2800), per_s=(30, 100), lasting_s=(0.005, 0.01), regular=False)),
    SoundClass("church_bell", "Church bell", 6.0, partial(
        struck, pitch_hz=(220, 480), ratios=CHURCH_BELL, per_s=(0.5, 1), lasting_s=(2, 4))),
    SoundClass("train_horn", "Train horn", 4.0, partial(
        tones, pitch_hz=(270, 400), harmonics=HORN)),
    SoundClass("helicopter", "Helicopter", 3.0, partial(
        pulses, band_hz=(100, 900), per_s=(9, 18), lasting_s=(0.02, 0.04))),
    SoundClass("alarm", "Beep, bleep", 2.0, partial(
        tones, pitch_hz=(1900, 3200), harmonics=(1.0, 0.1, 0.2), gate_s=(0.06, 0.3))),
)
# fmt: on


@dataclass(frozen=True)
class Family:
    """A class of classes."""

    name: str
    display_name: str
    members: tuple[str, ...]
    """Names of sound classes."""
    abstract_members: tuple[str, ...] = ()
    """Members below an abstract node, where AudioSet has the genres and moods of Music."""

    @property
    def mid(self) -> str:
        return f"/s/{self.name}"

    @property
    def member_mids(self) -> list[str]:
        return [f"/s/{name}" for name in (*self.members, *self.abstract_members)]


FAMILIES = (
    Family("instrument", "Musical instrument", ("piano", "bass_drum", "hi_hat")),
    Family("vehicle", "Vehicle", ("engine", "train_horn", "helicopter")),
    Family("animal", "Animal", ("bird",), abstract_members=("cricket",)),
)


def class_list(*, families: bool) -> ClassList:
    """The sounds, then with `families` those too."""
    classes = (*SOUND_CLASSES, *(FAMILIES if families else ()))
    return ClassList(tuple(c.mid for c in classes), tuple(c.display_name for c in classes))


def ontology() -> str:
    """All nodes in the form of AudioSet's ontology.json."""
    nodes = [_node(sound.mid, sound.display_name, []) for sound in SOUND_CLASSES]
    for family in FAMILIES:
        children = [f"/s/{name}" for name in family.members]
        if family.abstract_members:
            kinds = f"{family.mid}_kinds"
            below = [f"/s/{name}" for name in family.abstract_members]
            nodes.append(_node(kinds, f"{family.display_name}, kinds", below, "abstract"))
            children.append(kinds)
        nodes.append(_node(family.mid, family.display_name, children))
    return json.dumps(nodes, indent=1) + "\n"


def _node(mid: str, name: str, children: list[str], *restrictions: str) -> dict[str, object]:
    return {"id": mid, "name": name, "child_ids": children, "restrictions": list(restrictions)}


def true_labels(sounds: Sequence[SoundClass], *, families: bool) -> list[str]:
    """Mids of the sounds, then with `families` of theirs."""
    mids = [sound.mid for sound in sounds]
    parents = [family.mid for family in FAMILIES if set(family.member_mids) & set(mids)]
    return mids + parents if families else mids


def annotated_labels(
    rng: np.random.Generator, labels: Sequence[str], *, no_parent: float, no_child: float
) -> list[str]:
    """The labels that are left where annotators miss a family, or its members.

    They never miss both, so a clip keeps a label; over all clips the shares are as given.
    """
    missed: set[str] = set()
    for family, chance in zip(FAMILIES, rng.random(len(FAMILIES)), strict=True):
        if chance < no_parent:
            missed.add(family.mid)
        elif chance < no_parent + no_child:
            missed.update(family.member_mids)
    return [mid for mid in labels if mid not in missed]
