"""Mixup of waveforms in NumPy; `psla_wds.features.dali` computes the same on a GPU."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from psla_wds.sampling.augment import Draws, first_sample

Waveform = Float32[np.ndarray, " _"]  # `_`: lengths differ


@dataclass(frozen=True)
class Mix:
    """How the waveform of a draw is made of its clip and its partner."""

    has_partner: bool
    weights: Float32[np.ndarray, "2"]
    """Factors of the clip and of the partner."""
    places: Float32[np.ndarray, "2 2"]
    """Roll and crop of the clip, and of the partner (`Draws.rolls`, `Draws.crops`)."""


def mixes(draws: Draws) -> list[Mix]:
    """That of each draw."""
    places = np.stack([draws.rolls, draws.crops], axis=2)
    return list(map(Mix, draws.mixed.tolist(), draws.weights, places))


def mixed(mix: Mix, waveform: Waveform, partner: Waveform | None, longest: int | None) -> Waveform:
    """The waveform of a draw: shifted, cropped, mixed, with the mean removed.

    A partner is cut or padded to the length of its clip, as in the official code.

    Args:
        partner: the clip to mix in; None if the draw has no partner.
        longest: samples to which longer clips are cropped; None: they are not.
    """
    total = mix.weights[0] * _heard(waveform, mix.places[0], longest)
    if partner is not None:
        partner = _heard(partner, mix.places[1], longest)
        common = min(len(total), len(partner))
        total[:common] += mix.weights[1] * (partner - partner.mean())[:common]
    return total - total.mean()


def _heard(waveform: Waveform, place: Float32[np.ndarray, "2"], longest: int | None) -> Waveform:
    """What a draw hears of a clip, by its roll and its crop."""
    start = first_sample(place[0], len(waveform))
    rolled = np.roll(waveform, -start) if start else waveform
    kept = min(len(waveform), longest or len(waveform))
    first = first_sample(place[1], len(waveform) - kept + 1)
    return rolled[first : first + kept]
