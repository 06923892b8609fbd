"""What reading an epoch costs by order of draws: requests and bytes, and the time that they take.

A store is a latency of each request, a bandwidth that all share, and how many requests it serves at
a time; a disk is a store with one head, whose latency is the seek, and is paid where the next
read does not begin where the last one ended.
"""

import heapq
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

GAP_BYTES = 256 * 1024
"""Ranges of one shard that lie as near as this are read as one: a request more costs more."""
MAX_REQUEST_BYTES = 8 * 2**20
"""Of a merged request: what a reader can hold for each of its threads."""


@dataclass(frozen=True)
class Storage:
    """How long reads take."""

    name: str
    latency_s: float
    """Of a request, or of a seek."""
    bandwidth: float
    """Bytes a second, shared by all requests."""
    concurrent: int
    """Requests at a time."""
    seeks: bool = False
    """Whether the latency is that of a head, spared by a read that goes on where one ended."""


@dataclass(frozen=True)
class Reads:
    """Requests in the order in which they are made."""

    shard: Int64[np.ndarray, " requests"]
    offset: Int64[np.ndarray, " requests"]
    size: Int64[np.ndarray, " requests"]

    def __len__(self) -> int:
        return len(self.size)

    def continues(self) -> Bool[np.ndarray, " requests"]:
        """Whether a request begins where the one before it ended."""
        ends = self.offset[:-1] + self.size[:-1]
        goes_on = (self.shard[1:] == self.shard[:-1]) & (self.offset[1:] == ends)
        return np.concatenate([np.zeros(min(len(self), 1), bool), goes_on])


def read_time_s(reads: Reads, storage: Storage) -> float:
    """Time until the last byte is there; requests start in order, as soon as a place is free.

    Transfers pass one after another through the shared bandwidth, which keeps it as busy as
    sharing it fairly would, and costs one number a request to simulate.
    """
    latency = latencies_s(reads, storage)
    transfer = reads.size / storage.bandwidth
    free = [0.0] * min(storage.concurrent, max(len(reads), 1))
    link_free = 0.0
    for wait_s, transfer_s in zip(latency.tolist(), transfer.tolist(), strict=True):
        begun = heapq.heappop(free)
        link_free = max(begun + wait_s, link_free) + transfer_s
        heapq.heappush(free, link_free)
    return link_free


def latencies_s(reads: Reads, storage: Storage) -> Float64[np.ndarray, " requests"]:
    """What each request waits for before its first byte."""
    latency = np.full(len(reads), storage.latency_s)
    if storage.seeks:
        latency[reads.continues()] = 0.0
    return latency


def in_order(
    rows: Int64[np.ndarray, " draws"],
    shard: np.ndarray,
    offset: np.ndarray,
    size: np.ndarray,
) -> Reads:
    """One request a draw, in the order of the plan: the global order."""
    return Reads(shard[rows].astype(np.int64), offset[rows], size[rows])


def by_shards(
    rows: Int64[np.ndarray, " draws"],
    shard: np.ndarray,
    offset: np.ndarray,
    size: np.ndarray,
    passes: int,
) -> Reads:
    """The requests of `shard_order`, ranges merged; a repeat within a pass is read once."""
    order = shard_order(rows, shard, offset, passes)
    drawn = order[np.append(np.diff(order) != 0, True)]
    return merged(shard[drawn].astype(np.int64), offset[drawn], size[drawn])


def shard_order(
    rows: Int64[np.ndarray, " draws"], shard: np.ndarray, offset: np.ndarray, passes: int
) -> Int64[np.ndarray, " draws"]:
    """The draws dealt over passes, each in a random order of shards of its own: order=shards.

    Repeats of a clip go to different passes as long as there are any.
    """
    rng = np.random.default_rng(0)
    which = _deal(rows, passes, rng)
    parts = []
    for number in range(passes):
        drawn = rows[which == number]
        place = rng.permutation(int(shard.max()) + 1)
        parts.append(drawn[np.lexsort((offset[drawn], place[shard[drawn]]))])
    return np.concatenate(parts)


def duplicates(order: Int64[np.ndarray, " draws"], window: int, batch_size: int) -> float:
    """Draws of a batch, on average, whose clip is in it already, after permuting windows."""
    rng = np.random.default_rng(0)
    windows = [rng.permutation(order[i : i + window]) for i in range(0, len(order), window)]
    whole = len(order) // batch_size * batch_size
    batches = np.sort(np.concatenate(windows)[:whole].reshape(-1, batch_size), axis=1)
    return float((np.diff(batches, axis=1) == 0).sum(axis=1).mean())


def _deal(
    rows: Int64[np.ndarray, " draws"], passes: int, rng: np.random.Generator
) -> Int64[np.ndarray, " draws"]:
    """The pass of each draw: the repeats of a clip follow one another from a random pass on."""
    order = np.argsort(rows, kind="stable")
    starts = np.flatnonzero(np.diff(rows[order], prepend=-1))
    lengths = np.diff(np.append(starts, len(rows)))
    repeat = np.arange(len(rows)) - np.repeat(starts, lengths)
    first = np.repeat(rng.integers(passes, size=len(starts)), lengths)
    which = np.empty(len(rows), np.int64)
    which[order] = (first + repeat) % passes
    return which


def merged(
    shard: Int64[np.ndarray, " ranges"],
    offset: Int64[np.ndarray, " ranges"],
    size: Int64[np.ndarray, " ranges"],
) -> Reads:
    """Requests that cover ranges, near ones that ascend by one request."""
    shards, offsets, sizes = [], [], []
    for where, start, length in zip(shard.tolist(), offset.tolist(), size.tolist(), strict=True):
        end = start + length
        if shards and shards[-1] == where:
            near = 0 <= start - (offsets[-1] + sizes[-1]) <= GAP_BYTES
            if near and end - offsets[-1] <= MAX_REQUEST_BYTES:
                sizes[-1] = end - offsets[-1]
                continue
        shards.append(where)
        offsets.append(start)
        sizes.append(length)
    return Reads(*(np.array(c, np.int64) for c in (shards, offsets, sizes)))


def whole_shards(shard_sizes: tuple[int, ...] | list[int]) -> Reads:
    """All shards from begin to end, in requests of the largest size: what --stage copies."""
    parts = [
        (number, start, min(MAX_REQUEST_BYTES, size - start))
        for number, size in enumerate(shard_sizes)
        for start in range(0, size, MAX_REQUEST_BYTES)
    ]
    return Reads(*np.array(parts, np.int64).reshape(-1, 3).T.copy())
