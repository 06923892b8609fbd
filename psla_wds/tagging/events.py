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
    """Highest score of its frames."""


@dataclass
class _Run:
    """Frames of a class, from `start` to before `end`, and their highest score."""

    start: int
    end: int
    score: float


def in_order(events: Iterable[Event]) -> list[Event]:
    """Events by start, then by class."""
    return sorted(events, key=lambda event: (event.start_s, event.label))


class EventFinder:
    """Finds the events of one recording, given its frame scores a piece at a time.

    An event is a run of frames that reach the low threshold, at least one of which reaches the high
    one. Then gaps are closed, and then short events left out. Any pieces give the same events.
    """

    def __init__(
        self,
        config: EventConfig,
        frame_s: float,
        thresholds: Float32[np.ndarray, " classes"] | None = None,
    ) -> None:
        """Args:
        frame_s: seconds of a frame.
        thresholds: high threshold of each class, which holds unless `config.threshold` is set.
        """
        self._low, self._high = config.limits(thresholds)
        self._min_event_s, self._frame_s = config.min_event_s, frame_s
        self._max_gap = int(config.max_gap_s / frame_s + 1e-6)
        self._num_frames = 0
        self._open: dict[int, _Run] = {}
        """Runs that reach the last frame so far, by class."""
        self._found: dict[int, _Run] = {}
        """The last event of a class, while another one may follow within the gap."""

    def add(self, frame_scores: Float32[np.ndarray, "frames classes"]) -> list[Event]:
        """The events that are known to have ended by now."""
        events = []
        for scores in frame_scores:
            above = np.flatnonzero(scores >= self._low).tolist()
            for label in self._open.keys() - set(above):
                self._close(label)
            for label in above:
                run = self._open.setdefault(label, _Run(self._num_frames, 0, 0.0))
                run.end, run.score = self._num_frames + 1, max(run.score, float(scores[label]))
            self._num_frames += 1
            for label, run in list(self._found.items()):
                following = self._open.get(label)
                next_start = following.start if following else self._num_frames
                if next_start - run.end > self._max_gap:
                    events += self._event(label, self._found.pop(label), run.end * self._frame_s)
        return events

    def finish(self, duration_s: float) -> list[Event]:
        """The other events; one that reaches the last frame ends with the recording."""
        for label in list(self._open):
            self._close(label)
        events = []
        for label, run in sorted(self._found.items(), key=lambda found: found[1].end):
            is_last = run.end == self._num_frames
            events += self._event(label, run, duration_s if is_last else run.end * self._frame_s)
        self._found = {}
        return events

    def _close(self, label: int) -> None:
        """End a run, and join it to the event before it if that is still in `_found`."""
        run = self._open.pop(label)
        if run.score >= self._high[label if len(self._high) > 1 else 0]:
            before = self._found.get(label, run)
            self._found[label] = _Run(before.start, run.end, max(before.score, run.score))

    def _event(self, label: int, run: _Run, end_s: float) -> list[Event]:
        """The event, unless it is too short."""
        start_s = run.start * self._frame_s
        long_enough = end_s - start_s >= self._min_event_s - 1e-9
        return [Event(start_s, end_s, label, run.score)] if long_enough else []
