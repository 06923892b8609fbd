"""Automatic number of reader threads and of batches read ahead; and what bounded a run."""

import os
import time
from collections.abc import Callable
from typing import Literal

Bound = Literal["step", "storage", "decoding"]

FIRST_THREADS, MOST_THREADS = 4, 64
FIRST_DEPTH, MOST_DEPTH = 4, 64
"""Batches that are read ahead; the reader's memory bounds them too."""
DATA_BOUND = 0.05
"""Share of time spent waiting for data above which other settings could make a run faster."""
BATCHES_PER_LOOK = 16
LATE = 0.02
"""Share of time spent waiting for reads above which reading widens."""
WORTHWHILE = 1.05
"""Speed-up in clips per second that a widening must bring for another one to be tried."""


def cores_per_process() -> int:
    """Cores for this process: its own, divided among the processes that torchrun started here."""
    return max(len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)), 1)


class ReadTuner:
    """Widens reading while the run waits for storage, as long as that makes it faster.

    Every few batches it looks at the time spent waiting for reads. If that was too much, threads
    and depth double: a slow answer costs nothing while others are under way. A doubling without
    effect is the last one: storage is then at its limit.
    """

    def __init__(
        self,
        *,
        threads: int | None,
        depth: int | None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`threads` and `depth`, if given, stay as they are."""
        self.threads, self.depth = threads or FIRST_THREADS, depth or FIRST_DEPTH
        self._tunes_threads, self._tunes_depth = threads is None, depth is None
        self._clock = clock
        self._rate_before = 0.0  # the last widening
        self._is_done = not self.tunes
        self._batches_to_skip = 2 * self.depth  # until what was read ahead at first is used up
        self._begin_look()

    @property
    def tunes(self) -> bool:
        """Whether threads or depth are tuned."""
        return self._tunes_threads or self._tunes_depth

    def note(self, *, num_clips: int, waited_s: float) -> None:
        """Count a batch that has arrived: its clips, and how long its reads were waited for."""
        if self._batches_to_skip:
            self._batches_to_skip -= 1
            self._begin_look()
            return
        self._batches += 1
        self._clips += num_clips
        self._waited_s += waited_s
        if self._batches == BATCHES_PER_LOOK:
            self._look()
            self._begin_look()

    def _begin_look(self) -> None:
        self._started = self._clock()
        self._batches, self._clips, self._waited_s = 0, 0, 0.0

    def _look(self) -> None:
        elapsed_s = max(self._clock() - self._started, 1e-9)
        if self._is_done or self._waited_s < LATE * elapsed_s:
            return
        rate = self._clips / elapsed_s
        self._is_done = rate < WORTHWHILE * self._rate_before
        if self._is_done:
            return
        self._rate_before = rate
        if self._tunes_threads:
            self.threads = min(2 * self.threads, MOST_THREADS)
        if self._tunes_depth:
            self.depth = min(2 * self.depth, MOST_DEPTH)
        self._batches_to_skip = self.depth


def bound_by(data_wait: float, storage_wait: float) -> Bound:
    """What bounds a stretch of training, by the shares of its time spent waiting for data, and for
    reads alone."""
    if data_wait < DATA_BOUND:
        return "step"
    return "storage" if storage_wait > data_wait / 2 else "decoding"


def verdict(
    data_wait: float,
    storage_wait: float,
    *,
    tuner: ReadTuner | None = None,
    decode_threads: int | None = None,
) -> str:
    """One line: what bounded a stretch of training, and what would help.

    Args:
        data_wait, storage_wait: shares of its time, as for `bound_by`.
        tuner, decode_threads: how it read and decoded, if known.
    """
    bound = bound_by(data_wait, storage_wait)
    said = f"bounded by {bound if bound != 'step' else 'the step'}: {data_wait:.1%} of the time "
    said += "went to waiting for data"
    if bound == "storage":
        said += ", most of it for reads"
        if tuner:
            said += f" by {tuner.threads} threads up to {tuner.depth} batches ahead"
        if tuner and not tuner.tunes:
            return f"{said}; without --reader.threads and --reader.prefetch-batches they are tuned"
        return f"{said}; --stage DIR copies the shards to a faster disk of this node"
    if bound == "decoding":
        said += ", most of it for decoding"
        if decode_threads:
            said += f" in {decode_threads} threads, where {cores_per_process()} cores may be used"
        said += "; raise --reader.decode-threads up to the cores, or build shards with --codec wav"
    return said
