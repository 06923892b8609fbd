"""The random part of each draw: mixup partner, mixing weight, two masks, gains, shifts, places.

Each draw takes its uniform numbers from fixed places in counter-based streams, so that its
augmentation depends on (seed, epoch, position) alone.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, Int64, UInt64

from psla_wds.errors import ShardError
from psla_wds.sampling.config import AugmentConfig
from psla_wds.sampling.plan import (
    PURPOSE_AUGMENT,
    PURPOSE_CROP,
    PURPOSE_WAVEFORM,
    EpochPlan,
    raw_bits,
    to_uniform,
)
from psla_wds.shards.index import ShardIndex
from psla_wds.shards.soft_labels import SoftLabels

NUMBERS_PER_DRAW = 8
"""Seven for the augmentation, one for replacing a damaged clip; two counters of Philox."""
WAVEFORM_NUMBERS = 4
"""Gain and shift of a draw and of its partner. They have their own stream, so that a run without
them gets the same `PURPOSE_AUGMENT` numbers as a run with them."""
CROP_NUMBERS = 2
"""Places in a clip and in its partner, for the same reason from a stream of their own."""
Change = Literal["rolls", "crops"]
"""A column of the draws that changes waveforms before they are mixed; those come in this order."""
NO_PARTNER = -1
MAX_REPLACEMENTS = 1000


@dataclass(frozen=True)
class Draws:
    """Draws of an epoch with everything that is random about them."""

    rows: Int64[np.ndarray, " draws"]
    partners: Int64[np.ndarray, " draws"]
    """Row that is mixed in; -1 if the draw is not mixed."""
    lam: Float32[np.ndarray, " draws"]
    """Share of the first clip in waveform and target; 1 if the draw is not mixed."""
    masks: Int32[np.ndarray, "draws 4"]
    """First masked mel, number of masked mels, first masked frame, number of masked frames."""
    gains: Float32[np.ndarray, "draws 2"]
    """Factors of the waveforms of the clip and of its partner."""
    rolls: Float32[np.ndarray, "draws 2"]
    """Start of the clip and of its partner as shares of their lengths, below 1; the samples before
    the start come last."""
    crops: Float32[np.ndarray, "draws 2"]
    """Places, from 0 to 1, of the part that the model hears of the clip and of its partner, if they
    are longer than its window: `first_sample` has the sample. They are cut after the roll."""
    spare: UInt64[np.ndarray, " draws"]
    """Random bits that choose another clip if this one is damaged."""

    @property
    def mixed(self) -> Bool[np.ndarray, " draws"]:
        """True where a draw has a partner."""
        return self.partners != NO_PARTNER

    @property
    def clips(self) -> Int64[np.ndarray, " clips"]:
        """Rows whose audio the draws need: first their own, then those of the partners."""
        return np.concatenate([self.rows, self.partners[self.mixed]])

    @property
    def weights(self) -> Float32[np.ndarray, "draws 2"]:
        """Factors of the clip and its partner in the mix: their shares times their gains."""
        return np.stack([self.lam, 1 - self.lam], axis=1) * self.gains

    def mix(
        self,
        targets: Float32[np.ndarray, "draws classes"],
        of_partners: Float32[np.ndarray, "mixed classes"],
    ) -> Float32[np.ndarray, "draws classes"]:
        """lam times a clip's targets plus (1 - lam) times its partner's; 1 for a class of both.

        Args:
            targets: targets of the clips; overwritten with the result.
            of_partners: targets of the partners, for mixed draws only.
        """
        mixed, lam = self.mixed, self.lam[self.mixed, None]
        targets[mixed] = lam * targets[mixed] + (1 - lam) * of_partners
        return targets


def first_sample(share: np.float32, num_places: int) -> int:
    """The first sample of the part at `share` of a clip, where there are `num_places` to begin at:
    one more than the clip has samples beyond the part.

    The product is rounded to float32, as the graph computes it, and to the integer below. A share
    of 1 is the last place, up to 2^24 of them.
    """
    return min(int(np.float32(share) * np.float32(num_places)), num_places - 1)


def mixed_targets(
    labels: ShardIndex | SoftLabels, draws: Draws
) -> Float32[np.ndarray, "draws classes"]:
    """Training targets of the draws: labels or a teacher's scores, mixed as the waveforms are."""
    return draws.mix(labels.targets(draws.rows), labels.targets(draws.partners[draws.mixed]))


def plain_draws(rows: Int64[np.ndarray, " draws"]) -> Draws:
    """Draws of the first part of each clip, neither mixed nor masked, for evaluation."""
    count = len(rows)
    return Draws(
        rows,
        np.full(count, NO_PARTNER, np.int64),
        np.ones(count, np.float32),
        np.zeros((count, 4), np.int32),
        np.ones((count, 2), np.float32),
        np.zeros((count, 2), np.float32),
        np.zeros((count, 2), np.float32),
        np.zeros(count, np.uint64),
    )


