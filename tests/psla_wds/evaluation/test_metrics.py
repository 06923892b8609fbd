"""The metrics: what they are by hand, what always holds, and that scikit-learn agrees."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from sklearn.metrics import average_precision_score, roc_auc_score

from psla_wds.errors import ScoreError
from psla_wds.evaluation.metrics import (
    CLASSES_PER_BLOCK,
    accuracy,
    d_prime,
    evaluate,
)


def one_class(scores, targets):
    return np.array(scores, np.float32)[:, None], np.array(targets, np.uint8)[:, None]


@st.composite
def scores_and_targets(draw, max_classes=3):
    """Few different scores, so that most of them are tied."""
    shape = (draw(st.integers(1, 30)), draw(st.integers(1, max_classes)))
    values = st.sampled_from(np.array([-1.0, 0.0, 0.1, 0.5, 0.9], np.float32).tolist())
    scores = draw(npst.arrays(np.float32, shape, elements=values))
    return scores, draw(npst.arrays(np.uint8, shape, elements=st.integers(0, 1)))


def test_a_class_without_positives_is_nan_and_not_zero():
    metrics = evaluate(*one_class([0.5, 0.2], [0, 0]))
    assert np.isnan(metrics.average_precision).all()
    assert np.isnan(metrics.roc_auc).all()
    assert np.isnan([metrics.mAP, metrics.mAUC, metrics.d_prime, metrics.mean_prevalence]).all()
    metrics = evaluate(*one_class([0.5, 0.2], [1, 1]))  # no negatives
    assert metrics.average_precision.tolist() == [1.0] and np.isnan(metrics.roc_auc).all()


def test_a_class_without_positives_is_left_out_of_the_means():
    scores = np.array([[0.9, 0.1, 0.3], [0.1, 0.9, 0.3], [0.5, 0.2, 0.3]], np.float32)
    targets = np.array([[0, 0, 0], [1, 1, 0], [0, 0, 0]], np.uint8)
    metrics = evaluate(scores, targets)
    assert (metrics.num_classes, metrics.num_classes_scored) == (3, 2)
    assert metrics.num_positives.tolist() == [1, 1, 0]
    assert metrics.mAP == pytest.approx((1 / 3 + 1) / 2)
    assert metrics.mAUC == pytest.approx((0 + 1) / 2)
    assert metrics.mean_prevalence == pytest.approx(1 / 3)


@settings(deadline=None)
@given(scores_and_targets())
def test_scikit_learn_agrees_with_every_tie(clips):
    check_against_scikit_learn(*clips)


def test_scikit_learn_agrees_over_several_blocks_of_classes():
    rng = np.random.default_rng(0)
    shape = (300, 2 * CLASSES_PER_BLOCK + 3)
    targets = (rng.random(shape) < np.linspace(0.002, 0.9, shape[1])).astype(np.uint8)
    check_against_scikit_learn(np.round(rng.random(shape), 2).astype(np.float32), targets)


def check_against_scikit_learn(scores, targets):
    metrics = evaluate(scores, targets)
    for k in range(scores.shape[1]):
        if targets[:, k].any():
            expected = average_precision_score(targets[:, k], scores[:, k])
            assert metrics.average_precision[k] == pytest.approx(expected, abs=1e-12)
        if 0 < targets[:, k].sum() < len(targets):
            expected = roc_auc_score(targets[:, k], scores[:, k])
            assert metrics.roc_auc[k] == pytest.approx(expected, abs=1e-12)


def test_d_prime_is_that_of_the_mean_auc():
    assert d_prime(0.974047) == pytest.approx(2.7491, abs=1e-4)  # the paper's log
    scores = np.array([[3, 3], [2, 2], [1, 1], [0, 0]], np.float32)
    targets = np.array([[0, 1], [1, 0], [1, 1], [0, 0]], np.uint8)
    metrics = evaluate(scores, targets)
    assert metrics.roc_auc.tolist() == [0.5, 0.75]
    assert metrics.d_prime == pytest.approx(d_prime(0.625), abs=1e-15)


def test_accuracy_is_the_share_of_highest_right_classes():
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.4], [0.6, 0.5]], np.float32)
    targets = np.array([[1, 0], [0, 1], [0, 1], [1, 0]], np.uint8)
    assert accuracy(scores, targets) == 3 / 4
    for labels in ([1, 1], [0, 0]):  # there is no accuracy unless each clip has one class
        assert accuracy(np.ones((2, 2), np.float32), np.array([[1, 0], labels], np.uint8)) is None


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_score_that_is_not_finite_is_refused_with_its_place(value):
    scores = np.zeros((3, 2), np.float32)
    scores[1, 1] = value
    with pytest.raises(ScoreError, match=r"1 of 6 scores.*\n.*clip 1, class 1"):
        evaluate(scores, np.zeros((3, 2), np.uint8))
