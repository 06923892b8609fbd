"""Models on data sets with other classes: the mappings we ship, and what they do to scores."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from label_overlays import named_index

from psla_wds.errors import ScoreError
from psla_wds.evaluation.mapping import COLUMNS, SHIPPED, map_scores, read_mapping, with_targets
from psla_wds.evaluation.metrics import accuracy, evaluate
from psla_wds.evaluation.scores import Scores, targets_of
from psla_wds.labels.class_list import ClassList, read_class_list

MODEL = ("/m/bark", "/m/meow", "/m/rain", "/m/drip")


@pytest.fixture
def mapping_path(tmp_path: Path) -> Path:
    path = tmp_path / "mapping.csv"
    path.write_text(
        ",".join(COLUMNS) + "\ndog,/m/bark,exact,yes\nwater,/m/drip|/m/rain,near,yes\n"
        "saw,,none,no\n"
    )
    return path


def scored() -> tuple[Scores, object]:
    """Four clips of three classes, scored by a model of four others, in another order."""
    index = named_index({"a": [0], "b": [1], "c": [2], "d": [1]}, ("saw", "water", "dog"))
    scores = np.array(
        [[0.9, 0.1, 0.7, 0.2], [0.3, 0.2, 0.8, 0.1], [0.6, 0.9, 0.0, 0.5], [0.2, 0.9, 0.1, 0.4]],
        np.float32,
    )[::-1]
    targets = targets_of(index, np.arange(4), ClassList(MODEL, MODEL))
    return Scores(("d", "c", "b", "a"), scores, targets, MODEL, MODEL), index


def test_scores_are_those_of_the_mapped_classes(mapping_path):
    scores, index = scored()
    assert not scores.targets.any()
    mapping = read_mapping(str(mapping_path))
    assert mapping.left_out == ("saw",)
    first = map_scores(scores, index, mapping, "first")
    assert first.clip_ids == ("b", "c", "d") and first.mids == ("dog", "water")
    np.testing.assert_array_equal(first.targets, [[0, 1], [1, 0], [0, 1]])
    np.testing.assert_allclose(first.scores, [[0.3, 0.1], [0.6, 0.5], [0.2, 0.4]])
    highest = map_scores(scores, index, mapping, "max")
    np.testing.assert_allclose(highest.scores, [[0.3, 0.8], [0.6, 0.5], [0.2, 0.4]])
    assert accuracy(first.scores, first.targets) == pytest.approx(2 / 3)
    assert accuracy(highest.scores, highest.targets) == 1.0
    assert evaluate(highest.scores, highest.targets).mAP == pytest.approx((1 + 5 / 6) / 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "mapping cannot be read"),
        ("class,mids,match,used\ndog,,exact,yes\n", "class dog has used='yes' and mids=''"),
        ("class,mids,match,used\ndog,/m/bark,exact,no\n", "no class is used"),
        ("class,mids,match,used\ndog,/m/bark,exact,yes\ndog,/m/meow,near,no\n", "listed twice"),
    ],
    ids=["missing", "no mids", "none used", "twice"],
)
def test_a_bad_mapping_is_refused(tmp_path: Path, text: str | None, message: str):
    path = tmp_path / "m.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ScoreError, match=message):
        read_mapping(str(path))


def test_a_mapping_of_other_classes_is_refused(tmp_path: Path):
    for row, message in (("cow,/m/bark", "have no class cow"), ("dog,/m/moo", "no class /m/moo")):
        (tmp_path / "m.csv").write_text(f"class,mids,match,used\n{row},exact,yes\n")
        with pytest.raises(ScoreError, match=message):
            map_scores(*scored(), read_mapping(str(tmp_path / "m.csv")), "first")


def test_labels_of_an_index_take_the_place_of_the_targets():
    index = named_index({"a": [0], "b": [1, 2], "c": [3]}, MODEL)
    ids, zeros = ("c", "a", "b"), np.zeros((3, 4), np.uint8)
    scores = Scores(ids, np.ones((3, 4), np.float32), zeros, MODEL, MODEL)
    done = with_targets(scores, index, where="p.npz")
    np.testing.assert_array_equal(done.targets, [[0, 0, 0, 1], [1, 0, 0, 0], [0, 1, 1, 0]])
    with pytest.raises(ScoreError, match="another order"):
        with_targets(replace(scores, mids=MODEL[::-1]), index, where="p.npz")


def test_the_mappings_we_ship_are_read_by_name():
    esc50, fsd50k = read_mapping("esc50"), read_mapping("fsd50k")
    assert (len(esc50.mids), len(esc50.left_out)) == (40, 10)
    assert (len(fsd50k.mids), len(fsd50k.left_out)) == (192, 8)
    assert "Human_voice" in fsd50k.left_out and "mouse_click" in esc50.left_out
    assert {path.stem for path in SHIPPED.iterdir()} == {"esc50", "fsd50k"}


def test_the_mappings_we_ship_name_classes_that_there_are(meta: Path):
    audioset = read_class_list(meta / "audioset_class_labels_indices.csv")
    with (meta / "esc50.csv").open() as file:
        categories = {row["category"] for row in csv.DictReader(file)}
    fsd50k = set(read_class_list(meta / "fsd50k_class_labels_indices.csv").names)
    for name, classes in (("esc50", categories), ("fsd50k", fsd50k)):
        mapping = read_mapping(name)
        assert {*mapping.mids, *mapping.left_out} == classes
        assert {mid for mids in mapping.mids.values() for mid in mids} <= set(audioset.mids)
