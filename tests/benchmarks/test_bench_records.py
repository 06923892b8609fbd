"""Records of benchmarks and their tables; the smaller benchmarks run through on little data."""

import json
import sys
from collections import Counter
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import tyro
from conftest import run
from fuzz import tally

from benchmarks import bench_metrics, bench_shard, bench_step, bench_tag, scale
from benchmarks.harness import RATES, Column, compare, record, table
from benchmarks.tables import markdown
from psla_wds import open_indexes
from psla_wds.reading.reader import Reader

ROOT = Path(__file__).parents[2]


def test_speed_ups_are_taken_round_by_round():
    """A drift of the machine spreads the rates, and not their ratio."""
    slow, fast = iter([9.0, 10.0, 20.0, 40.0]), iter([9.0, 20.0, 40.0, 80.0])
    first, second = compare({"slow": lambda: next(slow), "fast": lambda: next(fast)}, repeats=3)
    assert (first["clips_per_s"], first["spread"]) == (20.0, 1.5)
    assert (second["clips_per_s"], second["spread"]) == (40.0, 1.5)
    assert (second["speed_up"], second["speed_up_spread"]) == (2.0, 0.0)


def test_figures_that_vary_and_uncommitted_changes_are_marked():
    first = {"name": "a", "clips_per_s": 1234.5, "spread": 0.11, "speed_up": 1.0}
    rows = [first, {"name": "b", "clips_per_s": 2.0, "spread": 0.1}]
    columns = [Column("", "name"), *RATES]
    content = record("Title", [table(columns, rows)], bench_metrics.Args())
    content["machine"]["commit"] = "abc with changes"
    *lines, _, last = markdown(content).splitlines()
    assert lines == [
        "| | clips/s | speed-up | spread |",
        "|---|--:|--:|--:|",
        "| a | ~1,234 | 1.00x | 11% |",
        "| b | 2 | | 10% |",
    ]
    assert "commit abc **with uncommitted changes**" in last and "~ marks" in last


def test_a_run_replaces_its_row_of_what_was_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "tried.json"
    for tests, counts in (("a", {"cases": 1}), ("b", {"cases": 20}), ("a", {"cases": 300})):
        monkeypatch.setattr(tally, "TALLY", Counter(counts))
        tally.add_to_record(path, tests, failed=1)
    *rows, _, _ = markdown(json.loads(path.read_text())).splitlines()[2:]
    assert [[cell.strip() for cell in row.split("|")[1:3]] for row in rows] == [
        ["b", "20"],
        ["a", "300"],
        ["all", "320"],
    ]


def test_metrics_are_measured_once_they_agree():
    content = bench_metrics.measure(bench_metrics.Args(clips=200, classes=5, repeats=1))
    assert content["tables"][0]["rows"][1]["name"] == "psla-wds"


def test_gpu_check_gives_arguments_that_exist():
    done = run(["make", "-n", "gpu-check", f"PYTHON={sys.executable}"], cwd=ROOT)
    commands = [line.split() for line in done.stdout.splitlines() if line.startswith("timeout ")]
    assert len(commands) == 4
    for _, _, _, _, module, *flags in commands[1:]:
        args = tyro.cli(import_module(module).Args, args=flags)
        assert args.batch_size == 100 and args.output.name.startswith("gpu_")


def test_a_tiled_index_repeats_clips_under_new_ids(shards: Path, tmp_path: Path):
    size = scale.tiled_index(shards, tmp_path / "large", 100)
    index = open_indexes([str(tmp_path / "large")])
    index.check_shards()
    assert len({index.clip_id(row) for row in range(100)}) == len(index) == 100 < size
    reader = Reader(index, threads=1)  # checks every clip's CRC-32
    clips = reader.start(np.arange(100)).wait()
    reader.close()
    assert len(clips) == 100


@pytest.mark.slow
def test_a_start_is_measured_in_a_process_of_its_own(shards: Path):
    row = scale.start_row(shards, repeats=1)
    assert row["import_s"] > 0.1 and row["first_batch_s"] > 0 and row["rank_mib"] > 1


@pytest.mark.slow
def test_every_way_to_step_is_in_the_record(tmp_path: Path):
    size = {"num_frames": 64, "batch_size": 8, "backbone": "mobilenet-v2", "clips": 24}
    fast = {"repeats": 1, "seconds": 0.1, "changes": ("default-adam",), "corpus": tmp_path}
    (table,) = bench_step.measure(bench_step.Args(**size, **fast))["tables"]
    assert len(table["rows"]) == 4 and table["rows"][0]["data_wait"] < 0.01


@pytest.mark.slow
def test_packing_is_measured_and_its_ways_agree():
    content = bench_shard.measure(bench_shard.Args(clips=6, repeats=1))
    assert content["tables"][0]["rows"][1]["name"] == "psla-wds, 1 worker"


@pytest.mark.slow
def test_every_runtime_tags(monkeypatch: pytest.MonkeyPatch):
    network = "efficientnet-b0, 1 head"
    monkeypatch.setattr(bench_tag, "NETWORKS", {network: bench_tag.NETWORKS[network]})
    args = bench_tag.Args(windows=2, batch_size=2, classes=5, threads=1, repeats=1)
    rows = bench_tag.measure(args)["tables"][0]["rows"]
    assert len(rows) == 6 and all(10 < row["mebibytes"] < 40 for row in rows)
