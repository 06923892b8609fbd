"""Labels of a table for packed clips: every form, every choice, and what cannot be meant."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY_CLASSES, assert_user_error, run_command
from hypothesis import given, settings
from hypothesis import strategies as st
from label_overlays import named_index

from psla_wds.errors import ConfigError, LabelError, ManifestError, PslaError
from psla_wds.labels.class_list import ClassList
from psla_wds.labels.manifest import short_id
from psla_wds.shards.clip_ids import NOT_THERE, ClipIds
from psla_wds.shards.index import ShardIndex
from psla_wds.shards.index_files import open_indexes
from psla_wds.shards.overlay import apply_overlay
from sharding.overlay import Args, relabelled, run
from sharding.sources.new_labels import NewLabels, Skipped, TableOptions, read_new_labels

LOW, MIDDLE, HIGH, NOISE = range(4)


@pytest.fixture
def index(shards: Path) -> ShardIndex:
    return open_indexes([str(shards)])


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def overlaid(shards: Path, table: Path, output: Path, **options: Any) -> dict[str, list[int]]:
    """Labels of each clip by the overlay from a table."""
    run(Args((str(shards),), labels=table, output=output, **options), table, output)
    return labels_of(apply_overlay(open_indexes([str(shards)]), output))


def labels_of(index: ShardIndex) -> dict[str, list[int]]:
    return {index.clip_id(row): index.labels(row).tolist() for row in range(len(index))}


def refused(shards: Path, table: Path, message: str, **options: Any) -> None:
    output = table.with_name("refused")
    with pytest.raises(PslaError, match=f"(?s){message}"):
        overlaid(shards, table, output, **options)
    assert not output.exists() and not list(output.parent.glob("refused*"))


def random_labels(index: ShardIndex) -> dict[str, list[int]]:
    drawn = np.random.default_rng(0).random((len(index), 4)) < 0.4
    ids = list(index.clip_ids)
    return {ids[row]: np.flatnonzero(drawn[row]).tolist() for row in range(len(ids))}


FORMS: dict[str, tuple[Callable[[Path, list], Path], str, Callable[[list[int]], Any]]] = {
    "names in CSV": (write_csv, "t.csv", lambda own: "|".join(TINY_CLASSES[k] for k in own)),
    "mids in JSON": (write_jsonl, "t.jsonl", lambda own: [f"/t/{k}" for k in own]),
    "indices in JSON": (write_jsonl, "t.jsonl", lambda own: own),
    "multi-hot in Parquet": (
        write_parquet, "t.parquet", lambda own: [int(k in own) for k in range(4)]
    ),
    "names in Parquet": (write_parquet, "t.parquet", lambda own: [TINY_CLASSES[k] for k in own]),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_labels_of_any_form_replace_those_of_the_clips(
    shards: Path, index: ShardIndex, tmp_path: Path, form: str
):
    write, name, cell = FORMS[form]
    wanted = random_labels(index)
    wanted |= {clip_id: [HIGH] for clip_id in list(wanted)[:4]}
    rows = [{"who": clip_id, "what": cell(own)} for clip_id, own in reversed(wanted.items())]
    columns = {"id_column": "who", "label_column": "what"}
    table = write(tmp_path / name, rows)
    assert overlaid(shards, table, tmp_path / "o", **columns) == wanted


def test_the_export_gives_the_same_labels_again(shards: Path, index: ShardIndex, tmp_path: Path):
    """The very same files, from labels of the shards and from those of an overlay."""
    rows = [{"clip_id": clip_id, "labels": own} for clip_id, own in random_labels(index).items()]
    first, again, copy = (tmp_path / name for name in ("first", "again", "copy.jsonl"))
    wanted = overlaid(shards, write_jsonl(tmp_path / "t.jsonl", rows), first)
    done = run_command("sharding.overlay", shards, f"--base={first}", f"--export={copy}")
    assert f"wrote the labels of 48 clips to {copy}" in done.stdout
    assert overlaid(shards, copy, again) == wanted == random_labels(index)
    for name in ("label_starts.npy", "label_values.npy", "overlay.json"):
        assert (again / name).read_bytes() == (first / name).read_bytes()
    run_command("sharding.overlay", shards, f"--export={tmp_path / 'own.jsonl'}")
    assert overlaid(shards, tmp_path / "own.jsonl", tmp_path / "own") == labels_of(index)
    report = json.loads((tmp_path / "own" / "report.json").read_text())
    assert (report["labels_added"], report["labels_removed"], report["impacted_clips"]) == (0, 0, 0)


def test_the_command_counts_and_says_what_is_next(shards: Path, index: ShardIndex, tmp_path: Path):
    ids = list(index.clip_ids)
    rows = [{"clip_id": clip_id, "labels": "noise|Dog"} for clip_id in (*ids[:3], "stranger")]
    table, output = write_csv(tmp_path / "t.csv", rows), tmp_path / "o"
    words = [str(shards), f"--labels={table}", f"--output={output}"]
    done = run_command("sharding.overlay", *words, check=False)
    assert_user_error(done, "4 labels are not among the 4 classes: 'Dog' (4)")
    assert not output.exists()
    done = run_command(
        "sharding.overlay", *words, "--unknown-labels=skip", f"--export={tmp_path / 'e'}"
    )
    report = json.loads((output / "report.json").read_text())
    assert (report["clips_in_table"], report["clips"]) == (3, 48)
    assert (report["rows_of_other_clips"], report["other_clips"]) == (1, ["stranger"])
    assert report["unknown_labels_by_frequency"] == {"Dog": 4}
    for text in (done.stdout, (output / "report.txt").read_text()):
        assert "3 of 48 clips are in the table; 45 others keep their labels" in text
        assert "1 rows are of other clips, such as 'stranger'" in text
        assert "4 labels are not in the class list: 'Dog' (4)" in text
    assert done.stdout.splitlines()[-1].endswith(
        f"next: psla-wds train RECIPE --index {shards} --labels {output}"
    )
    labelled = labels_of(apply_overlay(index, output))
    assert [labelled[clip_id] for clip_id in ids[:3]] == [[NOISE]] * 3
    assert {k: v for k, v in labelled.items() if k not in ids[:3]} == {
        k: v for k, v in labels_of(index).items() if k not in ids[:3]
    }
    lines = [json.loads(line) for line in (tmp_path / "e").read_text().splitlines()]
    assert {line["clip_id"]: line["labels"] for line in lines}[ids[0]] == ["/t/3"]


def test_clips_that_the_table_lacks_are_treated_as_said(
    shards: Path, index: ShardIndex, tmp_path: Path
):
    own = labels_of(index)
    first, second = list(own)[:2]
    rows = [{"clip_id": first, "labels": ["noise"]}, {"clip_id": second, "labels": []}]
    table = write_jsonl(tmp_path / "t.jsonl", rows)
    said = {first: [NOISE], second: []}
    assert overlaid(shards, table, tmp_path / "k") == own | said
    cleared = overlaid(shards, table, tmp_path / "c", missing="clear")
    assert cleared == {clip_id: [] for clip_id in own} | said
    added = overlaid(shards, table, tmp_path / "a", add=True)
    assert added == own | {first: sorted({NOISE, *own[first]})}
    message = rf"the table lacks 46 of 48 clips: .*'{list(own)[2]}'.*\+41 more"
    refused(shards, table, message, missing="error")


def test_labels_below_the_threshold_are_left_out(shards: Path, index: ShardIndex, tmp_path: Path):
    own = labels_of(index)
    a, b, c, d = list(own)[:4]
    rows = [
        {"clip_id": a, "labels": ["low", "high", "noise"], "score": [0.9, 0.49, 0.5]},
        {"clip_id": b, "labels": ["low", "high"], "score": [0.7]},
        {"clip_id": c, "labels": ["high"], "score": [0.1]},
        {"clip_id": d, "labels": [], "score": []},
    ]
    wanted = own | {a: [LOW, NOISE], b: [LOW, HIGH], d: []}  # nothing is left of c: it is missing
    options = {"confidence_column": "score", "threshold": 0.5}
    table = write_jsonl(tmp_path / "t.jsonl", rows)
    assert overlaid(shards, table, tmp_path / "o", **options) == wanted
    report = json.loads((tmp_path / "o" / "report.json").read_text())
    assert (report["labels_below_threshold"], report["rows_without_usable_labels"]) == (2, 1)
    assert "2 labels are below 0.5" in (tmp_path / "o" / "report.txt").read_text()
    as_text = [
        {name: v if name == "clip_id" else ";".join(map(str, v)) for name, v in row.items()}
        for row in rows
    ]
    table = write_csv(tmp_path / "t.csv", as_text)
    assert overlaid(shards, table, tmp_path / "p", **options, separator=";") == wanted
    table = write_csv(tmp_path / "t.csv", as_text[:3])
    refused(shards, table, "no label of the table is left: 6 are below", separator=";",
            **options | {"threshold": 0.95})  # fmt: skip


@pytest.mark.parametrize(
    ("score", "message"),
    [
        ([0.1, 0.2], r"2 confidences for 1 labels.*\n.*line 1\n.*write one number"),
        ("much", "score is not a number: 'much'"),
        (None, "score is not a number: None"),
        (float("nan"), "score is not a number: nan"),
    ],
    ids=["too many", "text", "none", "nan"],
)
def test_a_confidence_that_is_no_number_is_refused(
    shards: Path, index: ShardIndex, tmp_path: Path, score: Any, message: str
):
    rows = [{"clip_id": index.clip_id(0), "labels": ["low"], "score": score}]
    table = write_jsonl(tmp_path / "t.jsonl", rows)
    refused(shards, table, message, confidence_column="score", threshold=0.5)


def test_multi_hot_labels_have_a_confidence_each(tmp_path: Path):
    """As many as are 1; a list of one for each class would be cut to something else in silence."""
    classes = ClassList(TINY_CLASSES, TINY_CLASSES)
    options = TableOptions(confidence_column="score", threshold=0.5)
    row = {"clip_id": "a", "labels": [0, 1, 1, 0], "score": [0.1, 0.9]}
    found = read_new_labels(write_jsonl(tmp_path / "t.jsonl", [row]), options, classes)
    assert found.values.tolist() == [HIGH]
    table = write_jsonl(tmp_path / "t.jsonl", [row | {"score": [0, 0.1, 0.9, 0]}])
    with pytest.raises(ManifestError, match="4 confidences for 2 labels"):
        read_new_labels(table, options, classes)


def test_several_rows_of_a_clip_are_joined_as_said(shards: Path, index: ShardIndex, tmp_path: Path):
    own = labels_of(index)
    a, b = list(own)[:2]
    rows = [{"clip_id": a, "labels": "low"}, {"clip_id": b, "labels": "high"},
            {"clip_id": a, "labels": "noise"}, {"clip_id": b, "labels": "2"}]  # fmt: skip
    table = write_csv(tmp_path / "t.csv", rows)
    refused(shards, table, f"rows give 1 clips different labels: '{a}'\n.*t.csv\n.*--repeated")
    union = overlaid(shards, table, tmp_path / "u", repeated="union")
    assert union == own | {a: [LOW, NOISE], b: [HIGH]}
    last = overlaid(shards, table, tmp_path / "l", repeated="last")
    assert last == own | {a: [NOISE], b: [HIGH]}


def test_names_of_files_fit_the_ids_of_clips(shards: Path, index: ShardIndex, tmp_path: Path):
    own = labels_of(index)
    a, b = list(own)[:2]
    assert Path(a).suffix in (".wav", ".ogg", ".flac")
    rows = [
        {"clip_id": Path(a).stem, "labels": "high"},
        {"clip_id": f"{Path(b).stem}.mp3", "labels": "high"},
    ]
    table = write_csv(tmp_path / "t.csv", rows)
    assert overlaid(shards, table, tmp_path / "o") == own | {a: [HIGH], b: [HIGH]}


def test_an_id_with_a_suffix_is_that_clip_first(tmp_path: Path):
    index = named_index({"a": [0], "a.wav": [0], "b": [0]}, TINY_CLASSES)
    wanted = {"a.wav": 1, "b.flac": 2, "c.wav": NOT_THERE, "a.mp3": NOT_THERE, "a": 0}
    table = write_csv(tmp_path / "t.csv", [{"clip_id": k, "labels": "high"} for k in wanted])
    found = read_new_labels(table, TableOptions(), index.classes).rows_in(index.clip_ids)
    assert found.tolist() == list(wanted.values())


def test_a_long_id_is_found_as_it_is_packed(tmp_path: Path):
    long = "x" * 300
    index = named_index({"b": [0], short_id(long): [0]}, TINY_CLASSES)
    table = write_csv(tmp_path / "t.csv", [{"clip_id": long, "labels": "high"}])
    found = read_new_labels(table, TableOptions(), index.classes)
    assert found.rows_in(index.clip_ids).tolist() == [1]


def test_several_sets_of_shards_have_one_overlay(shards: Path, tmp_path: Path):
    specs = (f"{shards}:eval", f"{shards}:train")
    index = open_indexes(specs)
    rows = [{"clip_id": clip_id, "labels": [3]} for clip_id in index.clip_ids]
    table, output = write_jsonl(tmp_path / "t.jsonl", rows), tmp_path / "o"
    run(Args(specs, labels=table, output=output), table, output)
    assert apply_overlay(index, output).class_counts().tolist() == [0, 0, 0, 48]
    with pytest.raises(LabelError, match="another index"):
        apply_overlay(open_indexes(specs[::-1]), output)


def test_clips_of_other_shards_can_be_an_error(shards: Path, index: ShardIndex, tmp_path: Path):
    rows = [{"clip_id": f"x{i}", "labels": "low"} for i in range(7)]
    table = write_csv(tmp_path / "t.csv", rows)
    refused(shards, table, r"none of these 48 clips: it has 'x0'.*\+2 more.*column clip_id")
    rows.append({"clip_id": index.clip_id(0), "labels": "low"})
    table = write_csv(tmp_path / "t.csv", rows)
    refused(shards, table, "7 rows have clips that are not in these shards: 'x0'",
            unknown_ids="error")  # fmt: skip


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"clip_id": "", "labels": ["low"]}, "the row has no clip_id"),
        ({"clip_id": None, "labels": ["low"]}, "the row has no clip_id"),
        ({"clip_id": "\ud800", "labels": ["low"]}, "not text that UTF-8 can hold"),
        ({"clip_id": "a", "labels": [0.5]}, "a label is neither text nor an index"),
        ({"clip_id": "a", "labels": ["lov"]}, "'lov'.*\n.*\n.*did you mean 'low'"),
        ({"clip_id": "a", "label": "low"}, "the row has clip_id, label, and not"),
    ],
    ids=["empty id", "no id", "no text", "half a label", "no class", "no column"],
)  # fmt: skip
def test_a_row_that_cannot_be_meant_is_refused(
    shards: Path, tmp_path: Path, row: dict, message: str
):
    refused(shards, write_jsonl(tmp_path / "t.jsonl", [row]), message)


def test_settings_that_contradict_are_refused(tmp_path: Path):
    table, output = tmp_path / "t.csv", tmp_path / "o"
    for options, where in (
        ({"labels": table}, "--labels and --output"),
        ({"output": output}, "--labels and --output"),
        ({}, "--labels and --output"),
        ({"labels": table, "output": output, "threshold": 0.5}, "--confidence-column and"),
        ({"labels": table, "output": output, "confidence_column": "c"}, "--confidence-column and"),
        ({"labels": table, "output": output, "separator": ""}, "--separator"),
        ({"labels": table, "output": output, "confidence_column": "c",
          "threshold": float("nan")}, "--threshold"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=f"where: {where}"):
            Args(("s",), **options)
    assert_user_error(run_command("sharding.overlay", check=False), "no shards are named", "SHARDS")


def by_definition(own: list, rows: list, repeated: str, missing: str, add: bool) -> list | None:
    """Labels after a table, clip by clip; None for an error."""
    found = []
    for row, labels in enumerate(own):
        said = [set(new) for clip, new in rows if clip == row]
        if repeated == "error" and any(other != said[0] for other in said):
            return None
        if not said:
            if missing == "error":
                return None
            found.append(sorted(labels) if missing == "keep" else [])
            continue
        new = said[-1] if repeated == "last" else set().union(*said)
        found.append(sorted(new | set(labels) if add else new))
    return found


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_table_follows_the_definition(data):
    labels = st.lists(st.integers(0, 3), unique=True).map(sorted)
    own = data.draw(st.lists(labels, min_size=1, max_size=6))
    rows = data.draw(st.lists(st.tuples(st.integers(NOT_THERE, len(own) - 1), labels), max_size=9))
    choice = {
        "repeated": data.draw(st.sampled_from(["error", "union", "last"])),
        "missing": data.draw(st.sampled_from(["keep", "clear", "error"])),
        "add": data.draw(st.booleans()),
    }
    index = named_index({str(i): labels for i, labels in enumerate(own)}, TINY_CLASSES)
    new = NewLabels(
        ClipIds.of(str(clip) for clip, _ in rows),
        np.cumsum([0, *(len(labels) for _, labels in rows)], dtype=np.int64),
        np.array([k for _, labels in rows for k in labels], np.uint16),
        Skipped(),
    )
    args = replace(Args(("s",), export=Path("no such")), **choice)
    expected = by_definition(own, [row for row in rows if row[0] != NOT_THERE], **choice)
    places = np.array([clip for clip, _ in rows], np.int64)
    if expected is None:
        with pytest.raises(LabelError):
            relabelled(index, places, new, args)
    else:
        assert list(labels_of(relabelled(index, places, new, args)).values()) == expected
