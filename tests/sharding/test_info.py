"""What `sharding.info` says of shards: lengths, and classes by split."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from conftest import assert_user_error, run_command

from psla_wds.shards.index_files import open_indexes, read_index
from sharding.info import render, summarise


def test_classes_are_counted_in_each_split(shards: Path):
    summary = summarise(read_index(shards))
    for name in ("train", "eval"):
        part = open_indexes(f"{shards}:{name}").class_counts().tolist()
        assert [row["splits"][name] for row in summary["classes"]] == part
    for row in summary["classes"]:
        assert sum(row["splits"].values()) == row["clips"]
    head, *rows = render(summary, shards).splitlines()[-len(summary["classes"]) - 1 :]
    assert head.split() == ["clips", *summary["splits"]]
    first = max(summary["classes"], key=lambda row: row["clips"])
    assert rows[0].split()[-5:-1] == [
        *first["name"].split()[-1:], str(first["clips"]), *map(str, first["splits"].values())
    ]  # fmt: skip
    alone = render(summarise(open_indexes(f"{shards}:train")), shards)
    assert "clips " in alone


def test_a_folder_of_builds_names_them(shards: Path, tmp_path: Path):
    for name in ("train", "my eval"):
        (tmp_path / name).symlink_to(shards)
    (tmp_path / "other").mkdir()
    for command in ("check", "info", "stats"):
        done = run_command(f"sharding.{command}", tmp_path, check=False)
        assert_user_error(done, f"'{tmp_path}/my eval' {tmp_path}/train\n")
    done = run_command("sharding.check", f"{shards}:eval", check=False)
    assert_user_error(done, "name the folder without :eval")


def test_splits_can_be_named(shards: Path):
    printed = run_command("sharding.info", f"{shards}:eval", "--json").stdout
    assert json.loads(printed)["clips"] == len(open_indexes(f"{shards}:eval"))


def test_only_shards_with_clips_of_the_split_count(shards: Path):
    index = read_index(shards)
    summary = summarise(index.select(np.flatnonzero(index.shard == 1), "one"))
    assert summary["shards"] == 1 and summary["bytes"] == index.shards[1].stat().st_size


def test_equal_lengths_are_one_row(shards: Path):
    index = read_index(shards)
    equal = replace(index, num_samples=np.full(len(index), 5 * index.sample_rate_hz))
    summary = summarise(equal)
    assert [row["clips"] for row in summary["duration_histogram"]] == [len(index)]
    (line,) = [line for line in render(summary, shards).splitlines() if line.startswith("  5.00 s")]
    assert line.split()[2] == str(len(index))
    assert len(summarise(index)["duration_histogram"]) == 10
