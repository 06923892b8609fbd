"""Do the tasks of a build: by processes of this machine, or by a Dask cluster.

An engine decides who makes a shard and when, and never what is in it.
"""

import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from ctypes import c_int64
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from pebble import ProcessExpired, ProcessPool

from psla_wds.errors import ShardError
from sharding.packing.shard import ShardResult, ShardTask, pack_shard

START_WAIT_S = 5.0
"""Longest wait for workers that are still starting when the work is done."""
MAX_TRIES = 3
"""A worker that dies, for want of memory say, takes only its shard with it, to be tried again."""


@dataclass(frozen=True)
class Update:
    """Progress of an engine."""

    packed: int
    """Clips packed since it began."""
    rejected: int
    results: list[ShardResult]
    """Results of the shards that were finished since the update before."""


class ClipCounter:
    """Clips that the workers have packed and refused so far, and workers that have started."""

    def __init__(self, context: multiprocessing.context.BaseContext) -> None:
        self.started = context.Value(c_int64, 0)
        self.packed = context.Value(c_int64, 0)
        self.rejected = context.Value(c_int64, 0)

    def __call__(self, packed: bool) -> None:
        self._count(self.packed if packed else self.rejected)

    def start(self) -> None:
        self._count(self.started)

    def wait_for_start(self, workers: int) -> None:
        end = time.monotonic() + START_WAIT_S
        while self.started.value < workers and time.monotonic() < end:
            time.sleep(0.02)

    @staticmethod
    def _count(counter: Any) -> None:
        with counter.get_lock():
            counter.value += 1


_counter: ClipCounter | None = None
"""Counter of a worker process, which receives synchronised values only when it starts."""


def _start_worker(counter: ClipCounter) -> None:
    global _counter
    # webdataset writes tars without torch, but loads it if it can: 1.5 s of every worker.
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    _counter = counter
    counter.start()


def _work(task: ShardTask) -> ShardResult:
    assert _counter is not None
    return pack_shard(task, _counter)


def num_cores() -> int:
    return len(os.sched_getaffinity(0))


def run_local(tasks: Sequence[ShardTask], workers: int) -> Iterator[Update]:
    """Do the tasks on processes of this machine; yields a few times a second."""
    context = multiprocessing.get_context("spawn")
    counter = ClipCounter(context)
    workers = min(workers, len(tasks))
    pool = ProcessPool(workers, initializer=_start_worker, initargs=[counter], context=context)
    waiting: Iterator[tuple[ShardTask, int]] = ((task, 1) for task in tasks)
    running: dict[Future[Any], tuple[ShardTask, int]] = {}
    try:
        while True:
            for task, number_of_try in islice(waiting, 2 * workers - len(running)):
                running[pool.submit(_work, None, task)] = (task, number_of_try)
            if not running:
                return
            done, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
            results = []
            for future in done:
                task, number_of_try = running.pop(future)
                if isinstance(future.exception(), ProcessExpired):
                    if number_of_try == MAX_TRIES:
                        raise worker_died(task)
                    waiting = chain([(task, number_of_try + 1)], waiting)
                else:
                    results.append(future.result())
            yield Update(counter.packed.value, counter.rejected.value, results)
    finally:
        # pebble takes away what workers need to start before it stops them, and they complain.
        counter.wait_for_start(workers)
        pool.stop()
        pool.join()


def worker_died(task: ShardTask) -> ShardError:
    return ShardError(
        f"the worker process died {MAX_TRIES} times while it made this shard",
        where=task.tar,
        fix="look for a lack of memory or a file that crashes the decoder; then run again",
    )
