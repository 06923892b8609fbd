"""Where the ranks of a world find one another, however often torchrun has started them."""

import os
import secrets
import time
from datetime import timedelta

import torch.distributed as dist

LOOK_EVERY_S = 0.02


def meeting_place(rank: int, size: int, timeout: timedelta) -> dist.Store:
    """The store that torchrun's environment names, without what an earlier start left in it.

    torchrun keeps one store over its restarts, in which the addresses of ranks that are gone still
    stand: new ranks may try to reach these, and fail (torch 2.11; pytorch/pytorch#167288). The
    number of restarts, which would tell starts apart, is not the same on all nodes.
    """
    store, _, _ = next(dist.rendezvous("env://", rank, size, timeout=timeout))
    store.set_timeout(timeout)
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return store  # of rank 0, and as new as that
    start = _gather(store, size, timeout) if rank == 0 else _come(store, rank)
    return dist.PrefixStore(start, store)


def _gather(store: dist.Store, size: int, timeout: timedelta) -> str:
    """Name this start, and tell whoever comes until all have said that they know it.

    A greeting may be that of an earlier start, which nobody will hear the answer to.
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
