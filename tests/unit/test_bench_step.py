"""Ways to feed a step do the same work, one that does other work is noticed; the arithmetic."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import run, run_command

from benchmarks.bench_features import check_equal, stages
from benchmarks.bench_loader import encoded_clips
from benchmarks.bench_step import (
    LOADER,
    PAPER,
    RESIDENT,
    Args,
    projections,
    shares_of_peak,
    step_config,
    ways_to_train,
)
from benchmarks.model_cost import Cost
from benchmarks.stage_ways import Clips, stage_bytes, stage_way
from benchmarks.step_ways import (
    NUM_CLASSES,
    Open,
    Sources,
    Steps,
    changed,
    check_same_work,
    new_learner,
    unfuse,
)
from benchmarks.table_forms import stages as stages_table
from benchmarks.table_forms import steps as steps_table
from benchmarks.ways import Timing
from psla_wds.loading.loader import Batch
from psla_wds.shards.index_files import open_indexes

CPU = torch.device("cpu")
SMALL = Args(clips=24, num_frames=64, batch_size=8, repeats=1, seconds=0.1).for_device(CPU)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of 24 clips, made by a process of its own, as a user's."""
    folder = tmp_path_factory.mktemp("bench")
    make = "from benchmarks.corpus import *; make_corpus(Path(sys.argv[1]), num_clips=24)"
    run([sys.executable, "-c", f"import sys; from pathlib import Path; {make}", str(folder)])
    return folder


@pytest.fixture(scope="module")
def sources(folder: Path) -> Sources:
    index = open_indexes([str(folder / "shards")])
    paths = [folder / "loose" / f"{index.clip_id(row)}.flac" for row in range(len(index))]
    return Sources(index, paths, step_config(SMALL, CPU), CPU)


def test_all_ways_feed_the_same_work(sources: Sources):
    check_same_work(
        {"loader": sources.loader, "resident": sources.resident, "paper": sources.papers_way}
    )
    with sources.papers_way() as batches:
        batch = next(batches)
    assert batch.log_mel.shape == (8, 64, 128) and batch.targets.shape == (8, NUM_CLASSES)


def spoiled(opened: Open, change: Callable[[Batch], Batch]) -> Open:
    @contextmanager
    def other() -> Iterator[Iterator[Batch]]:
        with opened() as batches:
            yield map(change, batches)

    return other


@pytest.mark.parametrize(
    "change",
    [
        lambda b: replace(b, log_mel=b.log_mel[:, :-1]),
        lambda b: replace(b, log_mel=b.log_mel * 4.5699 - 4.6476),  # not normalised
        lambda b: replace(b, targets=b.targets[:, :37]),
        lambda b: replace(b, targets=(b.targets > 0).float()),  # hard labels
        lambda b: replace(b, targets=torch.zeros_like(b.targets)),
    ],
    ids=["frames", "scale", "classes", "labels", "none"],
)
def test_a_way_that_feeds_other_work_is_noticed(sources: Sources, change):
    with pytest.raises(AssertionError, match=r"differs from|feeds"):
        check_same_work(
            {"resident": sources.resident, "spoiled": spoiled(sources.resident, change)}
        )


def test_a_way_without_mixup_is_noticed(sources: Sources):
    augment = replace(sources.config.augment, mixup_rate=0.0)
    plain = replace(sources, config=replace(sources.config, augment=augment))
    with pytest.raises(AssertionError, match="standard errors"):
        check_same_work({"loader": sources.loader, "unmixed": plain.loader})


def test_a_change_is_of_one_thing(sources: Sources):
    config = sources.config
    layouts, weights = {}, {}
    for change in (None, "contiguous"):
        model = new_learner(config, CPU, change).model.eval()
        seen = []
        model.trunk._conv_head.register_forward_hook(lambda _, __, out, seen=seen: seen.append(out))
        model(torch.zeros(2, 64, 128))
        layouts[change] = seen[0].is_contiguous(memory_format=torch.channels_last)
        weights[change] = model.state_dict()
    assert layouts == {None: True, "contiguous": False}
    for name, tensor in weights[None].items():
        assert torch.equal(tensor, weights["contiguous"][name])
    learner = new_learner(config, CPU)
    learner.optimizer.param_groups[0]["fused"] = True  # as on a GPU
    unfuse(learner)
    assert learner.optimizer.param_groups[0]["fused"] is None
    assert changed(config, "cuda-graphs") == replace(config, compile="reduce-overhead")


def test_waiting_for_data_is_measured_and_counted(sources: Sources):
    pause_s = 0.2

    @contextmanager
    def slow() -> Iterator[Iterator[Batch]]:
        def wait(batch: Batch) -> Batch:
            time.sleep(pause_s)
            return batch

        with sources.resident() as batches:
            yield map(wait, batches)

    learner = new_learner(sources.config, CPU)
    steps = Steps(learner, slow, batch_size=8, seconds=0.5, warmup=1)
    clips_per_s = steps.rate()
    assert clips_per_s < 8 / pause_s
    waited_s = steps.data_waits[0] * 8 / clips_per_s  # of a step
    assert pause_s <= waited_s < 2 * pause_s


