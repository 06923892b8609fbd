"""Progress on stderr, and the number this project is about: time spent waiting for data."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from tqdm import tqdm

T = TypeVar("T")

LOG_FILE_INTERVAL_S = 30.0
"""Between lines of progress where stderr is no terminal."""


def clip_bar(
    clips: Iterable[T] | None = None, *, desc: str, total: int | None = None, disable: bool = False
) -> tqdm:
    """A bar that counts clips; off a terminal it writes a line every half minute."""
    interval_s = 0.2 if sys.stderr.isatty() else LOG_FILE_INTERVAL_S
    return tqdm(
        clips,
        desc=desc,
        total=total,
        disable=disable,
        unit="clip",
        unit_scale=True,
        mininterval=interval_s,
        maxinterval=max(interval_s, 10.0),
        dynamic_ncols=True,
    )


class DataTimer(Generic[T]):
    """Iterates over a loader and adds up the time that its `next` took, and nothing else.

    On a GPU this is what the loop waited for, and an upper bound of what the GPU idled.
    """

    def __init__(self, batches: Iterator[T]) -> None:
        self._batches = batches
        self.waited_s = 0.0

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        asked = time.perf_counter()
        batch = next(self._batches)
        self.waited_s += time.perf_counter() - asked
        return batch


class Interval:
    """A stretch of a loop: its length, clips, and share of waiting for data."""

    def __init__(self, timer: DataTimer) -> None:
        self._timer = timer
        self._waited_before_s = timer.waited_s
        self._started = time.perf_counter()
        self.clips = 0

    @property
    def elapsed_s(self) -> float:
        return time.perf_counter() - self._started

    @property
    def clips_per_s(self) -> float:
        return self.clips / max(self.elapsed_s, 1e-9)

    @property
    def data_wait(self) -> float:
        """From 0 to 1."""
        return (self._timer.waited_s - self._waited_before_s) / max(self.elapsed_s, 1e-9)
