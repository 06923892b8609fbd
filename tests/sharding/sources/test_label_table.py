"""Labels of clips in tars from a table beside them."""

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from conftest import TINY_CLASSES, assert_user_error, run_command
from data_sets import audio_of, write_class_labels, write_members, write_table

from psla_wds.errors import ConfigError, ManifestError
from psla_wds.labels.manifest import Clip
from sharding.build import build
from sharding.check import check
from sharding.index import make_index
from sharding.packing.config import PackConfig
from sharding.packing.reports import REJECTED
from sharding.sources import TarsSource
from sharding.sources.label_table import LabelOptions

NAMES = TINY_CLASSES
COLUMNS = {"key": "file", "label_column": "labels"}


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    return write_class_labels(tmp_path / "classes.csv")


def tar_of(
    folder: Path, *names: str, tar: str = "a", json_: dict[str, object] | None = None
) -> Path:
    members = {name: audio_of(number, "wav") for number, name in enumerate(names)}
    for name in names if json_ else ():
        members[f"{name.partition('.')[0]}.json"] = json.dumps(json_).encode()
    return write_members(folder / "tars" / f"{tar}.tar", members)


def table_of(folder: Path, *rows: tuple[str, str]) -> LabelOptions:
    path = write_table(folder / "table.csv", [["file", "labels"], *map(list, rows)])
    return LabelOptions(labels=path, **COLUMNS)


def clips_of(folder: Path, classes: Path, options: LabelOptions) -> list[Clip]:
    settings = {name: getattr(options, name) for name in ("labels", "key", "label_column")}
    return list(TarsSource(folder=folder, class_labels=classes, **settings).read()[1])


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_index_and_build_take_labels_from_a_table(tmp_path: Path, classes: Path, kind: str):
    folder = tar_of(tmp_path, "x.wav", "y.wav", "z.wav")
    rows = [{"file": "x", "labels": [0, 0, 1, 0]}, {"file": "y.wav", "labels": [NAMES[0], "/t/3"]}]
    path = tmp_path / f"table.{kind}"
    if kind == "parquet":
        texts = [{**row, "labels": "|".join(map(str, row["labels"]))} for row in rows]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(texts), path)
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        texts = [[row["file"], "|".join(map(str, row["labels"]))] for row in rows]
        write_table(path, [["file", "labels"], *texts])
    options = LabelOptions(labels=path, **COLUMNS)
    index, _ = make_index(folder, classes, options=options, max_rejected=0.4)
    assert {index.clip_id(row): index.labels(row).tolist() for row in range(2)} == {
        "x": [2],
        "y": [0, 3],
    }
    (refused,) = map(json.loads, (folder / REJECTED).read_text().splitlines())
    assert (refused["clip_id"], refused["reason"]) == ("z", "no-label")
    assert "no row for 'z'" in refused["detail"]
    assert check(folder, deep=True) == []
    clips = clips_of(folder, classes, options)
    assert [(clip.clip_id, clip.labels) for clip in clips] == [
        ("x", (2,)),
        ("y", (0, 3)),
        ("z", ()),
    ]


@pytest.mark.parametrize(
    ("member", "key"),
    [
        ("x.wav", "x"),
        ("x.wav", "x.wav"),
        ("x.wav", "x.flac"),
        ("x.wav", "./x.wav"),
        ("x.wav", "a/x"),
        ("x.wav", "/data/audio/x.wav"),
        ("d/x.wav", "x.wav"),
        ("d/x.wav", "d/x"),
        ("d/x.wav", "audio/d/x.mp3"),
        ("Y_30.000_40.000.wav", "Y_30.000_40.000"),
        ("Y_30.000_40.000.wav", "Y_30"),
    ],
)
def test_rows_are_found_by_key_path_or_file_name(
    tmp_path: Path, classes: Path, member: str, key: str
):
    folder = tar_of(tmp_path, member)
    (clip,) = clips_of(folder, classes, table_of(tmp_path, (key, "low"), ("other", "noise")))
    assert clip.labels == (0,) and clip.refusal is None


