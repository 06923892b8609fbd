"""What is drawn over many epochs of AudioSet's real labels, against closed forms.

Needs the folder PSLA_AUDIOSET_META with AudioSet's segments, classes and counts of clips.
"""

from pathlib import Path

import numpy as np
import pytest
from label_index import audioset_counts, audioset_index
from scipy.stats import chisquare

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

EPOCHS = range(1, 16)


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
    assert (expected > 100).all()
    return chisquare(np.bincount(groups, counts[order]), expected).pvalue


def test_clips_are_drawn_as_often_as_their_weights_say(index: ShardIndex):
    share = shares(index)
    assert fit_by_weight(counts_of(plans_of(index), len(index)), share) > 1e-3
    flatter = [plan_by(share**0.98, epoch) for epoch in EPOCHS]  # would be noticed
    assert fit_by_weight(counts_of(flatter, len(index)), share) < 1e-9


def partners_of(plan: EpochPlan, num_clips: int, rate: float) -> np.ndarray:
    """The partners of an epoch's draws, -1 for none."""
    config = AugmentConfig(mixup_rate=rate)
    return drawn_partners(plan, config, (0, len(plan.rows)), num_clips=num_clips)


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
