"""Ranks meet where nothing of an earlier start is left, though torchrun's store stays the same."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch.distributed as dist

from psla_wds.runtime.rendezvous import meeting_place

SIZE = 3


@pytest.fixture
def agents_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[dist.TCPStore]:
    """As torchrun keeps it over its restarts."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    yield store


def start(late: dict[int, float], timeout_s: float = 20.0) -> list[dist.Store]:
    """What each rank meets the others in; some come so many seconds later."""

    def come(rank: int) -> dist.Store:
        time.sleep(late.get(rank, 0.0))
        return meeting_place(rank, SIZE, timedelta(seconds=timeout_s))

    with ThreadPoolExecutor(SIZE) as pool:
        return list(pool.map(come, range(SIZE)))


@pytest.mark.parametrize("late", [{0: 0.3}, {2: 0.3}], ids=str)
def test_each_start_has_a_store_without_earlier_keys(agents_store, late):
    for number in range(3):
        stores = start(late)
        assert not any(store.check(["address"]) for store in stores)
        stores[0].set("address", str(number))
        assert [store.get("address") for store in stores] == [str(number).encode()] * SIZE


def test_nobody_waits_for_a_rank_that_is_gone(agents_store):
    agents_store.set("greeting/2", "of an earlier start")
    stores = start({2: 0.3})
    assert agents_store.check(["answer/of an earlier start"])
    stores[2].set("key", "value")
    assert stores[0].get("key") == b"value"


def test_a_rank_that_does_not_come_is_named(agents_store):
    agents_store.set("greeting/1", "of an earlier start")
    with pytest.raises(dist.DistStoreError, match="rank 1, 2 did not come"):
        meeting_place(0, SIZE, timedelta(seconds=0.5))


def test_without_an_agent_the_store_is_as_new_as_rank_0(monkeypatch: pytest.MonkeyPatch):
    port = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False).port
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(port))
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    assert isinstance(meeting_place(0, 1, timedelta(seconds=5)), dist.TCPStore)
