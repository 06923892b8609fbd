"""Ways to feed a step and to make features do the same work; the waiting for data is measured."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from benchmarks import bench_features, bench_step
from benchmarks.bench_step import Sources, Steps, new_learner, step_config
from benchmarks.corpus import make_corpus, read_clips
from benchmarks.papers_way import check_same_work
from psla_wds import Batch

CPU = torch.device("cpu")
SMALL = {"num_frames": 64, "batch_size": 8, "backbone": "mobilenet-v2"}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """A corpus of 24 clips, made by commands as a user's, and a small step."""
    corpus = make_corpus(tmp_path_factory.mktemp("bench"), 24)
    return Sources(corpus, step_config(bench_step.Args(**SMALL)), CPU)


def test_all_ways_feed_the_same_work(sources: Sources):
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
    @contextmanager
    def other() -> Iterator[Iterator[Batch]]:
        with sources.loader() as batches:
            yield map(change, batches)

    with pytest.raises(AssertionError, match="other"):
        check_same_work({"loader": sources.loader, "other": other})


def test_waiting_for_data_is_measured(sources: Sources):
    pause_s = 0.2

    @contextmanager
    def slow() -> Iterator[Iterator[Batch]]:
        with sources.resident() as batches:
            yield ((time.sleep(pause_s), batch)[1] for batch in batches)

    steps = Steps(new_learner(sources.config, CPU), slow, batch_size=8, seconds=0.5, warmup=1)
    clips_per_s = steps.rate()
    assert clips_per_s < 8 / pause_s
    assert pause_s <= steps.data_waits[0] * 8 / clips_per_s < 2 * pause_s


@pytest.mark.slow
def test_every_way_and_change_is_in_the_record(sources: Sources):
    fast = {"clips": 24, "repeats": 1, "seconds": 0.1, "changes": ("default-adam",)}
    args = bench_step.Args(**SMALL, **fast, corpus=sources.corpus.folder)
    (table,) = bench_step.measure(args)["tables"]
    assert len(table["rows"]) == 4 and table["rows"][0]["data_wait"] < 0.01


def test_the_stages_add_up_to_the_whole_graph(sources: Sources):
    clips = read_clips(sources.corpus, 4)
    args = bench_features.Args(batch_size=4, seconds=0.1, repeats=1)
    rows = bench_features.stage_rows(clips, CPU, args)
    assert rows[0]["name"] == "decode" and len(rows) == 5
    assert sum(r["us_per_clip"] for r in rows) == pytest.approx(1e6 / rows[-1]["clips_per_s"])


def test_ways_to_features_that_differ_are_noticed():
    @contextmanager
    def way(value: float) -> Iterator[Iterator[torch.Tensor]]:
        yield iter([torch.full((1, 2, 3), value)] * 4)

    bench_features.check_equal({"a": lambda: way(1.0), "b": lambda: way(1.001)})
    with pytest.raises(AssertionError, match="b differs"):
        bench_features.check_equal({"a": lambda: way(1.0), "b": lambda: way(1.1)})
