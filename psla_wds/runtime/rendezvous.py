"""Rendezvous: the store where the ranks of a world find each other, also after torchrun restarts
them."""

import os
import secrets
import time
from datetime import timedelta

import torch.distributed as dist

LOOK_EVERY_S = 0.02


def meeting_place(rank: int, size: int, timeout: timedelta) -> dist.Store:
    """The store that torchrun's environment names, without the entries of an earlier start.

    torchrun keeps one store over its restarts, with the addresses of ranks that are gone: new ranks
    may try these and fail (torch 2.11; pytorch/pytorch#167288). The number of restarts cannot
    distinguish starts, since it differs between nodes.
    """
    store, _, _ = next(dist.rendezvous("env://", rank, size, timeout=timeout))
    store.set_timeout(timeout)
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return store  # of rank 0, and as new as that
    start = _gather(store, size, timeout) if rank == 0 else _come(store, rank)
    return dist.PrefixStore(start, store)


def _gather(store: dist.Store, size: int, timeout: timedelta) -> str:
    """Give this start a name, and answer every rank that asks until all have confirmed it.

    A request may come from an earlier start; nobody reads the answer to that.
    """
    start, deadline = secrets.token_hex(8), time.monotonic() + timeout.total_seconds()
    answered: dict[int, bytes] = {}
    waiting = set(range(1, size))
    while waiting:
        for rank in sorted(waiting):
            if store.check([f"greeting/{rank}"]):
                greeting = store.get(f"greeting/{rank}")
                if answered.get(rank) != greeting:
                    store.set(f"answer/{greeting.decode()}", start)
                    answered[rank] = greeting
            if store.check([f"known/{start}/{rank}"]):
                waiting.discard(rank)
        if time.monotonic() > deadline:
            absent = ", ".join(map(str, sorted(waiting)))
            raise dist.DistStoreError(f"rank {absent} did not come")
        time.sleep(LOOK_EVERY_S)
    return start


def _come(store: dist.Store, rank: int) -> str:
    greeting = secrets.token_hex(8)
    store.set(f"greeting/{rank}", greeting)
    start = store.get(f"answer/{greeting}").decode()
    store.set(f"known/{start}/{rank}", "")
    return start
