"""Events in frame scores: two thresholds, gaps and lengths, whatever the pieces they come in."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psla_wds.errors import ConfigError
from psla_wds.tagging.events import Event, EventConfig, EventFinder

HIGH, LOW, NONE = 0.9, 0.3, 0.0
SCORES = {"#": HIGH, "+": 0.7, "-": LOW, ".": NONE}


def find(text: str, config: EventConfig, *, pieces: int = 1000, cell_s: float = 1.0) -> list[Event]:
    """Events of one class; each character of the text is a cell."""
    scores = np.array([[SCORES[character]] for character in text], np.float32)
    finder = EventFinder(config, cell_s)
    found = []
    for start in range(0, len(scores), pieces):
        found += finder.add(scores[start : start + pieces])
    return sorted(found + finder.finish(len(text) * cell_s), key=lambda e: (e.start_s, e.label))


def spans(text: str, **settings: float) -> list[tuple[float, float]]:
    config = EventConfig(threshold=0.5, low_threshold=0.2, **settings)
    return [(event.start_s, event.end_s) for event in find(text, config)]


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
        ("", {}, []),
    ],
)
def test_events_of_a_row_of_scores(text: str, settings: dict, expected: list):
    assert spans(text, **settings) == expected


@pytest.mark.parametrize("text", [".-#.+-", ".-+.#-", ".-+#.-"])
def test_an_event_has_the_highest_of_its_scores(text: str):
    event, *_ = find(text, EventConfig(threshold=0.5, low_threshold=0.2, max_gap_s=1.0))
    assert event.start_s == 1.0 and event.label == 0
    assert event.score == pytest.approx(HIGH)


def test_a_score_that_is_a_threshold_reaches_it():
    config = EventConfig(threshold=SCORES["+"], low_threshold=SCORES["-"])
    (event,) = find(".-+-.", config)
    assert (event.start_s, event.end_s) == (1, 4)


def test_an_event_that_reaches_the_last_frame_ends_with_the_recording():
    finder = EventFinder(EventConfig(), 1.0)
    finder.add(np.array([[HIGH], [HIGH]], np.float32))
    (event,) = finder.finish(1.7)
    assert (event.start_s, event.end_s) == (0, 1.7)


def test_classes_do_not_meet():
    finder = EventFinder(EventConfig(max_gap_s=10.0), 0.5)
    scores = np.array([[0.9, 0.0], [0.0, 0.9]], np.float32)
    found = finder.add(scores) + finder.finish(1.0)
    assert [(e.label, e.start_s, e.end_s) for e in found] == [(0, 0.0, 0.5), (1, 0.5, 1.0)]


def by_definition(text: str, max_gap: int, min_cells: int) -> list[tuple[float, float]]:
    """Runs above the low threshold with a high cell, then gaps, then lengths: one after another."""
    runs: list[list[int]] = []
    start = None
    for cell, character in enumerate([*text, "."]):
        if character != "." and start is None:
            start = cell
        if character == "." and start is not None:
            if "#" in text[start:cell]:
                runs.append([start, cell])
            start = None
    joined: list[list[int]] = []
    for run in runs:
        if joined and run[0] - joined[-1][1] <= max_gap:
            joined[-1][1] = run[1]
        else:
            joined.append(run)
    return [(float(a), float(b)) for a, b in joined if b - a >= min_cells]


@given(st.text("#-.", max_size=40), st.integers(0, 4), st.integers(0, 4), st.integers(1, 41))
def test_pieces_change_nothing(text: str, max_gap: int, min_cells: int, pieces: int):
    config = EventConfig(
        threshold=0.5, low_threshold=0.2, max_gap_s=float(max_gap), min_event_s=float(min_cells)
    )
    found = find(text, config, pieces=pieces)
    assert [(e.start_s, e.end_s) for e in found] == by_definition(text, max_gap, min_cells)


def test_an_event_is_told_as_soon_as_none_can_join_it():
    finder = EventFinder(EventConfig(threshold=0.5, low_threshold=0.2, max_gap_s=1.0), 1.0)
    rows = [np.array([[SCORES[c]]], np.float32) for c in "#.."]
    assert [len(finder.add(row)) for row in rows] == [0, 0, 1]


@pytest.mark.parametrize(
    "settings",
    [
        {"threshold": 0.0},
        {"threshold": float("nan")},
        {"threshold": 0.3, "low_threshold": 0.4},
        {"low_threshold": 0.0},
        {"min_event_s": -1.0},
        {"max_gap_s": float("inf")},
    ],
)
def test_thresholds_that_make_no_sense_are_refused(settings: dict):
    with pytest.raises(ConfigError):
        EventConfig(**settings)
