from bisect import bisect_right
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from label_index import index_with_labels
from scipy.stats import chisquare

from psla_wds.errors import ConfigError
from psla_wds.sampling.plan import (
    EpochPlan,
    SamplerConfig,
    clip_weights,
    draw_rows,
    plan_epoch,
    raw_bits,
    systematic_rows,
    to_uniform,
)
from psla_wds.shards.index import ShardIndex
from psla_wds.shards.index_files import read_index


@pytest.fixture
def index(shards: Path) -> ShardIndex:
    return read_index(shards)


def test_a_clip_weighs_the_sum_of_one_over_the_counts_of_its_classes():
    # Class 0 has 4 clips, class 1 has 2, class 2 has 1, class 3 none.
    few = index_with_labels([[0], [0, 1], [0, 1], [0, 2], []])
    expected = [1 / 4, 1 / 4 + 1 / 2, 1 / 4 + 1 / 2, 1 / 4 + 1, 0]
    assert clip_weights(few) == pytest.approx(expected)


def test_weights_follow_those_of_the_official_script_but_for_scale():
    few = index_with_labels([[0], [0, 1], [0, 1], [0, 2], [1]])
    counts = np.array([4, 3, 1])
    official = [sum(1000 / (counts[k] + 0.01) for k in few.labels(row)) for row in range(5)]
    assert clip_weights(few) * 1000 == pytest.approx(official, rel=0.01)


def draws(weights: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    return draw_rows(weights, to_uniform(raw_bits(seed, 1, 0, 0, count)))


def test_counts_fit_their_weights():
    weights = np.array([1.0, 2.0, 4.0, 0.5, 0.0, 3.0])
    counts = np.bincount(draws(weights, 200_000), minlength=6)
    drawn = weights > 0
    assert counts[4] == 0
    expected = weights[drawn] / weights.sum() * 200_000
    assert chisquare(counts[drawn], expected).pvalue > 1e-4
    wrong = expected * np.array([1, 1.05, 1, 1, 1])
    assert chisquare(counts[drawn], wrong / wrong.sum() * 200_000).pvalue < 1e-4


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=30).filter(lambda w: sum(w) > 0))
def test_a_clip_of_no_weight_is_never_drawn(weights: list[float]):
    edges = np.array([0.0, 2.0**-53, 0.5, 1 - 2.0**-53])
    rows = draw_rows(np.array(weights), edges)
    assert all(weights[row] > 0 for row in rows)


@given(
    st.lists(st.floats(0, 1e6), min_size=1, max_size=30).filter(lambda w: sum(w) > 0),
    st.lists(st.floats(0, 1, exclude_max=True)),
)
def test_a_number_picks_the_row_whose_share_of_the_weights_it_lies_in(weights, uniform):
    ends = list(accumulate(weights))
    # What rounds up to the total belongs to the last row of any weight.
    last = max(row for row, weight in enumerate(weights) if ends[row] > ends[row - 1] or not row)
    expected = [min(bisect_right(ends, number * ends[-1]), last) for number in uniform]
    assert draw_rows(np.array(weights), np.array(uniform)).tolist() == expected


@given(st.integers(0, 2**32), st.integers(1, 99), st.integers(0, 200), st.integers(1, 60))
def test_a_part_of_the_stream_is_the_part_of_the_whole(seed, epoch, start, count):
    whole = raw_bits(seed, epoch, 0, 0, start + count)
    assert raw_bits(seed, epoch, 0, start, count).tolist() == whole[start:].tolist()


def test_the_stream_is_philox_as_published():
    # Known answer of Philox4x64-10 for key 0, counter 1 (Random123's definition, by NumPy's test).
    words = np.random.Philox(key=np.zeros(2, np.uint64), counter=np.zeros(4, np.uint64))
    assert raw_bits(0, 0, 0, 0, 4).tolist() == words.random_raw(4).tolist()
    streams = {tuple(raw_bits(*key, 0, 4)) for key in [(0, 1, 0), (1, 1, 0), (0, 2, 0), (0, 1, 1)]}
    assert len(streams) == 4


def test_a_shuffled_epoch_has_each_clip_once_in_an_order_of_its_own(index: ShardIndex):
    config = SamplerConfig(sampling="shuffle")
    first, second = (plan_epoch(index, config, seed=0, epoch=epoch).rows for epoch in (1, 2))
    assert sorted(first) == sorted(second) == list(range(len(index)))
    assert first.tolist() != second.tolist()
    again = plan_epoch(index, config, seed=0, epoch=1)
    assert again.rows.tolist() == first.tolist()


