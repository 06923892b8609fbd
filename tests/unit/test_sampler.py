from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from psla_wds.errors import ConfigError
from psla_wds.index_files import read_index
from psla_wds.sampler import (
    SamplerConfig,
    clip_weights,
    draw_rows,
    plan_epoch,
    raw_bits,
    to_uniform,
)
from psla_wds.shard_index import ShardIndex


def index_with_labels(base: ShardIndex, labels: list[list[int]]) -> ShardIndex:
    """An index of clips that carry these labels; nothing else of it is meant."""
    starts = np.cumsum([0, *map(len, labels)])
    values = np.array([label for clip in labels for label in clip], np.uint16)
    few = base.select(np.arange(len(labels)), "labels")
    return replace(few, label_starts=starts, label_values=values)


@pytest.fixture
def index(shards: Path) -> ShardIndex:
    return read_index(shards)


def test_a_clip_weighs_the_sum_of_one_over_the_counts_of_its_classes(index: ShardIndex):
    # Class 0 has 4 clips, class 1 has 2, class 2 has 1, class 3 none.
    few = index_with_labels(index, [[0], [0, 1], [0, 1], [0, 2], []])
    expected = [1 / 4, 1 / 4 + 1 / 2, 1 / 4 + 1 / 2, 1 / 4 + 1, 0]
    assert clip_weights(few) == pytest.approx(expected)


def test_weights_follow_those_of_the_official_script_but_for_scale(index: ShardIndex):
    few = index_with_labels(index, [[0], [0, 1], [0, 1], [0, 2], [1]])
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


def test_a_balanced_epoch_draws_rare_classes_as_often_as_frequent_ones(index: ShardIndex):
    skewed = index_with_labels(index, [[0]] * 40 + [[1]] * 4 + [[2]])
    config = SamplerConfig(draws_per_epoch=30_000)
    rows = plan_epoch(skewed, config, seed=0, epoch=1).rows
    drawn = np.bincount([skewed.labels(row)[0] for row in rows])
    assert drawn == pytest.approx([10_000] * 3, rel=0.03)


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
