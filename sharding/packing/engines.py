"""Engines that run the tasks of a build: processes of this machine, or a Dask cluster.

An engine decides who makes a shard and when, never its content.
"""

import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from ctypes import c_int64
from itertools import chain, islice
from typing import Any

from pebble import ProcessExpired, ProcessPool

from psla_wds.errors import ShardError
from sharding.packing.shard import ShardResult, ShardTask, pack_shard

START_WAIT_S = 5.0
"""Longest wait in seconds for workers still starting when the work is done."""
MAX_TRIES = 3
"""Tries of a shard whose worker dies, for example for lack of memory."""


def num_cores() -> int:
    return len(os.sched_getaffinity(0))


def run_local(tasks: Sequence[ShardTask], workers: int) -> Iterator[ShardResult]:
    """Run the tasks on processes of this machine; yields each result when its shard is finished."""
    context = multiprocessing.get_context("spawn")
    started = context.Value(c_int64, 0)
    workers = min(workers, len(tasks))
    pool = ProcessPool(workers, initializer=_start_worker, initargs=[started], context=context)
    waiting: Iterator[tuple[ShardTask, int]] = ((task, 1) for task in tasks)
    running: dict[Future[Any], tuple[ShardTask, int]] = {}
    try:
        while True:
            for task, number_of_try in islice(waiting, 2 * workers - len(running)):
                running[pool.submit(pack_shard, None, task)] = (task, number_of_try)
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                task, number_of_try = running.pop(future)
                if not isinstance(future.exception(), ProcessExpired):
                    yield future.result()
                elif number_of_try == MAX_TRIES:
                    raise worker_died(task)
                else:
                    waiting = chain([(task, number_of_try + 1)], waiting)
    finally:
        # pebble removes what starting workers need before it stops them, and they would complain.
        _wait_for_start(started, workers)
        pool.stop()
        pool.join()


def _start_worker(started: Any) -> None:
    # webdataset writes tars without torch, but imports it if it can, which takes a worker 1.5 s.
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    with started.get_lock():
        started.value += 1


def _wait_for_start(started: Any, workers: int) -> None:
    end = time.monotonic() + START_WAIT_S
    while started.value < workers and time.monotonic() < end:
        time.sleep(0.02)


def worker_died(task: ShardTask) -> ShardError:
    return ShardError(
        f"the worker process died {MAX_TRIES} times while it made this shard",
        where=task.tar,
        fix="look for a lack of memory or a file that crashes the decoder; then run again",
    )
