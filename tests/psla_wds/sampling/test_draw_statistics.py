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

from psla_wds.sampling.augment import drawn_partners
from psla_wds.sampling.config import AugmentConfig, SamplerConfig, Sampling
from psla_wds.sampling.plan import (
    PURPOSE_DRAWS,
    EpochPlan,
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
    return audioset_counts(meta)


def shares(index: ShardIndex, counts: np.ndarray | None = None) -> np.ndarray:
    """The share of draws of each clip, by PSLA's algorithm 1 written out."""
    counts = index.class_counts() if counts is None else counts
    weights = np.add.reduceat(1 / counts[index.label_values], index.label_starts[:-1])
    return weights / weights.sum()


def plan_by(weights: np.ndarray, epoch: int) -> EpochPlan:
    """The balanced epoch that these weights give, as many draws as clips."""
    uniform = to_uniform(raw_bits(0, epoch, PURPOSE_DRAWS, 0, len(weights)))
    return EpochPlan(draw_rows(weights, uniform), 0, epoch)


def plans_of(index: ShardIndex, sampling: Sampling = "balanced") -> list[EpochPlan]:
    config = SamplerConfig(sampling=sampling)
    return [plan_epoch(index, config, seed=0, epoch=epoch) for epoch in EPOCHS]


def counts_of(plans: list[EpochPlan], num_clips: int) -> np.ndarray:
    return sum(np.bincount(plan.rows, minlength=num_clips) for plan in plans)


def fit_by_weight(counts: np.ndarray, share: np.ndarray) -> float:
    """p-value of the counts of 400 groups of clips of similar weight, each 1/400 of the draws."""
    order = np.argsort(share)
    groups = np.minimum((np.cumsum(share[order]) * 400).astype(int), 399)
    expected = np.bincount(groups, share[order]) * counts.sum()
    assert (expected > 1000).all()
    return chisquare(np.bincount(groups, counts[order]), expected).pvalue


def test_clips_are_drawn_as_often_as_their_weights_say(index: ShardIndex):
    assert fit_by_weight(counts_of(plans_of(index), len(index)), shares(index)) > 1e-3


@pytest.mark.parametrize(
    "wrong",
    [
        lambda index: np.maximum.reduceat(  # the rarest class alone
            1 / index.class_counts()[index.label_values], index.label_starts[:-1]
        ),
        lambda index: shares(index) ** 0.98,
        lambda index: shares(index) * np.where(shares(index) > 1e-4, 1.03, 1),
    ],
    ids=["rarest class", "flatter", "3 % more of rare clips"],
)
def test_other_weights_would_be_noticed(index: ShardIndex, wrong: Callable):
    counts = counts_of([plan_by(wrong(index), epoch) for epoch in EPOCHS], len(index))
    assert fit_by_weight(counts, shares(index)) < 1e-9


@pytest.mark.parametrize(
    ("sampling", "bounds"), [("balanced", (1e-3, 1 - 1e-3)), ("systematic", (0, 1e-9))]
)
def test_counts_vary_as_independent_draws_or_less(
    index: ShardIndex, sampling: Sampling, bounds: tuple[float, float]
):
    expected = shares(index) * len(index) * len(EPOCHS)
    often = expected >= 5
    counts = counts_of(plans_of(index, sampling), len(index))
    statistic = ((counts - expected) ** 2 / expected)[often].sum()
    assert often.sum() > 40_000
    assert bounds[0] <= chi2(often.sum()).cdf(statistic) <= bounds[1]


def partners_of(plan: EpochPlan, num_clips: int, rate: float) -> np.ndarray:
    """The partners of an epoch's draws, -1 for none."""
    config = AugmentConfig(mixup_rate=rate)
    return drawn_partners(plan, config, (0, len(plan.rows)), num_clips=num_clips)


def fit_of_partners(partners: np.ndarray, rows: np.ndarray, share: np.ndarray) -> list[float]:
    """p-values: partners are uniform over clips by weight, independent of their draws, and
    uniform over clips by row."""
    count = len(share)
    tenth = np.empty(count, np.int64)
    tenth[np.argsort(share)] = np.arange(count) * 10 // count
    hundredth = np.arange(count) * 100 // count
    table = np.histogram2d(tenth[rows], tenth[partners], bins=np.arange(11))[0]
    by_weight, by_row = (
        chisquare(
            np.bincount(group[partners], minlength=group.max() + 1),
            np.bincount(group) / count * len(partners),
        ).pvalue
        for group in (tenth, hundredth)
    )
    return [by_weight, chi2_contingency(table[table.sum(axis=1) > 0]).pvalue, by_row]


def test_partners_are_uniform_and_independent_of_the_draw(index: ShardIndex):
    share, plans = shares(index), plans_of(index)[:5]
    rows = np.concatenate([plan.rows for plan in plans])
    partners = np.concatenate([partners_of(plan, len(index), 1.0) for plan in plans])
    assert min(fit_of_partners(partners, rows, share)) > 1e-3
    by_weight, from_batch = plan_by(share, 99).rows, np.roll(rows, 1)
    assert fit_of_partners(by_weight, rows[: len(by_weight)], share)[0] < 1e-9
    assert fit_of_partners(from_batch, rows, share)[0] < 1e-9
    not_the_last = (partners * 0.99).astype(np.int64)
    assert fit_of_partners(not_the_last, rows, share)[2] < 1e-9
    now_and_then_itself = np.where(np.arange(len(rows)) % 50, partners, rows)
    assert fit_of_partners(now_and_then_itself, rows, share)[1] < 1e-9


@pytest.mark.parametrize(
    ("num_epochs", "rate", "share_unseen"), [(30, 0.0, 0.418), (5, 0.5, 0.044)]
)
def test_as_many_clips_stay_unseen_as_in_the_paper(
    index: ShardIndex, full_counts: np.ndarray, num_epochs: int, rate: float, share_unseen: float
):
    # Figure 6 has 40.9 % and, with partners, 5 % of all of AudioSet; these are a part of its rows.
    share, num_clips = shares(index, full_counts), len(index)
    closed_form = np.mean(((1 - share) * (1 - rate / num_clips)) ** (num_epochs * num_clips))
    assert closed_form == pytest.approx(share_unseen, abs=5e-4)
    unseen = np.ones(num_clips, bool)
    for plan in (plan_by(share, epoch) for epoch in range(1, num_epochs + 1)):
        partners = partners_of(plan, num_clips, rate)
        unseen[plan.rows] = unseen[partners[partners >= 0]] = False
    assert unseen.mean() == pytest.approx(closed_form, abs=0.003)


def equal_pairs(plan: EpochPlan) -> int:
    """Pairs of draws of one clip within a batch, over all batches."""
    whole = len(plan.rows) // BATCH_SIZE * BATCH_SIZE
    batches = np.sort(plan.rows[:whole].reshape(-1, BATCH_SIZE), axis=1)
    pairs = 0
    for distance in range(1, BATCH_SIZE):
        found = int((batches[:, distance:] == batches[:, :-distance]).sum())
        if not found:
            break
        pairs += found
    return pairs


def test_a_batch_repeats_a_clip_as_independent_draws_do(index: ShardIndex):
    plans = plans_of(index)
    expected = 4950 * np.sum(shares(index) ** 2) * len(EPOCHS) * (len(index) // BATCH_SIZE)
    assert sum(map(equal_pairs, plans)) == pytest.approx(expected, abs=4 * expected**0.5)
    in_order = [EpochPlan(np.sort(plan.rows), 0, plan.epoch) for plan in plans]
    assert sum(map(equal_pairs, in_order)) > 100 * expected


def test_of_two_million_clips_one_batch_in_66_repeats_one(full_counts: np.ndarray):
    index = index_by_counts(full_counts, 2_000_000)
    assert index.class_counts().tolist() == full_counts.tolist()
    expected = 4950 * np.sum(shares(index) ** 2)
    assert expected == pytest.approx(1 / 66, rel=0.01)
    pairs = equal_pairs(plan_epoch(index, SamplerConfig(), seed=0, epoch=1))
    assert pairs == pytest.approx(20_000 * expected, abs=4 * (20_000 * expected) ** 0.5)
