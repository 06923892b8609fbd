"""Events: when a sound begins and ends, by two thresholds on frame scores."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from psla_wds.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class EventConfig:
    """When frame scores are an event."""

    threshold: float = 0.5
    """Frame score that an event reaches at least once."""
    low_threshold: float | None = None
    """Frame score that it has all along; half of the threshold unless set."""
    min_event_s: float = 0.0
    """Events that are shorter are left out."""
    max_gap_s: float = 0.0
    """Events of a class with a shorter gap between them, or one as long, are one."""

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.threshold < np.inf:
            raise ConfigError(
                f"low_threshold={self.low:g} is not above 0, up to threshold={self.threshold:g}",
                where="events",
                fix="set --events.threshold 0.5 and --events.low-threshold 0.25",
            )
        for name in ("min_event_s", "max_gap_s"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ConfigError(
                    f"{name}={getattr(self, name):g} is no length",
                    where="events",
                    fix=f"set --events.{name.replace('_', '-')} to 0 or more",
                )

    @property
    def low(self) -> float:
        return self.threshold / 2 if self.low_threshold is None else self.low_threshold


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
    """Cells, from `start` to before `end`, of a class; `score` is the highest."""

    start: int
    end: int
    score: float


class EventFinder:
    """Finds the events of one recording, given its frame scores a piece at a time.

    An event is as many cells in a row as reach the low threshold, if one of them reaches the high
    one; then gaps are closed, then short events left out. How the pieces were cut changes nothing.
    """

    def __init__(self, config: EventConfig, cell_s: float) -> None:
        self._config = config
        # As scores are: 0.7 in float32 is less than 0.7.
        self._low, self._high = float(np.float32(config.low)), float(np.float32(config.threshold))
        self._cell_s = cell_s
        self._max_gap = int(config.max_gap_s / cell_s + 1e-6)
        self._cell = 0
        self._open: dict[int, _Run] = {}
        """Runs above the low threshold, by class, which reach up to the cell that comes next."""
        self._found: dict[int, _Run] = {}
        """The last run of a class that reached the threshold, while a next one may be near."""

    def add(self, frame_scores: Float32[np.ndarray, "cells classes"]) -> list[Event]:
        """The events that are known to have ended by now."""
        events = []
        for scores in frame_scores:
            above = np.flatnonzero(scores >= self._low)
            events += self._step(dict(zip(above.tolist(), scores[above].tolist(), strict=True)))
        return events

    def finish(self, duration_s: float) -> list[Event]:
        """The other events; one that reaches the last cell ends with the recording."""
        for label in list(self._open):
            self._close(label)
        runs, self._found = self._found, {}
        events = [self._event(label, run, duration_s) for label, run in runs.items()]
        return [event for event in events if event]

    def _step(self, above: dict[int, float]) -> list[Event]:
        for label in self._open.keys() - above.keys():
            self._close(label)
        for label, score in above.items():
            run = self._open.setdefault(label, _Run(self._cell, self._cell, score))
            run.end, run.score = self._cell + 1, max(run.score, score)
        self._cell += 1
        return self._settled()

    def _close(self, label: int) -> None:
        """End a run. One before it, close enough, is still there: `_settled` left it for this."""
        run = self._open.pop(label)
        if run.score < self._high:
            return
        before = self._found.get(label)
        if before:
            run = _Run(before.start, run.end, max(before.score, run.score))
        self._found[label] = run

    def _settled(self) -> list[Event]:
        """Events that no run to come can join."""
        events = []
        for label, run in list(self._found.items()):
            next_start = self._open[label].start if label in self._open else self._cell
            if next_start - run.end > self._max_gap:
                del self._found[label]
                events.append(self._event(label, run, None))
        return [event for event in events if event]

    def _event(self, label: int, run: _Run, duration_s: float | None) -> Event | None:
        start_s, end_s = run.start * self._cell_s, run.end * self._cell_s
        if duration_s is not None and run.end == self._cell:
            end_s = duration_s
        if end_s - start_s < self._config.min_event_s - 1e-9:
            return None
        return Event(start_s, end_s, label, run.score)
