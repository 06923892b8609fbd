"""Run the tasks of a build on a Dask cluster that is already running.

All machines see the source and the output at the same paths or URLs. A lost worker costs the shards
it was making; other workers make them again. A shard at which several workers die is made by this
machine.
"""

import asyncio
import json
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from psla_wds.errors import ConfigError, ShardError
from psla_wds.io.atomic_files import disk_errors
from psla_wds.io.regular import CONFIG_BYTES, read_text
from psla_wds.printable import typed
from sharding.packing.engines import MAX_TRIES, run_local
from sharding.packing.shard import ShardResult, ShardTask, pack_shard

ANSWER_S = 20
"""Seconds within which a running scheduler answers."""
MIN_WAITING = 64
"""Tasks that the scheduler has at a time, or two per thread if that is more: enough to keep workers
busy and let an adaptive cluster grow, without holding the whole plan in its memory."""

logger = logging.getLogger("sharding.build")


def scheduler_address(file: Path) -> str:
    """Address in the file that `dask scheduler --scheduler-file` wrote."""
    try:
        return str(json.loads(read_text(file, max_bytes=CONFIG_BYTES))["address"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"cannot read the scheduler's address: {error}",
            where=file,
            fix=f"start it first: dask scheduler --scheduler-file {typed(file)}",
        ) from None


def run_dask(tasks: Sequence[ShardTask], address: str) -> Iterator[ShardResult]:
    """Run the tasks on the scheduler's workers; yields each result when its shard is finished."""
    with _report_loss(address), _connect(address) as client:
        if not client.nthreads():
            logger.warning("no worker has joined %s yet; waiting for one", address)
        yield from _results(client, tasks)


@contextmanager
def _report_loss(address: str) -> Iterator[None]:
    """Report the loss of the scheduler, whichever call it shows in: workers do not raise
    `OSError`."""
    try:
        yield
    except (CancelledError, OSError):
        raise ShardError(
            "the Dask scheduler was lost",
            where=address,
            fix="restart it and its workers, then run the same command again: it resumes",
        ) from None


def _results(client: Any, tasks: Sequence[ShardTask]) -> Iterator[ShardResult]:
    """Results in the order in which the shards are finished."""
    from distributed import as_completed

    waiting, running = iter(tasks), {}
    finished = as_completed(loop=client.loop)

    def start(count: int) -> None:
        for task in islice(waiting, count):
            future = client.submit(_work, task, os.getcwd(), pure=False, retries=MAX_TRIES - 1)
            running[future.key] = task
            finished.add(future)

    start(MIN_WAITING)
    for future in finished:
        yield _result(future, running.pop(future.key))
        wanted = max(MIN_WAITING, 2 * sum(client.nthreads().values()))
        # More tasks are running than wanted after workers have left.
        start(max(0, wanted - len(running)))


def _connect(address: str) -> Any:
    try:
        from distributed import Client
    except ImportError:
        raise ConfigError(
            "the package distributed is not installed",
            where="--engine dask",
            fix="python -m pip install distributed",
        ) from None
    try:
        asyncio.run(asyncio.wait_for(_identify(address), ANSWER_S))
        return Client(address, timeout=ANSWER_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the Dask scheduler does not answer within {ANSWER_S} s ({error!r})",
            where=address,
            fix="check that it runs, and that this machine reaches its port",
        ) from None


async def _identify(address: str) -> None:
    """Ask the scheduler for its identity: `Client` waits for ever if a port accepts calls
    silently."""
    from distributed.core import rpc

    async with rpc(address) as scheduler:
        await scheduler.identity()


def _work(task: ShardTask, folder: str) -> ShardResult:
    """Run a task on a worker, in the folder that relative paths start from."""
    try:
        if _names_relative_paths(task):
            os.chdir(folder)
    except OSError as error:
        raise ConfigError(
            f"a Dask worker on {os.uname().nodename} cannot use the folder: {error.strerror}",
            where=folder,
            fix="start the build in a folder that all machines share",
        ) from None
    with disk_errors(task.tar, "make the shard"):
        return pack_shard(task)


def _names_relative_paths(task: ShardTask) -> bool:
    places = (task.folder, *(clip.path for clip in task.clips))
    return any(not place.is_absolute() for place in places)


def _result(future: Any, task: ShardTask) -> ShardResult:
    from distributed import KilledWorker

    try:
        return future.result()
    except KilledWorker:
        logger.warning("%s: Dask workers died while they made it; this machine does", task.tar)
        return next(run_local([task], 1))  # which finds the clip, and leaves it out
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"a Dask worker lacks a package: {error}",
            where="--engine dask",
            fix="start the workers in the environment that psla-wds is installed in",
        ) from None