def test_rows_are_found_by_the_id_in_the_json(tmp_path: Path, classes: Path):
    folder = tar_of(tmp_path, "x.wav", json_={"id": "real", "labels": ["noise"]})
    (clip,) = clips_of(folder, classes, table_of(tmp_path, ("real", "low"), ("x", "noise")))
    assert (clip.clip_id, clip.labels) == ("real", (0,))


def test_a_row_of_another_folder_does_not_fit(tmp_path: Path, classes: Path):
    folder = tar_of(tmp_path, "val/x.wav")
    (clip,) = clips_of(folder, classes, table_of(tmp_path, ("train/x", "low")))
    assert clip.refusal and clip.refusal[0] == "no-label"


def test_several_rows_that_fit_refuse_the_clip(tmp_path: Path, classes: Path):
    folder = tar_of(tmp_path, "x.wav")
    options = table_of(tmp_path, ("train/x", "low"), ("val/x", "noise"))
    (clip,) = clips_of(folder, classes, options)
    assert clip.refusal and clip.refusal[0] == "bad-label" and "'val/x'" in clip.refusal[1]


def test_a_row_that_fits_two_clips_is_an_error(tmp_path: Path, classes: Path):
    folder = tar_of(tmp_path, "d/x.wav", "e/x.wav")
    message = "(?s)row of 'x' fits two clips: a, d/x and a, e/x.*table.csv, line 2"
    with pytest.raises(ManifestError, match=message):
        clips_of(folder, classes, table_of(tmp_path, ("x", "low")))
    with pytest.raises(ManifestError, match=message):
        make_index(folder, classes, options=table_of(tmp_path, ("x", "low")))


def test_a_row_used_in_an_earlier_run_stays_used(tmp_path: Path, classes: Path):
    options = table_of(tmp_path, ("x", "low"))
    folder = tar_of(tmp_path, "d/x.wav")
    make_index(folder, classes, options=options)
    tar_of(tmp_path, "e/x.wav", tar="b")
    with pytest.raises(ManifestError, match="fits two clips: a, d/x and b, e/x"):
        make_index(folder, classes, options=options)


def test_repeating_keys_are_found_with_their_tar(tmp_path: Path, classes: Path):
    for tar in ("s-0", "s-1"):
        folder = tar_of(tmp_path, "000.wav", tar=tar)
    options = table_of(tmp_path, ("s-0/000", "low"), ("s-1/000.wav", "noise"))
    expected = {"s-0/000": [0], "s-1/000": [3]}
    index, _ = make_index(folder, classes, options=options)
    assert {index.clip_id(row): index.labels(row).tolist() for row in range(2)} == expected
    assert check(folder, deep=True) == []
    clips = clips_of(folder, classes, options)
    assert {clip.clip_id: list(clip.labels) for clip in clips} == expected
    bare = table_of(tmp_path, ("000", "low"))
    assert [clip.refusal and clip.refusal[0] for clip in clips_of(folder, classes, bare)] == [
        "no-label",
        "no-label",
    ]
    with pytest.raises(ManifestError, match="fits two clips"):
        make_index(folder, classes, options=bare)


def test_rows_twice_must_agree_and_unused_ones_are_counted(
    tmp_path: Path, classes: Path, caplog: pytest.LogCaptureFixture
):
    folder = tar_of(tmp_path, "x.wav")
    options = table_of(tmp_path, ("x", "low"), ("x.wav", "/t/0"), ("gone", "low"))
    make_index(folder, classes, options=options)
    assert "1 of 2 rows fit no clip, such as 'gone'" in caplog.text
    with pytest.raises(ManifestError, match=r"(?s)different labels.*line 2 and .*line 3"):
        make_index(folder, classes, options=table_of(tmp_path, ("x", "low"), ("x", "noise")))


def test_bad_rows_refuse_their_clips_alone(tmp_path: Path, classes: Path):
    folder = tar_of(tmp_path, "x.wav", "y.wav", "z.wav")
    rows = (("x", "lwo"), ("y", ""), ("z", "low"), ("unused", "lwo"))
    clips = clips_of(folder, classes, table_of(tmp_path, *rows))
    assert [clip.refusal and clip.refusal[0] for clip in clips] == [
        "unknown-label",
        "no-label",
        None,
    ]
    assert "line 2" in clips[0].refusal[1]


