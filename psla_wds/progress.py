"""Progress on stderr, and the number that this project is about: time spent waiting for data."""

import sys
import time
from array import array
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar
from weakref import WeakSet

import numpy as np
from tqdm import tqdm

T = TypeVar("T")

TERMINAL_INTERVAL_S, LOG_INTERVAL_S = 0.2, 60.0
"""Time between updates of a bar on a terminal, and between its lines elsewhere."""

UP = "\x1b[A"
"""Code by which a terminal moves up a line: tqdm writes it after a second bar."""
AUDIO_S = " s of audio"
"""Unit of a bar over recordings."""


def progress_bar(
    items: Iterable[T] | None = None,
    *,
    desc: str,
    total: int | None = None,
    unit: str = "clip",
    disable: bool = False,
) -> tqdm:
    """A bar on stderr; if that is not a terminal, a line at the start, every minute and the end."""
    on_terminal = sys.stderr.isatty()
    interval_s = TERMINAL_INTERVAL_S if on_terminal else LOG_INTERVAL_S
    bar = tqdm(
        items,
        desc=desc,
        total=total,
        disable=disable,
        unit=unit,
        unit_scale=unit in ("clip", AUDIO_S),  # counted in thousands
        mininterval=interval_s,
        maxinterval=max(interval_s, 10.0),
        dynamic_ncols=True,
        file=sys.stderr if on_terminal else _Lines(),
    )
    _BARS.add(bar)
    return bar


_BARS = WeakSet[tqdm]()


def close_bars() -> None:
    """Let every bar draw itself for the last time: one that an error left open would do so later,
    below the message."""
    for bar in list(_BARS):
        bar.close()


class _Lines:
    """Writes lines to stderr instead of drawing over the previous line."""

    def write(self, text: str) -> None:
        line = text.replace(UP, "").strip()
        if line:
            sys.stderr.write(line + "\n")

    def flush(self) -> None:
        sys.stderr.flush()


WARMUP_BATCHES = 10
"""First batches of a run, which wait for the pipeline to fill; percentiles leave them out."""


class DataTimer(Generic[T]):
    """Iterates over a loader and measures the time that its `next` takes.

    On a GPU that is how long the loop waited, and an upper bound of how long the GPU was idle.
    """

    def __init__(self, batches: Iterator[T]) -> None:
        self._batches = batches
        self._num_batches = 0
        self._waits_s = array("d")
        self.waited_s = 0.0

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        asked = time.perf_counter()
        batch = next(self._batches)
        wait_s = time.perf_counter() - asked
        self.waited_s += wait_s
        self._num_batches += 1
        if self._num_batches > WARMUP_BATCHES:
            self._waits_s.append(wait_s)
        return batch

    def take_percentiles(self) -> dict[str, float]:
        """Percentiles of the waits for a batch since the last call; empty if there was none."""
        waits_s, self._waits_s = self._waits_s, array("d")
        if not waits_s:
            return {}
        quantiles = np.quantile(waits_s, [0.5, 0.95, 0.99]) * 1000
        return {
            f"data_wait_ms_p{p}": float(q) for p, q in zip((50, 95, 99), quantiles, strict=True)
        }


class Interval:
    """A stretch of a loop: its duration, clips, and share of waiting for data."""

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
    def waited_s(self) -> float:
        """Seconds spent waiting for data."""
        return self._timer.waited_s - self._waited_before_s

    @property
    def data_wait(self) -> float:
        """Share of the time spent waiting for data, from 0 to 1."""
        return self.waited_s / max(self.elapsed_s, 1e-9)
