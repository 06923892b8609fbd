"""Loaders that are compared do the same work, and one that does other work is noticed."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.bench_loader import Args, check_clips, decode_way, measure_level, read_way
from benchmarks.corpus import Corpus, loose_files
from benchmarks.peers import Clips, Way, Work, peer_ways
from psla_wds import open_indexes


@pytest.fixture
def work(shards: Path, tmp_path: Path) -> Work:
    index = open_indexes([str(shards)])
    paths = loose_files(index, tmp_path / "loose")
    return Work(Corpus(tmp_path, index, paths), batch_size=8, decode=False)


@pytest.mark.parametrize("decode", [False, True])
def test_every_way_delivers_the_same_clips(work: Work, decode: bool):
    work = replace(work, decode=decode)
    ways = [*peer_ways(work), decode_way(work) if decode else read_way(work)]
    assert len(ways) >= 5
    check_clips(ways, work)


def spoiled(way: Way, change: Callable[[Clips], Clips]) -> Way:
    @contextmanager
    def opened(**setting: int) -> Iterator[Iterator[Clips]]:
        with way.open(**setting) as batches:
            yield map(change, batches)

    return replace(way, open=opened)


@pytest.mark.parametrize(
    ("decode", "change"),
    [
        (False, lambda b: replace(b, keys=np.roll(b.keys, 1))),
        (False, lambda b: replace(b, clips=[clip[:-1] for clip in b.clips])),
        (False, lambda b: replace(b, keys=["another"] * len(b.keys))),
        (False, lambda b: replace(b, targets=1 - b.targets)),
        (True, lambda b: replace(b, clips=[clip * 1.01 for clip in b.clips])),
    ],
    ids=["order", "cut", "unknown", "labels", "louder"],
)
def test_a_way_that_delivers_other_clips_is_noticed(
    work: Work, decode: bool, change: Callable[[Clips], Clips]
):
    work = replace(work, decode=decode)
    way = spoiled(decode_way(work) if decode else read_way(work), change)
    with pytest.raises(AssertionError, match=r"delivers another|delivered none"):
        check_clips([way], work)


def test_the_fastest_setting_is_the_one_that_is_measured():
    opened = []

    @contextmanager
    def wait(ms: int) -> Iterator[Iterator[None]]:
        opened.append(ms)
        yield iter(lambda: time.sleep(ms / 1000), 0)

    way = Way("way", "none", wait, ({"ms": 5}, {"ms": 1}, {"ms": 3}))
    (row,) = measure_level([way], {}, Args(batch_size=4, seconds=0.05, repeats=2))
    assert opened == [5, 1, 3, 1, 1, 1]  # each setting once, then a warm-up and two rounds
    assert row["setting"] == "{'ms': 1}" and row["clips_per_s"] < 4000