def test_a_balanced_epoch_draws_rare_classes_as_often_as_frequent_ones():
    skewed = index_with_labels([[0]] * 40 + [[1]] * 4 + [[2]])
    config = SamplerConfig(draws_per_epoch=30_000)
    rows = plan_epoch(skewed, config, seed=0, epoch=1).rows
    drawn = np.bincount([skewed.labels(row)[0] for row in rows])
    assert drawn == pytest.approx([10_000] * 3, rel=0.03)


WEIGHTS = st.lists(
    st.one_of(st.just(0.0), st.floats(1e-9, 1e-6), st.floats(0.1, 10), st.floats(1e6, 1e9)),
    min_size=1,
    max_size=30,
).filter(any)


@given(WEIGHTS, st.integers(1, 300), st.floats(0, 1, exclude_max=True))
def test_systematic_counts_are_within_one_of_their_expectation(weights, num_draws, offset):
    rows = systematic_rows(np.array(weights), num_draws, offset=offset)
    counts = np.bincount(rows, minlength=len(weights))
    expected = np.array(weights) / sum(weights) * num_draws
    assert len(rows) == num_draws and not counts[expected == 0].any()
    assert (np.abs(counts - expected) < 1 + 1e-9).all()


SKEWED = index_with_labels([[0]] * 400 + [[1]] * 40 + [[2]] * 4)


def systematic_plan(seed: int, epoch: int, num_draws: int | None = None) -> EpochPlan:
    config = SamplerConfig(sampling="systematic", draws_per_epoch=num_draws)
    return plan_epoch(SKEWED, config, seed=seed, epoch=epoch)


@given(st.integers(0, 2**32), st.integers(1, 99), st.integers(1, 5000))
def test_a_systematic_epoch_has_its_draws_and_each_clip_as_often_as_its_weight_says(
    seed, epoch, num_draws
):
    counts = np.bincount(systematic_plan(seed, epoch, num_draws).rows, minlength=len(SKEWED))
    expected = clip_weights(SKEWED) / 3 * num_draws
    assert counts.sum() == num_draws
    assert (np.abs(counts - expected) < 1 + 1e-9).all()


def test_systematic_epochs_have_the_mean_of_balanced_ones():
    counts = sum(
        np.bincount(systematic_plan(0, epoch).rows, minlength=len(SKEWED))
        for epoch in range(1, 401)
    )
    expected = clip_weights(SKEWED) / 3 * len(SKEWED) * 400
    # A count is its expectation rounded down or up: its variance is at most 1/4 an epoch.
    assert np.abs(counts - expected).max() < 4.5 * (400 / 4) ** 0.5


def test_systematic_draws_come_in_a_random_order_of_the_epoch_and_the_seed():
    plans = [systematic_plan(*key, 30_000) for key in [(0, 1), (0, 2), (1, 1)]]
    for plan in plans:
        place = np.arange(len(plan.rows))
        assert abs(np.corrcoef(place, plan.rows)[0, 1]) < 0.02
        assert abs(np.corrcoef(plan.rows[1:], plan.rows[:-1])[0, 1]) < 0.02
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert abs(np.corrcoef(plans[one].rows, plans[other].rows)[0, 1]) < 0.02
        assert plans[one].fingerprint() != plans[other].fingerprint()
    assert systematic_plan(0, 1, 30_000).fingerprint() == plans[0].fingerprint()


def test_a_plan_is_told_from_another(index: ShardIndex):
    config = SamplerConfig()
    prints = {
        plan_epoch(index, config, seed=seed, epoch=epoch).fingerprint()
        for seed, epoch in [(0, 1), (0, 2), (1, 1), (0, 1)]
    }
    assert len(prints) == 3


def test_draws_per_epoch_has_no_meaning_for_shuffled_epochs():
    with pytest.raises(ConfigError, match="not a number of draws"):
        SamplerConfig(sampling="shuffle", draws_per_epoch=10)
    with pytest.raises(ConfigError, match="0 draws"):
        SamplerConfig(draws_per_epoch=0)


def test_clips_without_a_label_cannot_be_balanced():
    bare = index_with_labels([[], [], []])
    with pytest.raises(ConfigError, match="no clip carries a label"):
        plan_epoch(bare, SamplerConfig(), seed=0, epoch=1)
    assert len(plan_epoch(bare, SamplerConfig(sampling="shuffle"), seed=0, epoch=1).rows) == 3
