"""What is random about a draw: it depends on the draw's place alone, and has its distribution."""

from dataclasses import fields, replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, kstest, uniform

from psla_wds.errors import ShardError
from psla_wds.sampling.augment import (
    AugmentConfig,
    Draws,
    augmented_draws,
    drawn_partners,
    first_sample,
    without_damaged,
)
from psla_wds.sampling.plan import EpochPlan

MANY = 40_000


def draws(config: AugmentConfig, start: int = 0, stop: int = MANY, seed: int = 0) -> Draws:
    plan = EpochPlan(np.arange(MANY), seed, epoch=3)
    return augmented_draws(plan, config, (start, stop), num_clips=1000, log_mel_shape=(1056, 128))


@given(st.lists(st.integers(0, 300), min_size=2, max_size=6))
def test_a_draw_does_not_depend_on_its_batch(cuts: list[int]):
    edges = sorted(cuts)
    config = AugmentConfig(gain_db=6.0, time_roll=0.5)
    whole = draws(config, edges[0], edges[-1])
    parts = [draws(config, a, b) for a, b in pairwise(edges)]
    for name in (field.name for field in fields(Draws)):
        together = np.concatenate([getattr(part, name) for part in parts])
        assert together.tolist() == getattr(whole, name).tolist()
    plan = EpochPlan(np.arange(MANY), 0, epoch=3)
    partners = drawn_partners(plan, config, (edges[0], edges[-1]), num_clips=1000)
    assert partners.tolist() == whole.partners.tolist()


def test_half_of_the_draws_are_mixed_and_lam_is_beta():
    mixed = draws(AugmentConfig())
    assert mixed.mixed.mean() == pytest.approx(0.5, abs=0.01)
    assert (mixed.lam[~mixed.mixed] == 1).all()
    assert kstest(mixed.lam[mixed.mixed], beta(10, 10).cdf).pvalue > 1e-3
    assert kstest(mixed.lam[mixed.mixed], beta(9, 9).cdf).pvalue < 1e-3


def test_partners_are_uniform_and_independent_of_the_draw():
    mixed = draws(AugmentConfig(mixup_rate=1.0))
    counts = np.bincount(mixed.partners, minlength=1000)
    assert counts.min() > 0 and counts.var() == pytest.approx(MANY / 1000, rel=0.2)
    assert abs(np.corrcoef(mixed.partners, mixed.rows)[0, 1]) < 0.02
    assert abs(np.corrcoef(mixed.partners, mixed.lam)[0, 1]) < 0.02


def test_masks_have_the_distribution_of_torchaudio():
    masks = draws(AugmentConfig()).masks
    rng = np.random.default_rng(1)
    for (start, width), max_width, length in ((masks.T[:2], 48, 128), (masks.T[2:], 192, 1056)):
        value = rng.random(MANY) * max_width
        min_value = rng.random(MANY) * (length - value)
        assert (start >= 0).all() and (start + width <= length).all()
        assert width.max() == max_width - 1
        for ours, theirs in ((width, value.astype(int)), (start, min_value.astype(int))):
            quantiles = np.linspace(0.02, 0.98, 25)
            difference = np.quantile(ours, quantiles) - np.quantile(theirs, quantiles)
            assert np.abs(difference).max() <= 0.02 * length


def test_gains_and_shifts_are_uniform_and_change_nothing_else():
    plain, shifted = draws(AugmentConfig()), draws(AugmentConfig(gain_db=6.0, time_roll=0.1))
    assert (plain.gains == 1).all() and (plain.rolls == 0).all()
    assert (plain.partners != draws(AugmentConfig(), seed=1).partners).mean() > 0.5
    for name in ("rows", "partners", "lam", "masks", "spare"):
        assert (getattr(plain, name) == getattr(shifted, name)).all()
    decibels = 20 * np.log10(shifted.gains.astype(float))
    shares = (shifted.rolls.astype(float) + 0.5) % 1 - 0.5
    numbers = [*(decibels / 6).T, *(shares / 0.1).T]
    for number in numbers:
        assert kstest(number, uniform(-1, 2).cdf).pvalue > 1e-3
    assert np.abs(np.corrcoef(numbers) - np.eye(4)).max() < 0.02


def test_places_are_uniform_and_change_nothing_else():
    config = AugmentConfig(gain_db=6.0, time_roll=0.1)
    cropped, start = draws(config), draws(replace(config, crop="start"))
    assert (start.crops == 0).all()
    for name in (field.name for field in fields(Draws) if field.name != "crops"):
        assert (getattr(cropped, name) == getattr(start, name)).all()
    for shares in cropped.crops.T:
        assert kstest(shares, uniform(0, 1).cdf).pvalue > 1e-3
    of_another_seed = draws(config, seed=1).crops
    # Two of a draw's places and four of its gains and shifts: one stream would show in every other.
    columns = (cropped.crops, cropped.crops[::2], cropped.gains, cropped.rolls, of_another_seed)
    numbers = [number for column in columns for number in column[: MANY // 2].T]
    assert np.abs(np.corrcoef(numbers) - np.eye(10)).max() < 0.03
    first = np.array([first_sample(share, 5) for share in cropped.crops[:, 0]])
    assert np.abs(np.bincount(first) / MANY - 0.2).max() < 0.01


@given(st.floats(0, 1, width=32), st.integers(1, 2**31 - 1))
def test_the_first_sample_is_one_of_the_places(share: float, num_places: int):
    found = [first_sample(np.float32(s), num_places) for s in (0, share, 1)]
    assert 0 == found[0] <= found[1] <= found[2] < num_places
    assert abs(found[1] - share * num_places) <= max(1, num_places * 2**-23)
    assert found[2] == num_places - 1 or num_places > 2**24


@given(st.sets(st.integers(0, 19), max_size=15), st.integers(0, 2**32))
def test_damaged_clips_are_replaced_and_others_stay(damaged: set[int], seed: int):
    plan = EpochPlan(np.arange(20), seed, epoch=1)
    before = augmented_draws(
        plan, AugmentConfig(), (0, 20), num_clips=20, log_mel_shape=(1056, 128)
    )
    after = without_damaged(before, frozenset(damaged), plan, num_clips=20)
    for old, new in ((before.rows, after.rows), (before.partners, after.partners)):
        assert not damaged & set(new.tolist())
        kept = ~np.isin(old, list(damaged))
        assert (old[kept] == new[kept]).all()
    assert (after.mixed == before.mixed).all()


def test_an_epoch_of_damaged_clips_alone_is_an_error():
    plan = EpochPlan(np.arange(3), 0, epoch=1)
    drawn = augmented_draws(plan, AugmentConfig(), (0, 3), num_clips=3, log_mel_shape=(1056, 128))
    with pytest.raises(ShardError, match="3 damaged clips of 3"):
        without_damaged(drawn, frozenset(range(3)), plan, num_clips=3)
