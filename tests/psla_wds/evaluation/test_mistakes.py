"""Mistakes of a tagger on clips of one class: pairs of classes, and clips."""

import numpy as np

from psla_wds.evaluation.metrics import accuracy
from psla_wds.evaluation.mistakes import find_mistakes

LABELS = np.array([0, 0, 0, 1, 1, 2])
SCORES = np.array(
    [[9, 1, 1], [1, 4, 2], [1, 9, 2], [6, 5, 1], [1, 9, 8], [1, 2, 3]], np.float32
)  # right, wrong by 3, wrong by 8, wrong by 1, right, right
TARGETS = np.eye(4, dtype=np.uint8)[LABELS][:, :3]


def test_clips_are_counted_by_their_class_and_the_one_that_leads():
    found = find_mistakes(SCORES, TARGETS, most=2)
    assert found.counts.tolist() == [[1, 2, 0], [1, 1, 0], [0, 0, 1]]
    assert np.trace(found.counts) / len(LABELS) == accuracy(SCORES, TARGETS)
    assert found.confusions(5) == [(0, 1, 2), (1, 0, 1)] and found.confusions(1) == [(0, 1, 2)]


def test_the_largest_lead_is_the_worst_mistake():
    found = find_mistakes(SCORES, TARGETS, most=2)
    assert found.worst.tolist() == [2, 1] and found.taken_for.tolist() == [1, 1]
    assert find_mistakes(SCORES, TARGETS, most=9).worst.tolist() == [2, 1, 3]


def test_there_are_none_unless_each_clip_has_one_class():
    for labels in ([1, 1, 0], [0, 0, 0]):
        targets = np.array([*TARGETS[:-1], labels], np.uint8)
        assert find_mistakes(SCORES, targets, most=2) is None
    right = find_mistakes(TARGETS.astype(np.float32), TARGETS, most=2)
    assert len(right.worst) == 0 and right.confusions(3) == []