def test_a_changed_table_scans_the_tars_again(tmp_path: Path, classes: Path):
    folder = tar_of(tmp_path, "x.wav")
    options = table_of(tmp_path, ("x", "low"))
    assert make_index(folder, classes, options=options)[1].num_scanned == 1
    assert make_index(folder, options=options)[1].num_scanned == 0
    assert make_index(folder)[1].num_scanned == 0
    index, found = make_index(folder, options=table_of(tmp_path, ("x", "noise")))
    assert found.num_scanned == 1 and index.labels(0).tolist() == [3]


def test_kept_unlabelled_clips_of_tars_are_packed(tmp_path: Path, classes: Path):
    folder = tar_of(tmp_path, "x.wav", json_={"caption": "?"})
    write_members(folder / "b.tar", {"y.wav": audio_of(1, "wav"), "y.json": b'{"labels": 3}'})
    source = TarsSource(folder=folder, class_labels=classes)
    build(source, PackConfig(output=tmp_path / "without", max_rejected=0.5))
    refused = json.loads((tmp_path / "without" / REJECTED).read_text())
    assert (refused["clip_id"], refused["reason"]) == ("x", "no-label")
    assert "only caption" in refused["detail"]
    build(source, PackConfig(output=tmp_path / "with", keep_unlabelled=True))
    index = make_index(tmp_path / "with")[0]
    labels = {index.clip_id(row): index.labels(row).tolist() for row in range(len(index))}
    assert labels == {"x": [], "y": [3]}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "id,labels\nx,low\n", "must name the columns file and labels"),
        ("t.jsonl", '{"file": "x", "text": "low"}\n', "(?s)has file, text, .*line 1"),
        ("t.jsonl", '{"file": null, "labels": "low"}\n', "(?s)has no file.*line 1"),
        ("t.parquet", "PAR1", "Parquet file cannot be read"),
        ("t.txt", "x", "not .csv, .jsonl or .parquet"),
        ("gone.parquet", None, "no such file"),
        ("gone.csv", None, "no such file"),
    ],
)
def test_a_table_that_cannot_be_used_is_named(
    tmp_path: Path, classes: Path, name: str, content: str | None, message: str
):
    folder = tar_of(tmp_path, "x.wav")
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ManifestError, match=message):
        make_index(folder, classes, options=LabelOptions(labels=tmp_path / name, **COLUMNS))


def test_columns_that_a_parquet_lacks_are_named(tmp_path: Path, classes: Path):
    pyarrow.parquet.write_table(
        pyarrow.table({"id": ["x"], "tags": ["low"]}), tmp_path / "t.parquet"
    )
    options = LabelOptions(labels=tmp_path / "t.parquet", **COLUMNS)
    with pytest.raises(ManifestError, match="the columns id, tags, and not file and labels"):
        make_index(tar_of(tmp_path, "x.wav"), classes, options=options)


@pytest.mark.parametrize(
    "settings",
    [
        {"labels": Path("t.csv")},
        {"key": "file"},
        {"label_key": "a", "labels": Path("t.csv"), **COLUMNS},
    ],
)
def test_half_a_description_of_a_table_is_refused(settings: dict):
    with pytest.raises(ConfigError, match="--labels"):
        LabelOptions(**settings)


def test_both_commands_have_the_flags(tmp_path: Path, classes: Path):
    folder = tar_of(tmp_path, "x.wav")
    path = write_table(tmp_path / "t.csv", [["file", "labels"], ["x", "low"]])
    words = [f"--class-labels={classes}", f"--labels={path}", "--key=file"]
    done = run_command("sharding.index", str(folder), *words, check=False)
    assert_user_error(done, "all three settings")
    words.append("--label-column=labels")
    assert "1 scanned, 0 clips refused" in run_command("sharding.index", str(folder), *words).stdout
    done = run_command(
        "sharding.build", "tars", str(folder), *words, f"--output={tmp_path / 'out'}"
    )
    assert "wrote 1 clip " in done.stdout
