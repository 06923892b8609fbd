"""The benchmarks of packing: what they conclude, and that each runs through on a few clips."""

from pathlib import Path

import pytest

from benchmarks import bench_shard, bench_shard_scale
from benchmarks.table_forms import FORMS, markdown, speeds

RATES = {"plain loop": 70.0, "psla-wds, 1 worker": 77.0, "psla-wds, 2 workers": 140.0}


def test_ratios_are_of_workers_to_the_loop_to_one_another_and_to_programs():
    found = bench_shard.ratios(RATES | {"sox for each file, tar": 35.0})
    assert found == {
        "1 worker / plain loop": pytest.approx(1.1),
        "2 workers / 1 worker": pytest.approx(140 / 77),
        "2 workers / sox": pytest.approx(4.0),
    }


def test_what_starting_takes_is_taken_off_both():
    rates = {"plain loop": 100 / 12, "1 worker": 100 / 11, "2 workers": 1.0}
    found = bench_shard.once_started(rates, {"plain loop": 2.0, "psla-wds": 1.0}, 100)
    assert found == {"1 worker / plain loop, once started": pytest.approx(1.0)}


def test_columns_of_text_and_of_numbers_are_told_apart_in_a_table():
    table = markdown(["", "order"], ["clips/s"], [["a", "", "1"], ["b", "any", "2"]])
    assert table.splitlines() == [
        "| | order | clips/s |", "|---|---|--:|", "| a | | 1 |", "| b | any | 2 |",
    ]  # fmt: skip


@pytest.mark.slow
def test_packing_is_measured_and_its_ways_give_the_same_clips(tmp_path: Path):
    content = bench_shard.measure(bench_shard.Args(clips=6, repeats=1), tmp_path)
    assert [r["name"] for r in content["results"]][1:3] == list(RATES)[1:]
    assert min(content["starts_s"].values()) > 0.3 and min(content["stages_ms"].values()) > 0
    assert "starting takes: plain loop" in bench_shard.explained(content)
    assert "| decode |" in FORMS["bench_shard"](content)


@pytest.mark.slow
@pytest.mark.parametrize(("part", "rows"), [("build", 2), ("index", 2)])
def test_each_part_of_the_scale_is_measured(tmp_path: Path, part, rows: int):
    args = bench_shard_scale.Args(part=part, sizes=(20, 40), index_clips=2000, repeats=1)
    content = bench_shard_scale.measure(args, tmp_path)
    assert len(content["results"]) == rows and "clips/s" in speeds(content)
    assert all(row["elapsed_s"] > 0 and row["main_mib"] > 10 for row in content["results"])
