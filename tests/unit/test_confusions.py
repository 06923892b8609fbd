"""Pairs of classes that a model takes for one another, and pairs whose scores go together."""

from dataclasses import replace

import numpy as np
import pytest

from eval.confusions import companions, confusions, highest
from psla_wds.evaluation.scores import Scores

NAMES = ("Cello", "Violin", "Speech", "Rain", "Silence")


@pytest.fixture(scope="module")
def scores() -> Scores:
    """A model that hears Cello in every Violin, and whose Rain follows its Speech."""
    rng = np.random.default_rng(0)
    targets = (rng.random((400, 5)) < (0.1, 0.1, 0.5, 0.1, 0)).astype(np.uint8)
    values = rng.random((400, 5)) + 2 * targets
    values[:, 0] = rng.random(400) + 2 * targets[:, 1]
    values[:, 3] = values[:, 2] + 0.1 * rng.random(400)
    clip_ids = tuple(f"clip-{i}" for i in range(400))
    return Scores(clip_ids, (values / 4).astype(np.float32), targets, NAMES, NAMES)


def test_a_class_that_is_heard_in_another_comes_first_with_its_clips(scores: Scores):
    found = confusions(scores, 3)[0]
    cello, violin = scores.targets[:, 0] == 1, scores.targets[:, 1] == 1
    top = set(np.argsort(-scores.scores[:, 0], kind="stable")[: cello.sum()].tolist())
    wrong = [row for row in top if not cello[row]]
    assert (found.name, found.heard_in, found.top) == ("Cello", "Violin", cello.sum())
    assert found.clips == sum(violin[row] for row in wrong)
    expected = len(wrong) * (violin & ~cello).sum() / (~cello).sum()
    assert found.by_chance == pytest.approx(expected)
    assert found.clips > 5 * found.by_chance


def test_what_is_common_is_not_taken_for_a_confusion(scores: Scores):
    """Half of all clips are Speech: as many wrong clips of Cello are to be expected."""
    assert "Speech" not in {
        pair.heard_in for pair in confusions(scores, 10) if pair.name == "Cello"
    }


def test_a_perfect_model_confuses_nothing(scores: Scores):
    perfect = Scores(
        scores.clip_ids, scores.targets.astype(np.float32), scores.targets, NAMES, NAMES
    )
    assert confusions(perfect, 10) == []


def test_of_equal_scores_no_more_are_taken_than_there_are_positives():
    chosen = highest(np.full((6, 2), 0.5, np.float32), np.array([2, 0]))
    assert chosen.sum(axis=0).tolist() == [2, 0]


def test_scores_that_go_together_are_told_with_what_their_labels_do(scores: Scores):
    found = companions(scores, 2)[0]
    assert found.names == ("Speech", "Rain")
    for values, correlation in (
        (scores.scores, found.of_scores),
        (scores.targets, found.of_labels),
    ):
        assert correlation == pytest.approx(np.corrcoef(values[:, 2], values[:, 3])[0, 1], abs=1e-6)


def test_classes_without_a_clip_have_no_correlation_of_labels(scores: Scores):
    pairs = [pair for pair in companions(scores, 10) if "Silence" in pair.names]
    assert len(pairs) == 4 and all(np.isnan(pair.of_labels) for pair in pairs)


def test_a_class_of_constant_scores_goes_with_none(scores: Scores):
    values = scores.scores.copy()
    values[:, 4] = 0.1
    found = companions(replace(scores, scores=values), 10)
    assert len(found) == 6 and not any("Silence" in pair.names for pair in found)
