"""Parents of the demo's classes, as an ontology, and labels that annotators miss, as many as asked.

In AudioSet's words: a clip that carries a parent but not the child that sounds in it (type I), or
a child but not its parent (type II).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sharding.sounds import SOUND_CLASSES, SoundClass


@dataclass(frozen=True)
class Family:
    """A class of classes."""

    name: str
    display_name: str
    members: tuple[str, ...]
    """Names of sound classes."""
    abstract_members: tuple[str, ...] = ()
    """Those that hang below an abstract node, as genres and moods do below Music in AudioSet."""

    @property
    def mid(self) -> str:
        return f"/s/{self.name}"

    @property
    def abstract_mid(self) -> str:
        return f"{self.mid}_kinds"


FAMILIES = (
    Family("speech", "Speech", ("male_speech", "female_speech", "child_speech")),
    Family("instrument", "Musical instrument", ("guitar", "piano")),
    Family("drum", "Drum kit", ("bass_drum", "hi_hat", "snare_drum")),
    Family("vehicle", "Vehicle", ("engine", "helicopter", "train_horn")),
    Family("animal", "Animal", ("dog", "cat"), abstract_members=("bird", "cricket", "bee")),
    Family("alarms", "Alarm", ("siren", "two_tone_siren", "alarm", "telephone")),
    Family("water", "Water", ("rain", "sea_waves", "water_drops")),
    Family("bells", "Bell", ("church_bell", "chime")),
)


def ontology() -> str:
    """All nodes in the form of AudioSet's ontology.json."""
    nodes = [_node(sound.mid, sound.display_name, ()) for sound in SOUND_CLASSES]
    for family in FAMILIES:
        child_ids = [f"/s/{name}" for name in family.members]
        if family.abstract_members:
            below = [f"/s/{name}" for name in family.abstract_members]
            kinds = f"{family.display_name}, kinds of"
            nodes.append(_node(family.abstract_mid, kinds, below, restrictions=["abstract"]))
            child_ids.append(family.abstract_mid)
        nodes.append(_node(family.mid, family.display_name, child_ids))
    return json.dumps(nodes, indent=1) + "\n"


def _node(
    mid: str, name: str, child_ids: Sequence[str], restrictions: Sequence[str] = ()
) -> dict[str, object]:
    ids, limits = list(child_ids), list(restrictions)
    return {"id": mid, "name": name, "child_ids": ids, "restrictions": limits}


def true_labels(sounds: Sequence[SoundClass]) -> list[str]:
    """Mids of the sounds, then of their families."""
    families = [family.mid for family in FAMILIES if _of_family(family, sounds)]
    return [sound.mid for sound in sounds] + families


def truth_line(clip_id: str, sounds: Sequence[SoundClass]) -> str:
    """All labels of a clip, in the form that eval.enhance compares with."""
    return json.dumps({"clip_id": clip_id, "labels": true_labels(sounds)})


def annotated_labels(
    rng: np.random.Generator, sounds: Sequence[SoundClass], *, no_parent: float, no_child: float
) -> list[str]:
    """The labels that are left when a family's own, or those of its members, are missed.

    Never both, so that a clip keeps a label, and each with the share asked for, over all clips.
    """
    missed: set[str] = set()
    for family, chance in zip(FAMILIES, rng.random(len(FAMILIES)), strict=True):
        members = _of_family(family, sounds)
        if chance < no_parent:
            missed.add(family.mid)
        elif chance < no_parent + no_child:
            missed.update(members)
    return [mid for mid in true_labels(sounds) if mid not in missed]


def _of_family(family: Family, sounds: Sequence[SoundClass]) -> list[str]:
    members = (*family.members, *family.abstract_members)
    return [sound.mid for sound in sounds if sound.name in members]
