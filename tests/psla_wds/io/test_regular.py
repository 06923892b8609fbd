"""Files of strangers that are no files: refused at once, wherever they stand."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fuzz.properties import accepted
from fuzz.tally import TALLY

from eval.export import read_headlines
from psla_wds.config import read_json
from psla_wds.errors import PslaError
from psla_wds.evaluation.mapping import read_mapping
from psla_wds.evaluation.score_folder import read_top_scores
from psla_wds.evaluation.scores import Scores
from psla_wds.evaluation.thresholds import read_thresholds
from psla_wds.features.config import FeatureConfig
from psla_wds.io.columns import map_column
from psla_wds.io.regular import CLASSES_BYTES, CONFIG_BYTES, open_regular
from psla_wds.labels.class_list import read_class_list
from psla_wds.labels.ontology import read_ontology
from psla_wds.models.checkpoint import load_checkpoint
from psla_wds.shards.index_files import META_BYTES, read_index
from psla_wds.shards.tar import read_sidecar
from sharding.packing.duplicates import read_duplicates
from sharding.packing.plan import read_plan
from sharding.packing.reports import read_rejected
from sharding.sources.parquet_files import open_parquet
from sharding.sources.rows import csv_rows, jsonl_rows
from train.config import read_config


def read_parquet(path: Path) -> None:
    with open_parquet(path):
        pass


READERS: dict[str, Callable[[Path], object]] = {
    "build.json": lambda path: read_plan(path.parent),
    "clips.csv": lambda path: list(csv_rows(path, ("path",))),
    "clips.jsonl": lambda path: list(jsonl_rows(path)),
    "clips.parquet": read_parquet,
    "classes.csv": read_class_list,
    "config.json": lambda path: read_json(FeatureConfig, path),
    "duplicates.json": lambda path: read_duplicates(path.parent),
    "index/meta.json": lambda path: read_index(path.parents[1]),
    "mapping.csv": lambda path: read_mapping(str(path)),
    "metrics.json": read_headlines,
    "model.pt": load_checkpoint,
    "ontology.json": read_ontology,
    "rejected.jsonl": read_rejected,
    "run/config.json": read_config,
    "scores.json": lambda path: read_top_scores(path.parent),
    "scores.npz": Scores.load,
    "shard-000000.sidecar.json": lambda path: read_sidecar(path.with_name("shard-000000.tar")),
    "thresholds.json": read_thresholds,
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", READERS)
def test_pipes_and_devices_are_refused_at_once(tmp_path: Path, name: str):
    pipe, device = tmp_path / "pipe" / name, tmp_path / "device" / name
    for path in (pipe, device):
        path.parent.mkdir(parents=True)
    os.mkfifo(pipe)
    device.symlink_to("/dev/zero")
    for path in (pipe, device):
        assert accepted(lambda path=path: READERS[name](path) or True) is None
        TALLY.update(limits=1, met=1)


def test_links_to_regular_files_of_the_size_are_opened(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("file")
    with open_regular(tmp_path / "link", max_bytes=5) as file:
        assert file.read() == b"12345"
    with pytest.raises(OSError, match="larger than 4 bytes"):
        open_regular(tmp_path / "link", max_bytes=4)
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)


@pytest.mark.timeout(20)
def test_a_column_is_not_a_pipe(tmp_path: Path):
    os.mkfifo(tmp_path / "size.npy")
    with pytest.raises(OSError, match="not a regular file"):
        map_column(tmp_path / "size.npy", np.int64)


SMALLEST = dict.fromkeys(["build.json", "run/config.json"], CONFIG_BYTES)
SMALLEST |= {"index/meta.json": META_BYTES}
"""Limits of JSON; all others of these have that of files with classes."""
JSON = ("config.json", "ontology.json", "scores.json", "metrics.json", "thresholds.json")


@pytest.mark.parametrize("name", [*JSON, *SMALLEST])
def test_json_that_unpacks_to_much_is_not_read(tmp_path: Path, name: str):
    """Lists take 25 times as much memory as text."""
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"[" + b"[]," * (SMALLEST.get(name, CLASSES_BYTES) // 3) + b"[]]")
    assert accepted(lambda: READERS[name](path) or True) is None


@pytest.mark.parametrize("name", ["clips.csv", "clips.jsonl"])
def test_a_line_without_an_end_is_not_read(tmp_path: Path, name: str):
    with (tmp_path / name).open("wb") as file:
        file.truncate(2**40)
    assert accepted(lambda: READERS[name](tmp_path / name) or True) is None


def test_a_large_sparse_file_is_not_read(tmp_path: Path):
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(PslaError, match="larger than"):
        read_json(FeatureConfig, tmp_path / "config.json")
