"""Mixup of waveforms in NumPy; `psla_wds.features.dali` computes the same on a GPU."""

import numpy as np
from jaxtyping import Float32

from psla_wds.sampling.augment import Draws, first_sample

Waveform = Float32[np.ndarray, " _"]  # `_`: lengths differ


def mixed(
    draws: Draws, draw: int, waveform: Waveform, partner: Waveform | None, longest: int | None
) -> Waveform:
    """The waveform of a draw: shifted, cropped, mixed, with the mean removed.

    A partner is cut or padded to the length of its clip, as in the official code.

    Args:
        partner: the clip to mix in; None if the draw is not mixed.
        longest: samples to which longer clips are cropped; None: they are not.
    """
    shares = np.stack([draws.rolls[draw], draws.crops[draw]], axis=1)
    clip_weight, partner_weight = draws.weights[draw]
    sum_ = clip_weight * _heard(waveform, shares[0], longest)
    if partner is not None:
        partner = _heard(partner, shares[1], longest)
        common = min(len(sum_), len(partner))
        sum_[:common] += partner_weight * (partner - partner.mean())[:common]
    return sum_ - sum_.mean()


def _heard(waveform: Waveform, shares: Float32[np.ndarray, "2"], longest: int | None) -> Waveform:
    """What a draw hears of a clip, by its roll and its crop."""
    start = first_sample(shares[0], len(waveform))
    rolled = np.roll(waveform, -start) if start else waveform
    kept = min(len(waveform), longest or len(waveform))
    first = first_sample(shares[1], len(waveform) - kept + 1)
    return rolled[first : first + kept]