def test_the_limit_waits_for_nothing_and_the_record_makes_a_table(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    output = folder / "bench_step.json"
    settings = ["--clips=24", "--num-frames=64", "--batch-size=8", "--repeats=1", "--seconds=0.1"]
    done = run_command(
        "benchmarks.bench_step", *settings, "--backbone=mobilenet-v2", "--tflop-per-s=1",
        f"--corpus={folder}", f"--output={output}",
    )  # fmt: skip
    assert done.stdout.splitlines()[-1].startswith(f"wrote {output}; next: ")
    content = json.loads(output.read_text())
    rows = {r["name"]: r for r in content["results"]}
    assert list(rows) == [RESIDENT, LOADER, PAPER]
    assert rows[RESIDENT]["data_wait"] < 0.01
    assert {p["kind"] for p in content["projections"]} == {"projection"}
    table = steps_table(content)
    assert "| projection | clips |" in table and "of 1)" in table
    assert "58,590,000" in table


COUNTED = Cost("x", 1, 4.0, 12.0, 0.0, 2000.0, 1000.0)


def test_the_papers_schedules_are_projected_from_rates():
    rows = {p["schedule"]: p for p in projections(COUNTED, {LOADER: 1000.0, PAPER: 100.0})}
    # 58.6M, 1.25M and 1.49M clips: epochs times clips, less what fills no batch
    clips = {name: row["clips"] for name, row in rows.items()}
    assert clips == pytest.approx(
        {"audioset-full": 58.6e6, "audioset-balanced": 1.25e6, "fsd50k": 1.49e6}, rel=0.01
    )
    full = rows["audioset-full"]
    assert full["hours"][LOADER] == pytest.approx(full["clips"] * full["cost"] / 3.6e6)
    assert full["hours"][PAPER] == pytest.approx(10 * full["hours"][LOADER])
    # 30 s of audio cost what 10 s do times the columns of the map: 94 in place of 33
    assert rows["fsd50k"]["cost"] / full["cost"] == pytest.approx(94 / 33, rel=0.02)


def test_shares_are_rates_times_costs_over_peaks():
    args = Args(tflop_per_s=48.0, gb_per_s=2 * 1048.576)
    shares = shares_of_peak(args, COUNTED, 1000.0)
    assert shares["tflop_per_s"] == pytest.approx(12.0)
    assert shares["gb_per_s"] == pytest.approx(1048.576)


def test_stages_end_where_they_say_and_cost_what_the_next_adds(sources: Sources):
    clips = Clips(encoded_clips(sources.index), 4)
    shapes = {}
    for stage in stage_bytes(1.0, 160_000):
        with stage_way(clips, CPU, stage, threads=1) as batches:
            shapes[stage] = next(batches)[0][0].shape()
    assert list(shapes.values()) == [[160_000], [160_000], [998, 257], [998, 128], [1056, 128]]
    found = stages(clips, 150_000.0, CPU, Timing(4, seconds=0.1, repeats=1))
    assert [s["name"] for s in found] == list(shapes)
    whole_us = 1e6 / found[-1]["clips_per_s"]
    assert sum(s["us_per_clip"] for s in found) == pytest.approx(whole_us)
    decode = found[0]
    assert decode["bytes_per_clip"] == 150_000 + 4 * 160_000
    assert decode["limit_us_per_clip"] < decode["us_per_clip"]


def test_ways_to_features_that_differ_are_noticed(sources: Sources):
    @contextmanager
    def of(value: float) -> Iterator[Iterator[torch.Tensor]]:
        yield iter([torch.full((1, 2, 3), value)] * 4)

    check_equal({"a": lambda: of(1.0), "b": lambda: of(1.001)})
    with pytest.raises(AssertionError, match="b differs"):
        check_equal({"a": lambda: of(1.0), "b": lambda: of(1.1)})


def test_stages_have_a_table():
    result = {"name": "x", "clips_per_s": 10.0, "spread": 0.1, "speed_up": 1.0}
    stage = result | {
        "device": "cpu", "us_per_clip": 5.0, "limit_us_per_clip": 1.0, "bytes_per_clip": 1e6,
    }  # fmt: skip
    content = {
        "title": "t",
        "conditions": {"repeats": 5, "page_cache": "warm"},
        "machine": {"gpu": "G", "cores": 2, "cpu": "c", "date": "d", "commit": "e"},
        "results": [result],
        "stages": [stage],
    }
    assert "| cpu | x | 5 | 1,000 | 1.0 | 10% |" in stages_table(content)


def test_each_change_has_a_way_of_its_own(sources: Sources):
    args = replace(SMALL, changes=("bfloat16", "contiguous", "default-adam", "compile"))
    ways = ways_to_train(sources, args)
    assert list(ways)[3:] == [f"limit, {change}" for change in args.changes]
    assert len({id(steps.learner) for steps in list(ways.values())[2:]}) == 5
