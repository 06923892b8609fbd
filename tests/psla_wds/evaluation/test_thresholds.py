"""Thresholds: what trying all of them gives, with ties; what they give; files of them."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from sklearn.metrics import f1_score, precision_recall_fscore_support

from psla_wds.errors import ScoreError
from psla_wds.evaluation.bootstrap import resampled_weights, share_ends
from psla_wds.evaluation.thresholds import (
    Thresholds,
    best_threshold,
    decide,
    f1_intervals,
    fit_thresholds,
    read_thresholds,
)

PRECISIONS = (None, 0.25, 0.5, 2 / 3, 0.9, 1.0)


@st.composite
def clips(draw, max_classes: int = 1):
    """Few different scores, so that most of them are tied."""
    shape = (draw(st.integers(1, 30)), draw(st.integers(1, max_classes)))
    values = st.sampled_from(np.array([-1.0, 0.0, 0.1, 0.5, 0.7, 0.9], np.float32).tolist())
    scores = draw(npst.arrays(np.float32, shape, elements=values))
    return scores, draw(npst.arrays(np.uint8, shape, elements=st.integers(0, 1)))


def by_trying_all(scores: np.ndarray, targets: np.ndarray, precision: float | None) -> float:
    """The best of all scores as thresholds, by definition."""
    found = []
    for threshold in sorted(set(scores.tolist()), reverse=True):
        reached = scores >= np.float32(threshold)
        hits = np.count_nonzero(reached & (targets == 1))
        f1 = 2 * hits / (np.count_nonzero(reached) + np.count_nonzero(targets))
        found.append((threshold, f1, hits / np.count_nonzero(reached)))
    if not targets.any():
        return math.inf
    if precision is None:
        return max(found, key=lambda row: row[1])[0]  # the first, so the highest, of equal ones
    return min((row[0] for row in found if row[2] >= precision), default=math.inf)


@settings(deadline=None)
@given(clips(), st.sampled_from(PRECISIONS))
def test_a_threshold_is_the_best_of_all(columns, precision: float | None):
    scores, targets = columns[0][:, 0], columns[1][:, 0]
    found = best_threshold(scores, targets, precision=precision)
    assert found == by_trying_all(scores, targets, precision)


@settings(deadline=None)
@given(clips(max_classes=4), st.integers(1, 12), st.sampled_from(PRECISIONS))
def test_rare_classes_take_the_pooled_threshold(columns, least: int, precision: float | None):
    scores, targets = columns
    if not targets.any():
        return
    mids = tuple(f"/m/{k}" for k in range(scores.shape[1]))
    fit = fit_thresholds(scores, targets, mids, precision=precision, min_positives=least)
    assert fit.pooled == by_trying_all(scores.ravel(), targets.ravel(), precision)
    for k, value in enumerate(fit.thresholds.values.tolist()):
        rare = targets[:, k].sum() < least
        own = by_trying_all(scores[:, k], targets[:, k], precision)
        assert fit.takes_pooled[k] == rare and value == (fit.pooled if rare else own)


@settings(deadline=None)
@given(clips(max_classes=4), st.data())
def test_scikit_learn_agrees_on_what_thresholds_give(columns, data):
    scores, targets = columns
    values = st.sampled_from(np.array([-2.0, 0.1, 0.5, math.inf], np.float32).tolist())
    thresholds = data.draw(npst.arrays(np.float32, scores.shape[1], elements=values))
    found = decide(scores, targets, thresholds)
    reached = (scores >= thresholds).astype(int)

    def expected(targets: np.ndarray, reached: np.ndarray) -> tuple[float, ...]:
        return precision_recall_fscore_support(targets, reached, average="binary", zero_division=0)[
            :3
        ]

    micro = [0 if np.isnan(value) else value for value in vars(found.micro).values()]
    assert micro == pytest.approx(expected(targets.ravel(), reached.ravel()))
    classes = [expected(targets[:, k], reached[:, k]) for k in np.flatnonzero(targets.any(axis=0))]
    if classes:
        assert list(vars(found.macro).values()) == pytest.approx(np.mean(classes, axis=0))


def test_nothing_to_fit_is_an_error():
    with pytest.raises(ScoreError, match="no clip has a positive class"):
        fit_thresholds(np.ones((3, 2), np.float32), np.zeros((3, 2), np.uint8), ("/a", "/b"))


def noisy(num_clips: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores that know something of their targets; the third class has no positives."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((num_clips, 3)) < [0.3, 0.1, 0.0]).astype(np.uint8)
    return (rng.normal(size=targets.shape) + 1.5 * targets).astype(np.float32), targets


def test_intervals_are_those_of_scores_of_resamples():
    scores, targets = noisy(150)
    thresholds = np.array([0.5, 1.0, math.inf], np.float32)
    ends = f1_intervals(scores, targets, thresholds, resamples=30, seed=3)
    weights, reached = resampled_weights(150, 30, seed=3), scores >= thresholds
    for k in range(2):
        plain, *resampled = (
            f1_score(targets[:, k], reached[:, k], sample_weight=weight)
            for weight in (None, *weights.T)
        )
        expected = share_ends(np.array([plain]), np.array([resampled]))[:, 0]
        assert ends[:, k] == pytest.approx(expected, abs=1e-12) and expected[0] < expected[1]
    assert np.isnan(ends[:, 2]).all()


def test_thresholds_follow_the_order_of_classes():
    thresholds = Thresholds(("/a", "/b"), np.array([0.25, math.inf], np.float32))
    assert thresholds.of(("/b", "/a"), where="T.json").tolist() == [math.inf, 0.25]
    for mids in (("/a",), ("/a", "/c"), ("/a", "/b", "/c")):
        with pytest.raises(ScoreError, match=r"other classes \(2 where .*\n.*T.json\n.*fit them"):
            thresholds.of(mids, where="T.json")


def test_files_are_read_exactly_or_refused(tmp_path: Path):
    path = tmp_path / "T.json"
    value = float(np.float32(0.1))
    rows = [{"mid": "/a", "threshold": value, "more": 1}, {"mid": "/b", "threshold": None}]
    path.write_text(json.dumps({"per_class": rows}))
    read = read_thresholds(path)
    assert read.mids == ("/a", "/b") and read.values.tolist() == [value, math.inf]
    wrong = [{}, [], {"per_class": []}, {"per_class": [rows[0], rows[0]]}, {"per_class": 3}]
    wrong += [{"per_class": [{"mid": "/a", "threshold": t}]} for t in ("0.5", True, math.nan)]
    for content in wrong:
        path.write_text(json.dumps(content))
        with pytest.raises(ScoreError, match=r"(?s)cannot be read.*where.*fix: +write them again"):
            read_thresholds(path)
    with pytest.raises(ScoreError, match="cannot be read"):
        read_thresholds(tmp_path / "none.json")