def augmented_draws(
    plan: EpochPlan,
    config: AugmentConfig,
    positions: tuple[int, int],
    *,
    num_clips: int,
    log_mel_shape: tuple[int, int],
) -> Draws:
    """The draws at positions [start, stop) of the plan.

    Partners are uniform over all clips, never drawn by weight (the official code, and PSLA
    III-B), and never taken from the batch.

    Args:
        log_mel_shape: frames and mels that the masks are placed on.
    """
    start, stop = positions
    bits = _numbers(plan, start, stop)
    uniform = to_uniform(bits)
    partners = _partners(uniform, config, num_clips)
    from scipy.special import betaincinv  # takes 0.4 s, which --help can do without

    lam = betaincinv(config.mixup_alpha, config.mixup_alpha, uniform[:, 2])
    num_frames, num_mels = log_mel_shape
    freq = _mask(uniform[:, 3:5], config.freq_mask, num_mels)
    time = _mask(uniform[:, 5:7], config.time_mask, num_frames)
    return Draws(
        plan.rows[start:stop],
        partners,
        np.where(partners == NO_PARTNER, 1.0, lam).astype(np.float32),
        np.concatenate([freq, time], axis=1),
        *_gains_and_rolls(plan, config, start, stop - start),
        _crops(plan, config, start, stop - start),
        bits[:, 7],
    )


def drawn_partners(
    plan: EpochPlan, config: AugmentConfig, positions: tuple[int, int], *, num_clips: int
) -> Int64[np.ndarray, " draws"]:
    """Only the partners that `augmented_draws` gives at positions [start, stop), in a fifth of its
    time: for counts over whole epochs."""
    return _partners(to_uniform(_numbers(plan, *positions)), config, num_clips)


def _numbers(plan: EpochPlan, start: int, stop: int) -> UInt64[np.ndarray, "draws 8"]:
    """Random bits of the draws at positions [start, stop)."""
    words = start * NUMBERS_PER_DRAW, (stop - start) * NUMBERS_PER_DRAW
    bits = raw_bits(plan.seed, plan.epoch, PURPOSE_AUGMENT, *words)
    return bits.reshape(stop - start, NUMBERS_PER_DRAW)


def _partners(
    uniform: Float64[np.ndarray, "draws 8"], config: AugmentConfig, num_clips: int
) -> Int64[np.ndarray, " draws"]:
    partners = (uniform[:, 1] * num_clips).astype(np.int64)
    return np.where(uniform[:, 0] < config.mixup_rate, partners, NO_PARTNER)


def _gains_and_rolls(
    plan: EpochPlan, config: AugmentConfig, start: int, count: int
) -> tuple[Float32[np.ndarray, "draws 2"], Float32[np.ndarray, "draws 2"]]:
    if not (config.gain_db or config.time_roll):
        return np.ones((count, 2), np.float32), np.zeros((count, 2), np.float32)
    words = (start * WAVEFORM_NUMBERS, count * WAVEFORM_NUMBERS)
    uniform = to_uniform(raw_bits(plan.seed, plan.epoch, PURPOSE_WAVEFORM, *words))
    gain_db, roll = (2 * uniform.reshape(count, 2, 2) - 1).transpose(1, 0, 2)  # from -1 to 1
    gains = 10 ** (config.gain_db * gain_db / 20)
    return gains.astype(np.float32), (config.time_roll * roll % 1.0).astype(np.float32)


def _crops(
    plan: EpochPlan, config: AugmentConfig, start: int, count: int
) -> Float32[np.ndarray, "draws 2"]:
    if config.crop == "start":
        return np.zeros((count, 2), np.float32)
    words = (start * CROP_NUMBERS, count * CROP_NUMBERS)
    uniform = to_uniform(raw_bits(plan.seed, plan.epoch, PURPOSE_CROP, *words))
    return uniform.reshape(count, CROP_NUMBERS).astype(np.float32)


def without_damaged(
    draws: Draws, damaged: frozenset[int], plan: EpochPlan, *, num_clips: int
) -> Draws:
    """Replace damaged clips: a draw by another draw of the plan, so that classes keep their shares;
    a partner by any clip.

    The replacement depends on the draw's random bits and on which of the clips tried are damaged,
    not on when the damage was found.
    """
    listed = np.fromiter(damaged, np.int64, len(damaged))
    rows, partners = draws.rows.copy(), draws.partners.copy()
    for attempt in range(MAX_REPLACEMENTS):
        bad_rows, bad_partners = np.isin(rows, listed), np.isin(partners, listed)
        if not (bad_rows.any() or bad_partners.any()):
            return replace(draws, rows=rows, partners=partners)
        again = _scrambled(draws.spare + np.uint64(attempt))
        rows[bad_rows] = plan.rows[again[bad_rows] % np.uint64(len(plan.rows))]
        partners[bad_partners] = again[bad_partners] % np.uint64(num_clips)
    raise ShardError(
        f"{MAX_REPLACEMENTS} clips tried in place of a damaged one were damaged too",
        where=f"{len(damaged)} damaged clips of {num_clips}",
        fix="find the damage with: psla-wds check SHARDS --deep",
    )


def _scrambled(bits: UInt64[np.ndarray, " draws"]) -> UInt64[np.ndarray, " draws"]:
    """Splitmix64's finaliser (Steele et al., 2014): neighbours become unlike."""
    bits = bits * np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def _mask(
    uniform: Float64[np.ndarray, "draws 2"], max_width: int, length: int
) -> Int32[np.ndarray, "draws 2"]:
    """First position and width. As in torchaudio's `mask_along_axis`, the real-valued width places
    the mask, and both are then truncated to integers."""
    width = uniform[:, 0] * min(max_width, length)
    start = uniform[:, 1] * (length - width)
    return np.stack([start, width], axis=1).astype(np.int32)
