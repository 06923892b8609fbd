"""What is drawn over many epochs of AudioSet's real labels, against closed forms.

Needs the folder PSLA_AUDIOSET_META with AudioSet's segments, classes and counts of clips.
"""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from label_index import audioset_counts, audioset_index, index_by_counts
from scipy.stats import chi2, chi2_contingency, chisquare

from psla_wds.sampling.augment import AugmentConfig, augmented_draws
from psla_wds.sampling.plan import (
    PURPOSE_DRAWS,
    EpochPlan,
    SamplerConfig,
    Sampling,
    draw_rows,
    plan_epoch,
    raw_bits,
    to_uniform,
)
from psla_wds.shards.index import ShardIndex

EPOCHS = range(1, 31)
BATCH_SIZE = 100


@pytest.fixture(scope="module")
def meta() -> Path:
    folder = os.environ.get("PSLA_AUDIOSET_META")
    if not folder:
        pytest.skip("PSLA_AUDIOSET_META names no folder of AudioSet's metadata")
    return Path(folder)


@pytest.fixture(scope="module")
def index(meta: Path) -> ShardIndex:
    """107,289 real rows."""
    return audioset_index(meta)


@pytest.fixture(scope="module")
def full_counts(meta: Path) -> np.ndarray:
    """Clips of each class in the full AudioSet."""
    return audioset_counts(meta)


def shares(index: ShardIndex, counts: np.ndarray) -> np.ndarray:
    """The share of draws of each clip, by PSLA's algorithm 1 written out."""
    per_label = 1 / counts[index.label_values]
    weights = np.add.reduceat(per_label, index.label_starts[:-1])
    return weights / weights.sum()


def plan_by(weights: np.ndarray, epoch: int) -> EpochPlan:
    """The balanced epoch that these weights give, as many draws as clips."""
    uniform = to_uniform(raw_bits(0, epoch, PURPOSE_DRAWS, 0, len(weights)))
    return EpochPlan(draw_rows(weights, uniform), 0, epoch)


def counts_of(plans: list[EpochPlan], num_clips: int) -> np.ndarray:
    return sum(np.bincount(plan.rows, minlength=num_clips) for plan in plans)


def plans_of(index: ShardIndex, sampling: Sampling = "balanced") -> list[EpochPlan]:
    config = SamplerConfig(sampling=sampling)
    return [plan_epoch(index, config, seed=0, epoch=epoch) for epoch in EPOCHS]


def fit_by_weight(counts: np.ndarray, share: np.ndarray) -> float:
    """p-value of the counts of 400 groups of clips of like weight, each 1/400 of the draws."""
    order = np.argsort(share)
    groups = np.minimum((np.cumsum(share[order]) * 400).astype(int), 399)
    expected = np.bincount(groups, share[order]) * counts.sum()
    observed = np.bincount(groups, counts[order])
    assert (expected > 1000).all()
    return chisquare(observed, expected).pvalue


def test_clips_are_drawn_as_often_as_their_weights_say(index: ShardIndex):
    counts = counts_of(plans_of(index), len(index))
    assert fit_by_weight(counts, shares(index, index.class_counts())) > 1e-3


def rarest_class_alone(index: ShardIndex) -> np.ndarray:
    per_label = 1 / index.class_counts()[index.label_values]
    return np.maximum.reduceat(per_label, index.label_starts[:-1])


def a_little_flatter(index: ShardIndex) -> np.ndarray:
    return shares(index, index.class_counts()) ** 0.98


def three_percent_more_of_rare_clips(index: ShardIndex) -> np.ndarray:
    share = shares(index, index.class_counts())
    return share * np.where(share > 1e-4, 1.03, 1)


@pytest.mark.parametrize(
    "wrong", [rarest_class_alone, a_little_flatter, three_percent_more_of_rare_clips]
)
def test_other_weights_would_be_noticed(index: ShardIndex, wrong: Callable):
    counts = counts_of([plan_by(wrong(index), epoch) for epoch in EPOCHS], len(index))
    assert fit_by_weight(counts, shares(index, index.class_counts())) < 1e-9


@pytest.mark.parametrize(
    ("sampling", "bounds"), [("balanced", (1e-3, 1 - 1e-3)), ("systematic", (0, 1e-9))]
)
def test_balanced_counts_vary_as_independent_draws_do_and_systematic_ones_less(
    index: ShardIndex, sampling: Sampling, bounds: tuple[float, float]
):
    expected = shares(index, index.class_counts()) * len(index) * len(EPOCHS)
    often = expected >= 5
    counts = counts_of(plans_of(index, sampling), len(index))
    statistic = ((counts - expected) ** 2 / expected)[often].sum()
    assert often.sum() > 40_000
    assert bounds[0] <= chi2(often.sum()).cdf(statistic) <= bounds[1]


def mixed(plan: EpochPlan, num_clips: int, rate: float) -> np.ndarray:
    """The partners of an epoch's draws, -1 for none."""
    config = AugmentConfig(mixup_rate=rate, mixup_alpha=1.0)
    positions = (0, len(plan.rows))
    return augmented_draws(
        plan, config, positions, num_clips=num_clips, log_mel_shape=(1056, 128)
    ).partners


