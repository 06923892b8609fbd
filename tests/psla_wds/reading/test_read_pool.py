"""Threads for reads: they pass on results and errors, grow, and are left behind if they hang."""

import threading
import time
from concurrent.futures import CancelledError

import pytest

from psla_wds.reading.read_pool import ReadPool


def test_results_and_errors_reach_who_waits_for_them():
    pool: ReadPool[int] = ReadPool(2)
    futures = [pool.submit(lambda i=i: i * i) for i in range(100)]
    assert [future.result() for future in futures] == [i * i for i in range(100)]

    def failing() -> int:
        raise KeyError("gone")

    with pytest.raises(KeyError, match="gone"):
        pool.submit(failing).result()
    assert pool.submit(lambda: 7).result() == 7  # the thread goes on
    assert pool.close()


def test_a_pool_grows_while_its_threads_are_at_work():
    pool: ReadPool[None] = ReadPool(1)
    all_there = threading.Barrier(4)
    futures = [pool.submit(lambda: all_there.wait(10) and None) for _ in range(4)]
    time.sleep(0.05)
    assert all_there.n_waiting == 1 and pool.threads == 1
    pool.add_threads(3)  # only four threads can pass the barrier
    for future in futures:
        future.result(10)
    assert pool.threads == 4
    assert pool.close()


def test_closing_drops_what_waits_and_leaves_what_hangs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("psla_wds.reading.read_pool.CLOSE_WAIT_S", 0.2)
    pool, storage_answers = ReadPool(2), threading.Event()
    hanging = pool.submit(storage_answers.wait)
    pool.submit(lambda: None).result()
    waiting = [pool.submit(storage_answers.wait) for _ in range(5)]
    started = time.perf_counter()
    assert not pool.close()
    assert time.perf_counter() - started < 2
    with pytest.raises(CancelledError):
        waiting[-1].result(1)
    storage_answers.set()
    assert hanging.result(5)
