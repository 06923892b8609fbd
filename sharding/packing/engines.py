"""Engines that run the tasks of a build: processes of this machine, or a Dask cluster.

An engine decides who makes a shard and when, never its content.
"""

import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from ctypes import c_int64
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Any

from pebble import ProcessExpired, ProcessPool

from psla_wds.errors import ShardError
from sharding.packing.shard import ShardResult, ShardTask, pack_shard

START_WAIT_S = 5.0
"""Longest wait in seconds for workers still starting when the work is done."""
MAX_TRIES = 3
"""Tries of a shard whose worker dies, for example for lack of memory."""
FATAL_DEATHS = 2
"""Deaths of workers at one clip after which the clip is refused."""


def num_cores() -> int:
    return len(os.sched_getaffinity(0))


@dataclass
class _Work:
    """A task, and what its workers came to."""

    task: ShardTask
    tries: int = 1
    deaths: Counter[str] = field(default_factory=Counter)
    """Number of workers that died, by the clip that they decoded."""

    def try_again(self, row: int) -> None:
        """Count the death of a worker at this clip of the task; `ShardError` after too many."""
        clip_id = self.task.clips[row].clip_id if row >= 0 else ""
        self.deaths[clip_id] += 1
        if clip_id and self.deaths[clip_id] >= FATAL_DEATHS:
            self.task = replace(self.task, fatal=self.task.fatal | {clip_id})
            self.tries = 1
        elif self.tries == MAX_TRIES:
            raise worker_died(self.task)
        else:
            self.tries += 1


def run_local(tasks: Sequence[ShardTask], workers: int) -> Iterator[ShardResult]:
    """Run the tasks on processes of this machine; yields each result when its shard is finished."""
    context = multiprocessing.get_context("spawn")
    workers = min(workers, len(tasks))
    started, rows = context.Value(c_int64, 0), context.RawArray(c_int64, 2 * workers)
    pool = ProcessPool(
        workers, initializer=_start_worker, initargs=[started, rows], context=context
    )
    waiting: Iterator[_Work] = map(_Work, tasks)
    free, running = list(range(len(rows))), dict[Future[Any], tuple[_Work, int]]()
    try:
        while True:
            for work in islice(waiting, len(free)):
                place = free.pop()
                rows[place] = -1
                running[pool.submit(_pack, None, work.task, place)] = (work, place)
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                work, place = running.pop(future)
                free.append(place)
                if not isinstance(future.exception(), ProcessExpired):
                    yield future.result()
                else:
                    work.try_again(rows[place])
                    waiting = chain([work], waiting)
    finally:
        # pebble removes what starting workers need before it stops them, and they would complain.
        _wait_for_start(started, workers)
        pool.stop()
        pool.join()


_rows: Any = None
"""In a worker: for each running task, the clip that is being decoded."""


def _start_worker(started: Any, rows: Any) -> None:
    global _rows
    _rows = rows
    # webdataset writes tars without torch, but imports it if it can, which takes a worker 1.5 s.
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    with started.get_lock():
        started.value += 1


def _pack(task: ShardTask, place: int) -> ShardResult:
    return pack_shard(task, lambda row: _rows.__setitem__(place, row))


def _wait_for_start(started: Any, workers: int) -> None:
    end = time.monotonic() + START_WAIT_S
    while started.value < workers and time.monotonic() < end:
        time.sleep(0.02)


def worker_died(task: ShardTask) -> ShardError:
    return ShardError(
        f"the worker process died {MAX_TRIES} times while it made this shard",
        where=task.tar,
        fix="look for a lack of memory; then run again",
    )
