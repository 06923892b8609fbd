"""Reader threads. The standard pool cannot grow, and joins its threads when the interpreter exits,
so a read that hangs would keep the process alive."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")

CLOSE_WAIT_S = 5.0
"""Longest wait for reads under way when the pool is closed."""


class ReadPool(Generic[T]):
    """Runs tasks in the order of their submission."""

    def __init__(self, threads: int) -> None:
        self._tasks: SimpleQueue[tuple[Future[T], Callable[[], T]] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self.add_threads(threads)

    @property
    def threads(self) -> int:
        return len(self._threads)

    def add_threads(self, number: int) -> None:
        for _ in range(number):
            name = f"reader-{len(self._threads)}"
            thread = threading.Thread(target=_work, args=(self._tasks,), name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def submit(self, task: Callable[[], T]) -> "Future[T]":
        """Run the task soon; the future gets its result or exception."""
        future: Future[T] = Future()
        self._tasks.put((future, task))
        return future

    def close(self) -> bool:
        """Drop waiting tasks and end the threads; False if some hang in a read."""
        self._drop_waiting()
        for _ in self._threads:
            self._tasks.put(None)
        until = time.monotonic() + CLOSE_WAIT_S
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _drop_waiting(self) -> None:
        while True:
            try:
                waiting = self._tasks.get_nowait()
            except Empty:
                return
            if waiting is not None:
                waiting[0].cancel()


def _work(tasks: SimpleQueue) -> None:
    """Loop of each thread. It holds no reference to the pool, nor to clips while it waits."""
    while (waiting := tasks.get()) is not None:
        future, task = waiting
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(task())
            except BaseException as error:
                future.set_exception(error)
        del waiting, future, task