def fit_of_partners(partners: np.ndarray, rows: np.ndarray, share: np.ndarray) -> list[float]:
    """p-values: partners are uniform over clips by weight, independent of their draws, and
    uniform over clips by row."""
    tenth = np.empty(len(share), np.int64)
    tenth[np.argsort(share)] = np.arange(len(share)) * 10 // len(share)
    table = np.histogram2d(tenth[rows], tenth[partners], bins=np.arange(11))[0]
    observed = np.bincount(tenth[partners], minlength=10)
    uniform = chisquare(observed, np.bincount(tenth) / len(share) * len(partners))
    hundredth = np.arange(len(share)) * 100 // len(share)
    everywhere = chisquare(
        np.bincount(hundredth[partners], minlength=100),
        np.bincount(hundredth) / len(share) * len(partners),
    )
    independent = chi2_contingency(table[table.sum(axis=1) > 0])
    return [uniform.pvalue, independent.pvalue, everywhere.pvalue]


def test_partners_are_uniform_over_the_set_and_independent_of_the_draw(index: ShardIndex):
    share = shares(index, index.class_counts())
    rows, partners = zip(
        *((plan.rows, mixed(plan, len(index), 1.0)) for plan in plans_of(index)[:5]), strict=True
    )
    rows, partners = np.concatenate(rows), np.concatenate(partners)
    assert min(fit_of_partners(partners, rows, share)) > 1e-3
    by_weight, from_batch = plan_by(share, 99).rows, np.roll(rows, 1)
    assert fit_of_partners(by_weight, rows[: len(by_weight)], share)[0] < 1e-9
    assert fit_of_partners(from_batch, rows, share)[0] < 1e-9
    not_the_last = (partners * 0.99).astype(np.int64)
    assert fit_of_partners(not_the_last, rows, share)[2] < 1e-9
    now_and_then_itself = np.where(np.arange(len(rows)) % 50, partners, rows)
    assert fit_of_partners(now_and_then_itself, rows, share)[1] < 1e-9


def test_clips_never_drawn_in_30_epochs_are_as_many_as_in_the_paper(
    index: ShardIndex, full_counts: np.ndarray
):
    # Figure 6: 40.9 % of all of AudioSet; these rows with its counts give 41.8 %.
    share, num_clips = shares(index, full_counts), len(index)
    closed_form = np.mean((1 - share) ** (30 * num_clips))
    assert closed_form == pytest.approx(0.418, abs=5e-4)
    counts = counts_of([plan_by(share, epoch) for epoch in EPOCHS], num_clips)
    assert np.mean(counts == 0) == pytest.approx(closed_form, abs=0.003)


def test_with_partners_hardly_a_clip_is_unseen_after_5_epochs_as_in_the_paper(
    index: ShardIndex, full_counts: np.ndarray
):
    # Figure 6: 5 % at mixup rate 0.5.
    share, num_clips = shares(index, full_counts), len(index)
    closed_form = np.mean(((1 - share) * (1 - 0.5 / num_clips)) ** (5 * num_clips))
    assert closed_form == pytest.approx(0.044, abs=5e-4)
    unseen = np.ones(num_clips, bool)
    for plan in (plan_by(share, epoch) for epoch in range(1, 6)):
        partners = mixed(plan, num_clips, 0.5)
        unseen[plan.rows] = False
        unseen[partners[partners >= 0]] = False
    assert unseen.mean() == pytest.approx(closed_form, abs=0.003)


def equal_pairs(plan: EpochPlan) -> int:
    """Pairs of draws of one clip within a batch, over all batches."""
    whole = len(plan.rows) // BATCH_SIZE * BATCH_SIZE
    batches = np.sort(plan.rows[:whole].reshape(-1, BATCH_SIZE), axis=1)
    by_distance = (
        int((batches[:, distance:] == batches[:, :-distance]).sum())
        for distance in range(1, BATCH_SIZE)
    )
    pairs = 0
    for found in by_distance:
        if not found:
            break
        pairs += found
    return pairs


def test_a_batch_holds_a_clip_twice_as_often_as_independent_draws_do(index: ShardIndex):
    share = shares(index, index.class_counts())
    batches = len(EPOCHS) * (len(index) // BATCH_SIZE)
    expected = 4950 * np.sum(share**2) * batches
    pairs = sum(equal_pairs(plan) for plan in plans_of(index))
    assert pairs == pytest.approx(expected, abs=4 * expected**0.5)
    in_order = [EpochPlan(np.sort(plan.rows), 0, plan.epoch) for plan in plans_of(index)]
    assert sum(equal_pairs(plan) for plan in in_order) > 100 * expected


def test_at_two_million_clips_one_batch_in_66_holds_a_clip_twice(full_counts: np.ndarray):
    index = index_by_counts(full_counts, 2_000_000)
    assert index.class_counts().tolist() == full_counts.tolist()
    expected = 4950 * np.sum(shares(index, full_counts) ** 2)
    assert expected == pytest.approx(1 / 66, rel=0.01)
    pairs = equal_pairs(plan_epoch(index, SamplerConfig(), seed=0, epoch=1))
    assert pairs == pytest.approx(20_000 * expected, abs=4 * (20_000 * expected) ** 0.5)
