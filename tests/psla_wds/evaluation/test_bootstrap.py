"""Intervals: a resample is what scikit-learn gives with weights; they cover what they should."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from psla_wds.evaluation.bootstrap import (
    bootstrap,
    difference_bounds,
    resampled_weights,
    share_ends,
    weighted_metrics,
)
from psla_wds.evaluation.metrics import d_prime, evaluate


@pytest.mark.parametrize("values", [2, 10, 10_000], ids=lambda n: f"{n} different scores")
def test_a_resample_is_what_scikit_learn_gives_with_weights(values: int):
    rng = np.random.default_rng(values)
    scores = (rng.integers(0, values, 200) / values).astype(np.float32)
    targets = (rng.random(200) < 0.1 + 0.3 * scores).astype(np.uint8)
    weights = resampled_weights(200, 20, seed=values)
    precision, auc = weighted_metrics(scores, targets, weights)
    for i, weight in enumerate(weights.T):
        expected = average_precision_score(targets, scores, sample_weight=weight)
        assert precision[i] == pytest.approx(expected, abs=1e-12)
        expected = roc_auc_score(targets, scores, sample_weight=weight)
        assert auc[i] == pytest.approx(expected, abs=1e-12)


def test_an_interval_covers_the_truth_about_as_often_as_it_says():
    """The AUC of two unit normals, one apart: 0.7602."""
    covered = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        targets = (np.arange(300) % 3 == 0).astype(np.uint8)[:, None]
        scores = rng.standard_normal((300, 1)) + targets
        auc = bootstrap(scores, targets, resamples=200, seed=seed).mAUC
        covered += auc.low <= 0.76025 <= auc.high
    assert 88 <= covered <= 99


def test_a_resample_without_positives_leaves_the_class_out():
    precision, auc = weighted_metrics(
        np.array([0.9, 0.1]),
        np.array([1, 0], np.uint8),
        np.array([[0, 2, 1], [2, 0, 1]], np.float32),
    )
    assert np.isnan(precision).tolist() == [True, False, False]
    assert np.isnan(auc).tolist() == [True, True, False]


def rare(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores and targets of 80 clips, and 10 classes of which each is carried by 8 of them."""
    rng = np.random.default_rng(seed)
    targets = (rng.permutation(80)[:, None] % 10 == np.arange(10)).astype(np.uint8)
    return rng.standard_normal((80, 10)) + 1.5 * targets, targets


def test_intervals_of_rare_classes_cover_the_mean_of_sets():
    """Resamples have a higher mAP than the clips: their own middle 95 % would cover it 75 times."""
    truth = np.mean([evaluate(*rare(seed)).mAP for seed in range(1000, 1400)])
    found = [bootstrap(*rare(seed), resamples=40).mAP for seed in range(100)]
    assert 90 <= sum(interval.low <= truth <= interval.high for interval in found) <= 99


def test_an_interval_of_a_share_stays_between_0_and_1():
    resampled = np.array(
        [[0.9, 1.0, 0.98], [1.0, 1.0, 1.0], [np.nan, np.nan, 0.5], [0.4, 0.5, 0.6]]
    )
    low, high = share_ends(np.array([0.98, 1.0, 0.5, 0.5]), resampled)
    assert 0 < low[0] < 0.98 < high[0] < 1 and high[0] - 0.98 < 0.98 - low[0]
    assert low[1] == high[1] == 1  # a perfect ranking is perfect in all resamples
    assert np.isnan([low[2], high[2]]).all()  # of one resample there is no deviation
    assert low[3] == pytest.approx(1 - high[3]) and 0.36 < high[3] - low[3] < 0.392


def test_an_interval_of_a_difference_is_around_it():
    found = difference_bounds(0.3, np.array([0.5, 0.6, 0.7, np.nan]))
    assert found.low == pytest.approx(0.3 - 0.196, abs=1e-5)
    assert found.high == pytest.approx(0.3 + 0.196, abs=1e-5)
    found = difference_bounds(0.3, np.array([0.5, np.inf, 0.7]))
    assert np.isnan([found.low, found.high]).all()


def test_d_prime_has_the_interval_of_the_mean_area():
    rng = np.random.default_rng(0)
    targets = (rng.random((100, 3)) < 0.3).astype(np.uint8)
    found = bootstrap(rng.random((100, 3)) + 0.2 * targets, targets, resamples=50)
    ends = [d_prime(found.mAUC.low), d_prime(found.mAUC.high)]
    assert [found.d_prime.low, found.d_prime.high] == ends and ends[0] < ends[1]
    targets[:, 1] = 0  # a class that no clip carries has none
    found = bootstrap(rng.random((100, 3)), targets, resamples=20)
    assert np.isnan(found.average_precision[:, 1]).all() and 0 < found.mAP.low <= found.mAP.high
