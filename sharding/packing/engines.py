"""Engines that run the tasks of a build: processes of this machine, or a Dask cluster.

An engine decides who makes a shard and when, never its content.
"""

import multiprocessing
import os
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing import connection, resource_tracker
from multiprocessing.context import SpawnContext
from typing import Any

from psla_wds.errors import ConfigError, PslaError, ShardError, system_errors
from sharding.packing.shard import ShardResult, ShardTask, pack_shard

MAX_TRIES = 3
"""Tries of a shard whose worker dies, for example for lack of memory."""
FATAL_DEATHS = 2
"""Deaths of workers at one clip after which the clip is refused."""
EXIT_S = 5
"""Seconds for which a process whose pipe has ended may take to end itself."""


def num_cores() -> int:
    return len(os.sched_getaffinity(0))


@dataclass
class _Work:
    """A task, and what its workers came to."""

    task: ShardTask
    tries: int = 1
    row: int | None = None
    """The clip that is decoded, by its position in the task."""
    deaths: Counter[str] = field(default_factory=Counter)
    """Number of workers that died, by the clip that they decoded."""

    def try_again(self) -> None:
        """Count the death of a worker at this task; `ShardError` after too many."""
        clip_id = "" if self.row is None else self.task.clips[self.row].clip_id
        self.row = None
        self.deaths[clip_id] += 1
        if clip_id and self.deaths[clip_id] >= FATAL_DEATHS:
            self.task = replace(self.task, fatal=self.task.fatal | {clip_id})
            self.tries = 1
        elif self.tries == MAX_TRIES:
            raise ShardError(
                f"the worker process died {MAX_TRIES} times while it made this shard",
                where=self.task.tar,
                fix="look for a lack of memory; then run again",
            )
        else:
            self.tries += 1


class _Worker:
    """A process that makes shards, and what it makes.

    It has a pipe of its own and shares nothing else with this process: it may die at any moment,
    and neither end waits for a lock that died with the other.
    """

    def __init__(self, context: SpawnContext) -> None:
        self.work: _Work | None = None
        self._context = context
        self._start()

    def _start(self) -> None:
        self._began = False
        self.pipe, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs,), daemon=True)
        # Ctrl-C reaches all processes of a terminal: workers, which inherit this, leave it to us.
        resource_tracker.ensure_running()  # which would end the blocking, if it began within
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        self._process = process

    def give(self, work: _Work | None) -> None:
        """Let the process begin a task, if there is one."""
        self.work = work
        try:
            if work is not None:
                self.pipe.send(work.task)
        except OSError:
            pass  # it died: `answer` finds the end of the pipe

    def answer(self) -> ShardResult | None:
        """The result of the task, unless the process only began, or died. Raises what the task
        did."""
        assert self.work is not None
        try:
            answer = self.pipe.recv()
        except (EOFError, OSError):
            self._process.join(EXIT_S)
            self.stop()
            # One that a signal ended, as for a lack of memory, may live the next time.
            if not self._began and (self._process.exitcode or 0) >= 0:
                raise _ended_early() from None
            self.work.try_again()
            self._start()
            self.give(self.work)
            return None
        self._began = True
        if answer is None or isinstance(answer, int):
            self.work.row = answer
            return None
        if isinstance(answer, PslaError):
            raise answer
        if isinstance(answer, str):
            raise RuntimeError(f"in a worker: {answer}")
        return answer

    def stop(self) -> None:
        self._process.kill()
        self._process.join()
        self.pipe.close()


def run_local(tasks: Sequence[ShardTask], workers: int) -> Iterator[ShardResult]:
    """Run the tasks on processes of this machine; yields each result when its shard is finished."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        sys.exit(1)  # a worker, which imports a script that builds as it is imported
    context = multiprocessing.get_context("spawn")
    waiting = map(_Work, tasks)
    pool: list[_Worker] = []
    try:
        for _ in range(min(workers, len(tasks))):
            pool.append(_Worker(context))
        for worker in pool:  # all start at once; a task may have to wait for its worker
            worker.give(next(waiting, None))
        while busy := dict[Any, _Worker]((worker.pipe, worker) for worker in pool if worker.work):
            for worker in [busy[pipe] for pipe in connection.wait(busy)]:
                result = worker.answer()
                if result is not None:
                    yield result
                    worker.give(next(waiting, None))
    finally:
        for worker in pool:
            worker.stop()


def _serve(pipe: connection.Connection) -> None:
    """Make shards in a worker until the pipe ends, with the build."""
    # webdataset writes tars without torch, but imports it if it can, which takes a worker 1.5 s.
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    try:
        pipe.send(None)
        while True:
            pipe.send(_made(pipe.recv(), pipe))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def _made(task: ShardTask, pipe: connection.Connection) -> Any:
    """The result of a task, the `PslaError` that it raised, or the traceback of a bug."""
    try:
        with system_errors():
            return pack_shard(task, pipe.send)
    except PslaError as error:
        return error
    except Exception:
        return traceback.format_exc()


def _ended_early() -> ConfigError:
    return ConfigError(
        "the worker processes end before they begin",
        where=sys.argv[0] or "this program",
        fix="see their own message above; in a script, which has to be a file, build under "
        'if __name__ == "__main__":',
    )
