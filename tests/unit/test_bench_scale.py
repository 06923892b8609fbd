"""The projection's arithmetic, and the index that it is measured on."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.first_batch import tiled_index, tiled_labels
from benchmarks.scale import PLANS, STARTS, Line, check_prediction, fit_line, project
from psla_wds.reading.reader import Reader
from psla_wds.shards.index_files import open_indexes


def test_a_line_is_found_again():
    line = fit_line([10, 100, 1000], [5 + 3 * n for n in (10, 100, 1000)])
    assert (line.fixed, line.per_clip) == pytest.approx((5, 3))


def test_a_wrong_prediction_has_its_error_stated():
    check = check_prediction([10, 100, 1000], [1.0, 10.0, 200.0])
    assert check["predicted"] == pytest.approx(100)
    assert check["error"] == pytest.approx(-0.5)
    assert "1000" not in check["fitted_on"]


def test_what_a_node_reads_is_the_same_from_eight_gpus_on():
    lines = dict.fromkeys((*PLANS, *STARTS), Line(0.0, 1e-6))
    one, node, many = (project(7_200_000, gpus, lines, 100_000, 400) for gpus in (1, 8, 64))
    assert one.node_requests_per_s == 600  # half of the draws read a partner
    assert one.node_mb_per_s == pytest.approx(60)
    assert node.node_requests_per_s == many.node_requests_per_s == 4800
    assert one.epoch_hours == pytest.approx(5) and many.epoch_hours == pytest.approx(5 / 64)
    assert one.plan_s == many.plan_s == pytest.approx(7.2)


def test_a_tiled_index_repeats_clips_under_ids_of_their_own(shards: Path, tmp_path: Path):
    size = tiled_index(shards, tmp_path / "large", 100)
    index = open_indexes([str(tmp_path / "large")])
    index.check_shards()
    assert len(index) == 100 and size > 100
    assert len({index.clip_id(row) for row in range(100)}) == 100
    assert index.class_counts().sum() == len(index.label_values) >= 100
    reader = Reader(index, threads=1)  # checks every clip's CRC-32
    clips = reader.start(np.arange(100)).wait()
    reader.close()
    assert len(clips) == 100


def test_tiled_labels_are_those_of_the_rows_repeated(shards: Path):
    index = open_indexes([str(shards)])
    tiled = tiled_labels(index, 2 * len(index) + 5)
    assert len(tiled) == 2 * len(index) + 5
    for row in range(len(tiled)):
        assert tiled.labels(row).tolist() == index.labels(row % len(index)).tolist()
