"""Settings of tagging. Without torch, so that a command can list them at once."""

from dataclasses import dataclass
from typing import Annotated

from psla_wds.config import Within, check_ranges
from psla_wds.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class WindowConfig:
    """Windows that a recording is cut into."""

    window_s: Annotated[float | None, Within(0, without=(0,))] = None
    """Seconds of a window. Default and maximum: what the model was trained to take (10.6 in the
    paper's recipes). AudioSet's clips have 10: the rest is padding in training."""
    overlap: Annotated[float, Within(0, 1, without=(1,))] = 0.5
    """Share of a window that the next one has as well, so that no sound is at an edge in both."""

    def __post_init__(self) -> None:
        check_ranges(self, "windows")


@dataclass(frozen=True, kw_only=True)
class EventConfig:
    """Frame scores that make an event."""

    threshold: Annotated[float, Within(0, without=(0,))] = 0.5
    """Frame score that an event reaches at least once."""
    low_threshold: Annotated[float | None, Within(0, without=(0,))] = None
    """Frame score that an event has all along. Default: half of the threshold."""
    min_event_s: Annotated[float, Within(0)] = 0.0
    """Seconds of an event; shorter ones are left out."""
    max_gap_s: Annotated[float, Within(0)] = 0.0
    """Seconds between two events of a class that are joined to one."""

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
