"""How many threads read and decode, how far ahead, unless that is set; and what bounds a run."""

import os
import time
from collections.abc import Callable
from typing import Literal

Bound = Literal["step", "storage", "decoding"]

FIRST_THREADS, MOST_THREADS = 4, 64
FIRST_DEPTH, MOST_DEPTH = 4, 64
"""Batches that are read ahead; the reader's memory bounds them too."""
DATA_BOUND = 0.05
"""Share of waiting for data from which a run could be faster with other settings."""
BATCHES_PER_LOOK = 16
LATE = 0.02
"""Share of waiting for reads above which they are too slow."""
WORTHWHILE = 1.05
"""What a widening must have brought, in clips per second, for another one to be tried."""


def cores_per_process() -> int:
    """The cores that this process may use, shared with the others that torchrun began here."""
    return max(len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)), 1)


class ReadTuner:
    """Widens reading while the run waits for storage, as long as that makes it faster.

    Every few batches the time that went to waiting for reads is looked at. If it was too much,
    threads and depth double: an answer that takes long costs nothing while others are under way.
    If the last doubling brought nothing, storage gives what it can, and it was the last.
    """

    def __init__(
        self,
        *,
        threads: int | None,
        depth: int | None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`threads` and `depth` stay as they are where they are given."""
        self.threads, self.depth = threads or FIRST_THREADS, depth or FIRST_DEPTH
        self._tunes_threads, self._tunes_depth = threads is None, depth is None
        self._clock = clock
        self._rate_before = 0.0  # the last widening
        self._is_done = not self.tunes
        self._batches_to_skip = 2 * self.depth  # until what was read ahead at first is used up
        self._begin_look()

    @property
    def tunes(self) -> bool:
        """Whether there is anything left to it."""
        return self._tunes_threads or self._tunes_depth

    def note(self, *, num_clips: int, waited_s: float) -> None:
        """Take in a batch that is there: its clips, and how long its reads were waited for."""
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
        if rate < WORTHWHILE * self._rate_before:
            self._is_done = True
            return
        self._rate_before = rate
        self._widen()

    def _widen(self) -> None:
        if self._tunes_threads:
            self.threads = min(2 * self.threads, MOST_THREADS)
        if self._tunes_depth:
            self.depth = min(2 * self.depth, MOST_DEPTH)
        self._batches_to_skip = self.depth


def bound_by(data_wait: float, storage_wait: float) -> Bound:
    """What keeps a stretch of training from being faster, by the shares of its time that went to
    waiting for data, and for reads alone."""
    if data_wait < DATA_BOUND:
        return "step"
    return "storage" if storage_wait > data_wait / 2 else "decoding"


def verdict(
    *,
    waited_s: float,
    storage_wait_s: float,
    elapsed_s: float,
    tuner: ReadTuner,
    decode_threads: int,
) -> str:
    """One line: what a stretch of training was bounded by, and what would help."""
    share = waited_s / max(elapsed_s, 1e-9)
    bound = bound_by(share, storage_wait_s / max(elapsed_s, 1e-9))
    if bound == "step":
        return f"bounded by the step: {share:.1%} of the time went to waiting for data"
    if bound == "storage":
        return (
            f"bounded by storage: {share:.0%} of the time went to waiting for data, most of it for "
            f"reads, by {tuner.threads} threads up to {tuner.depth} batches ahead; {_advice(tuner)}"
        )
    return (
        f"bounded by decoding: {share:.0%} of the time went to waiting for data, most of it for "
        f"decoding in {decode_threads} threads; this process may use {cores_per_process()} cores "
        "(--reader.decode-threads), and shards built with --codec wav decode faster"
    )


def _advice(tuner: ReadTuner) -> str:
    if tuner.tunes:
        return "--stage DIR copies the shards to a faster disk of this node"
    return "without --reader.threads and --reader.prefetch-batches they are found by trying"
