"""Ways that are compared do the same work, and one that does other work is noticed."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import bench_features, bench_loader, bench_step
from benchmarks.bench_loader import check_clips, decode_way, measure_level, read_way
from benchmarks.bench_step import Sources, Steps, new_learner, step_config
from benchmarks.corpus import Corpus, make_corpus, read_clips
from benchmarks.papers_way import check_same_work
from benchmarks.peers import Clips, Way, Work, peer_ways
from psla_wds import Batch

CPU = torch.device("cpu")
SMALL = {"num_frames": 64, "batch_size": 8, "backbone": "mobilenet-v2"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """24 clips, made by the commands that a user runs."""
    return make_corpus(tmp_path_factory.mktemp("bench"), 24)


@pytest.fixture(scope="module")
def sources(corpus: Corpus) -> Sources:
    return Sources(corpus, step_config(bench_step.Args(**SMALL)), CPU)


def changed(opened: Callable[..., Any], change: Callable[[Any], Any]) -> Callable[..., Any]:
    """A way to open batches, each of them changed."""

    @contextmanager
    def other(**setting: int) -> Iterator[Iterator[Any]]:
        with opened(**setting) as batches:
            yield map(change, batches)

    return other


@pytest.mark.parametrize("decode", [False, True])
def test_every_loader_delivers_the_same_clips(corpus: Corpus, decode: bool):
    work = Work(corpus, 8, decode)
    ways = [*peer_ways(work), decode_way(work) if decode else read_way(work)]
    assert len(ways) >= 5
    check_clips(ways, work)


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
def test_a_loader_of_other_clips_is_noticed(
    corpus: Corpus, decode: bool, change: Callable[[Clips], Clips]
):
    work = Work(corpus, 8, decode)
    way = decode_way(work) if decode else read_way(work)
    with pytest.raises(AssertionError, match=r"delivers another|delivered none"):
        check_clips([replace(way, open=changed(way.open, change))], work)


def test_the_fastest_setting_is_measured():
    opened = []

    @contextmanager
    def wait(ms: int) -> Iterator[Iterator[None]]:
        opened.append(ms)
        yield iter(lambda: time.sleep(ms / 1000), 0)

    way = Way("way", "none", wait, ({"ms": 50}, {"ms": 1}, {"ms": 30}))
    args = bench_loader.Args(batch_size=4, seconds=0.05, repeats=2)
    (row,) = measure_level([way], {}, args)
    assert opened == [50, 1, 30, 1, 1, 1]  # each setting once, then a warm-up and two rounds
    assert row["setting"] == "{'ms': 1}" and row["clips_per_s"] < 4000


def test_all_ways_feed_the_same_work_to_a_step(sources: Sources):
    ways = (sources.loader, sources.resident, sources.papers_way)
    check_same_work({way.__name__: way for way in ways})


@pytest.mark.parametrize(
    "change",
    [
        lambda b: replace(b, log_mel=b.log_mel[:, :-1]),
        lambda b: replace(b, log_mel=b.log_mel * 4.5699 - 4.6476),
        lambda b: replace(b, targets=(b.targets > 0).float()),
        lambda b: replace(b, targets=torch.zeros_like(b.targets)),
    ],
    ids=["cut", "not normalised", "hard labels", "no labels"],
)
def test_a_source_of_other_work_is_noticed(sources: Sources, change: Callable[[Batch], Batch]):
    other = changed(sources.loader, change)
    with pytest.raises(AssertionError, match="other"):
        check_same_work({"loader": sources.loader, "other": other})


def test_waiting_for_data_is_measured(sources: Sources):
    pause_s = 0.2
    slow = changed(sources.resident, lambda batch: (time.sleep(pause_s), batch)[1])
    steps = Steps(new_learner(sources.config, CPU), slow, batch_size=8, seconds=0.5, warmup=1)
    clips_per_s = steps.rate()
    assert clips_per_s < 8 / pause_s
    assert pause_s <= steps.data_waits[0] * 8 / clips_per_s < 2 * pause_s


def test_the_stages_add_up_to_the_whole_graph(corpus: Corpus):
    args = bench_features.Args(batch_size=4, seconds=0.1, repeats=1)
    rows = bench_features.stage_rows(read_clips(corpus, 4), CPU, args)
    assert rows[0]["name"] == "decode" and len(rows) == 5
    assert sum(r["us_per_clip"] for r in rows) == pytest.approx(1e6 / rows[-1]["clips_per_s"])


def test_ways_to_features_that_differ_are_noticed(corpus: Corpus):
    clips = read_clips(corpus, 8)
    ways = bench_features.whole_ways(clips, corpus.paths, [CPU])
    bench_features.check_equal(ways)
    name = "torch, batched, cpu"
    other = {name: changed(ways[name], lambda log_mel: log_mel + 0.1)}
    with pytest.raises(AssertionError, match="torch, batched, cpu differs"):
        bench_features.check_equal(ways | other)
