"""Events in frame scores: two thresholds, gaps and lengths, whatever the pieces they come in."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psla_wds.tagging.config import EventConfig
from psla_wds.tagging.events import Event, EventFinder, in_order

SCORES = {"#": 0.9, "+": 0.7, "-": 0.3, ".": 0.0}


def scores_of(text: str) -> np.ndarray:
    """Frame scores of one class; each character of the text is a frame."""
    return np.array([[SCORES[character]] for character in text], np.float32).reshape(-1, 1)


def find(text: str, *, pieces: int = 1000, **settings: float) -> list[Event]:
    """Events of one class, in frames of a second."""
    finder = EventFinder(EventConfig(**{"threshold": 0.5, "low_threshold": 0.2} | settings), 1.0)
    scores, found = scores_of(text), []
    for start in range(0, len(scores), pieces):
        found += finder.add(scores[start : start + pieces])
    return found + finder.finish(float(len(text)))


@pytest.mark.parametrize(
    ("text", "settings", "expected"),
    [
        ("..##..", {}, [(2, 4)]),
        (".-#--.", {}, [(1, 5)]),
        (".---..", {}, []),
        ("##", {}, [(0, 2)]),
        ("#.#", {}, [(0, 1), (2, 3)]),
        ("#.#", {"max_gap_s": 1.0}, [(0, 3)]),
        ("#..#", {"max_gap_s": 1.0}, [(0, 1), (3, 4)]),
        ("#.-.#", {"max_gap_s": 2.0}, [(0, 1), (4, 5)]),
        ("#.-.#", {"max_gap_s": 3.0}, [(0, 5)]),
        ("#.-#.", {"max_gap_s": 1.0}, [(0, 4)]),
        (".#.", {"min_event_s": 1.5}, []),
        ("#.#", {"min_event_s": 3.0, "max_gap_s": 1.0}, [(0, 3)]),
        (".-+-.", {"threshold": SCORES["+"], "low_threshold": SCORES["-"]}, [(1, 4)]),
        ("", {}, []),
    ],
)
def test_events_of_a_row_of_scores(text: str, settings: dict[str, float], expected: list[Any]):
    assert [(event.start_s, event.end_s) for event in find(text, **settings)] == expected


@pytest.mark.parametrize("text", [".-#.+-", ".-+.#-", ".-+#.-"])
def test_an_event_has_the_highest_of_its_scores(text: str):
    event, *_ = find(text, max_gap_s=1.0)
    assert (event.start_s, event.label, event.score) == (1.0, 0, pytest.approx(SCORES["#"]))


def test_an_event_in_the_last_frame_ends_with_the_recording():
    finder = EventFinder(EventConfig(), 1.0)
    finder.add(scores_of("##"))
    (event,) = finder.finish(1.7)
    assert (event.start_s, event.end_s) == (0, 1.7)


def test_classes_do_not_meet():
    finder = EventFinder(EventConfig(max_gap_s=10.0), 0.5)
    scores = np.array([[0.9, 0.0], [0.0, 0.9]], np.float32)
    found = in_order(finder.add(scores) + finder.finish(1.0))
    assert [(e.label, e.start_s, e.end_s) for e in found] == [(0, 0.0, 0.5), (1, 0.5, 1.0)]


def test_an_event_is_given_once_none_can_join_it():
    finder = EventFinder(EventConfig(max_gap_s=1.0), 1.0)
    assert [len(finder.add(scores_of(character))) for character in "#.."] == [0, 0, 1]


def by_definition(text: str, max_gap: int, min_frames: int) -> list[tuple[float, float]]:
    """Runs above the low threshold with a high frame, then gaps, then lengths, one by one."""
    runs: list[list[int]] = []
    start = None
    for frame, character in enumerate([*text, "."]):
        if character != "." and start is None:
            start = frame
        if character == "." and start is not None:
            if "#" in text[start:frame]:
                runs.append([start, frame])
            start = None
    joined: list[list[int]] = []
    for run in runs:
        if joined and run[0] - joined[-1][1] <= max_gap:
            joined[-1][1] = run[1]
        else:
            joined.append(run)
    return [(float(a), float(b)) for a, b in joined if b - a >= min_frames]


@given(st.text("#-.", max_size=40), st.integers(0, 4), st.integers(0, 4), st.integers(1, 41))
def test_pieces_change_nothing(text: str, max_gap: int, min_frames: int, pieces: int):
    found = find(text, pieces=pieces, max_gap_s=float(max_gap), min_event_s=float(min_frames))
    assert [(e.start_s, e.end_s) for e in found] == by_definition(text, max_gap, min_frames)


def test_classes_have_thresholds_of_their_own():
    scores = np.array([[0.6, 0.3, 0.9], [0.2, 0.2, 0.9], [0.6, 0.1, 0.9]], np.float32)
    own = np.array([0.7, 0.3, np.inf], np.float32)

    def labels(config: EventConfig, thresholds: np.ndarray | None) -> list[tuple[int, float]]:
        finder = EventFinder(config, 1.0, thresholds)
        found = in_order(finder.add(scores) + finder.finish(3.0))
        return [(event.label, event.end_s) for event in found]

    assert labels(EventConfig(), own) == [(1, 2.0)]  # the low threshold is half of its own
    assert labels(EventConfig(low_threshold=0.25), own) == [(1, 1.0)]
    assert labels(EventConfig(low_threshold=0.4), own) == [(1, 1.0)]  # at most the high one
    of_all = [(0, 1.0), (2, 3.0), (0, 3.0)]
    assert labels(EventConfig(), None) == of_all == labels(EventConfig(threshold=0.5), own)
