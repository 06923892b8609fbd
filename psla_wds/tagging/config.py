"""Settings of tagging, without torch, so that --help is quick."""

from dataclasses import dataclass
from typing import Annotated

from psla_wds.config import Within, check_ranges
from psla_wds.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class WindowConfig:
    """Windows that a recording is cut into."""

    window_s: Annotated[float | None, Within(0, without=(0,))] = None
    """Length of a window in seconds. Default and maximum: the length that the model was trained on
    (10.6 in the paper's recipes, since AudioSet's clips of 10 s are padded)."""
    overlap: Annotated[float, Within(0, 1, without=(1,))] = 0.5
    """Share of a window that the next one covers too, so that no sound is at an edge in both."""

    def __post_init__(self) -> None:
        check_ranges(self, "windows")


@dataclass(frozen=True, kw_only=True)
class EventConfig:
    """Thresholds on frame scores, and lengths, that define an event."""

    threshold: Annotated[float, Within(0, without=(0,))] = 0.5
    """Frame score that an event reaches in at least one frame."""
    low_threshold: Annotated[float | None, Within(0, without=(0,))] = None
    """Frame score that an event has in all its frames. Default: half of the threshold."""
    min_event_s: Annotated[float, Within(0)] = 0.0
    """Shortest event in seconds; shorter ones are left out."""
    max_gap_s: Annotated[float, Within(0)] = 0.0
    """Longest gap in seconds between two events of a class that are joined into one."""

    def __post_init__(self) -> None:
        check_ranges(self, "events")
        if self.low > self.threshold:
            raise ConfigError(
                f"low_threshold={self.low:g} is above threshold={self.threshold:g}",
                where="events",
                fix="set --events.threshold 0.5 and --events.low-threshold 0.25",
            )

    @property
    def low(self) -> float:
        """The low threshold."""
        return self.threshold / 2 if self.low_threshold is None else self.low_threshold
