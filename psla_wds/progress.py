"""Progress on stderr, and the number this project is about: time spent waiting for data."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

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


class DataTimer:
    """Iterates over a loader; tells which share of the time went to waiting for it.

    Only the loader's `next` is timed. On a GPU this is what the loop waited for, and an upper
    bound of what the GPU idled.
    """

    def __init__(self, batches: Iterator[T]) -> None:
        self._batches = batches
        self.restart()

    def restart(self) -> None:
        """Begin a new interval."""
        self._started = time.perf_counter()
        self.waited_s = 0.0

    def __next__(self) -> T:
        asked = time.perf_counter()
        batch = next(self._batches)
        self.waited_s += time.perf_counter() - asked
        return batch

    @property
    def elapsed_s(self) -> float:
        return time.perf_counter() - self._started

    @property
    def data_wait(self) -> float:
        """Share of the interval spent waiting, from 0 to 1."""
        return self.waited_s / max(self.elapsed_s, 1e-9)
