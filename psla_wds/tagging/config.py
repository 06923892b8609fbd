"""Settings of tagging, without torch, so that --help is quick."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from jaxtyping import Float32

from psla_wds.config import Within, check_ranges
from psla_wds.errors import ConfigError

DEFAULT_THRESHOLD = 0.5
"""Frame score of events, for a model without thresholds."""


@dataclass(frozen=True, kw_only=True)
class WindowConfig:
    """Windows that a recording is cut into."""

    window_s: Annotated[float | None, Within(0, 86_400, without=(0,))] = None
    """Length of a window in seconds. Default and maximum: the length that the model was trained on
    (10.6 in the paper's recipes, since AudioSet's clips of 10 s are padded)."""
    overlap: Annotated[float, Within(0, 1, without=(1,))] = 0.5
    """Share of a window that the next one covers too, so that no sound is at an edge in both."""

    def __post_init__(self) -> None:
        check_ranges(self, "windows")


@dataclass(frozen=True, kw_only=True)
class EventConfig:
    """Thresholds on frame scores, and lengths, that define an event."""

    threshold: Annotated[float | None, Within(0, 1e6, without=(0,))] = None
    """Frame score that an event reaches in at least one frame. Default: the thresholds per class
    of the model, or 0.5 if it has none."""
    low_threshold: Annotated[float | None, Within(0, 1e6, without=(0,))] = None
    """Frame score that an event has in all its frames. Default: half of the threshold."""
    min_event_s: Annotated[float, Within(0, 1e6)] = 0.0
    """Shortest event in seconds; shorter ones are left out."""
    max_gap_s: Annotated[float, Within(0, 1e6)] = 0.0
    """Longest gap in seconds between two events of a class that are joined into one."""

    def __post_init__(self) -> None:
        check_ranges(self, "events")
        high = DEFAULT_THRESHOLD if self.threshold is None else self.threshold
        if self.low_threshold is not None and self.low_threshold > high:
            raise ConfigError(
                f"low_threshold={self.low_threshold:g} is above threshold={high:g}",
                where="events",
                fix="set --events.threshold 0.5 and --events.low-threshold 0.25",
            )

    def limits(
        self, thresholds: Float32[np.ndarray, " classes"] | None
    ) -> tuple[Float32[np.ndarray, " classes_or_1"], Float32[np.ndarray, " classes_or_1"]]:
        """Low and high threshold of each class, or one of each for all of them.

        Args:
            thresholds: those of the model, which hold unless `threshold` is set.
        """
        # In float32, as scores are: 0.7 in float32 is less than 0.7.
        given = thresholds if self.threshold is None else None
        high = np.array([self.threshold or DEFAULT_THRESHOLD], np.float32)
        high = high if given is None else given
        if self.low_threshold is None:
            return high / 2, high
        return np.minimum(high, np.float32(self.low_threshold)), high
