"""Events: when a sound begins and ends, by two thresholds on frame scores."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from psla_wds.tagging.config import EventConfig


@dataclass(frozen=True)
class Event:
    """A sound in a recording."""

    start_s: float
    end_s: float
    label: int
    """Its class, as a position in the class list."""
    score: float
    """The highest of its frames."""


@dataclass
class _Run:
    """Frames of a class, from `start` to before `end`; `score` is the highest."""

    start: int
    end: int
    score: float


def in_order(events: Iterable[Event]) -> list[Event]:
    """Events by start, then by class."""
    return sorted(events, key=lambda event: (event.start_s, event.label))


class EventFinder:
    """Finds the events of one recording, given its frame scores a piece at a time.

    An event is as many frames in a row as reach the low threshold, if one of them reaches the high
    one; then gaps are closed, then short events left out. How the pieces were cut changes nothing.
    """

    def __init__(self, config: EventConfig, frame_s: float) -> None:
        # Thresholds in float32, as scores are: 0.7 in float32 is less than 0.7.
        self._low, self._high = float(np.float32(config.low)), float(np.float32(config.threshold))
        self._min_event_s, self._frame_s = config.min_event_s, frame_s
        self._max_gap = int(config.max_gap_s / frame_s + 1e-6)
        self._frame = 0
        self._open: dict[int, _Run] = {}
        """Runs above the low threshold, by class, which reach up to the frame that comes next."""
        self._found: dict[int, _Run] = {}
        """The last run of a class that reached the threshold, while a next one may be near."""

    def add(self, frame_scores: Float32[np.ndarray, "frames classes"]) -> list[Event]:
        """The events that are known to have ended by now."""
        events = []
        for scores in frame_scores:
            above = np.flatnonzero(scores >= self._low).tolist()
            for label in self._open.keys() - set(above):
                self._close(label)
            for label in above:
                run = self._open.setdefault(label, _Run(self._frame, self._frame, 0.0))
                run.end, run.score = self._frame + 1, max(run.score, float(scores[label]))
            self._frame += 1
            settled = {label: run for label, run in self._found.items() if self._is_settled(label)}
            for label in settled:
                del self._found[label]
            events += self._events(settled, None)
        return events

    def finish(self, duration_s: float) -> list[Event]:
        """The other events; one that reaches the last frame ends with the recording."""
        for label in list(self._open):
            self._close(label)
        found, self._found = self._found, {}
        return self._events(found, duration_s)

    def _close(self, label: int) -> None:
        """End a run. One before it that is still in `_found` is near enough to be joined."""
        run = self._open.pop(label)
        if run.score >= self._high:
            before = self._found.get(label, run)
            self._found[label] = _Run(before.start, run.end, max(before.score, run.score))

    def _is_settled(self, label: int) -> bool:
        """Whether no run to come can join the last one of this class."""
        next_start = self._open[label].start if label in self._open else self._frame
        return next_start - self._found[label].end > self._max_gap

    def _events(self, runs: dict[int, _Run], duration_s: float | None) -> list[Event]:
        events = []
        for label, run in runs.items():
            start_s, end_s = run.start * self._frame_s, run.end * self._frame_s
            if duration_s is not None and run.end == self._frame:
                end_s = duration_s
            if end_s - start_s >= self._min_event_s - 1e-9:
                events.append(Event(start_s, end_s, label, run.score))
        return events
