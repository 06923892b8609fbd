"""Parquet files as the package `datasets` and others write them."""

import tempfile
from pathlib import Path
from typing import Any

import datasets
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from builds import content, ids, reasons
from conftest import assert_user_error, run_command
from data_sets import audio_of, sound, write_classes
from datasets import Audio, ClassLabel, Features, List, Value
from hypothesis import given, settings
from hypothesis import strategies as st
from services.store_server import serving

from psla_wds.audio.files import Notes
from psla_wds.errors import ClipRefusedError, ManifestError
from psla_wds.io.locations import Location, parse_location
from psla_wds.labels.manifest import Clip, checked
from psla_wds.shards.index_files import read_index
from sharding.packing.decode import decode
from sharding.sources import ParquetSource
from sharding.sources.parquet_files import read_cell

NAMES = ["Bark", "Rain, heavy", "Meow"]
AUDIO = [audio_of(number, ("wav", "flac", "ogg")[number % 3]) for number in range(6)]


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch) -> Path:
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def write(path: Path, features: dict[str, Any], audio: list[Any] = AUDIO, **columns: Any) -> Path:
    """A file as `datasets` writes it: clips a0, a1, ... in a column audio."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"bytes": content, "path": f"x/a{n}.wav"} for n, content in enumerate(audio)]
    schema = Features({"audio": Audio(decode=False)} | features).arrow_schema
    table = pa.Table.from_pydict({"audio": rows} | columns, schema=schema)
    datasets.Dataset(table).to_parquet(path, batch_size=4)
    return path


def clips_of(*files: Location, **options: Any) -> list[Clip]:
    return list(checked(ParquetSource(files=files, **options).read()[1]))


FORMS = {
    "a ClassLabel": (ClassLabel(names=NAMES), [0, 1, 2, 0, 1, -1]),
    "lists of ClassLabel": (List(ClassLabel(names=NAMES)), [[0], [1], [2], [0], [1], []]),
    "names": (Value("string"), [*NAMES, *NAMES[:2], None]),
    "lists of names": (List(Value("string")), [*([name] for name in [*NAMES, *NAMES[:2]]), None]),
    "names in a text": (Value("string"), ["Bark", "Rain, heavy", "Meow", "|Bark", "/m/b|/m/b", ""]),
    "lists of mids": (
        List(Value("string")),
        [["/m/a"], ["/m/b"], ["/m/c"], ["/m/a"], ["/m/b"], []],
    ),
    "indices": (Value("int32"), [0, 1, 2, 0, 1, None]),
    "multi-hot": (List(Value("bool")), [*np.eye(3, dtype=bool)[[0, 1, 2, 0, 1]].tolist(), []]),
}


@pytest.mark.parametrize("form", FORMS)
def test_labels_of_all_forms_are_read(tmp_path: Path, form: str):
    feature, values = FORMS[form]
    path = write(tmp_path / "train-00000-of-00001.parquet", {"label": feature}, label=values)
    clips = clips_of(path, class_labels=write_classes(tmp_path))
    assert [clip.labels for clip in clips] == [(0,), (1,), (2,), (0,), (1,), ()]
    assert [clip.clip_id for clip in clips] == [f"x/a{number}" for number in range(6)]
    assert {clip.split for clip in clips} == {"train"}
    names = ParquetSource(files=(path,))
    if "ClassLabel" in form:
        assert names.read()[0].names == tuple(NAMES)
    else:
        with pytest.raises(ManifestError, match="does not name the classes"):
            names.read()


def test_numbers_of_a_class_label_go_by_their_names(tmp_path: Path):
    feature = ClassLabel(names=["Meow", "Bark"])
    path = write(tmp_path / "a.parquet", {"label": feature}, AUDIO[:2], label=[0, 1])
    clips = clips_of(path, class_labels=write_classes(tmp_path))
    assert [clip.labels for clip in clips] == [(2,), (0,)]


@pytest.mark.parametrize(
    ("feature", "value", "message"),
    [
        (List(ClassLabel(names=NAMES)), [1, 0, 1], r"\[1, 0, 1\] has a class twice\n.*row 1"),
        (ClassLabel(names=["Bark", "Moo"]), 1, "'Moo' is not in the class list .*\n.*row 1"),
        (List(Value("int8")), [0, 0], "index 0 is there twice .*\n.*row 1"),
    ],
)
def test_labels_that_mislead_are_refused_by_row(tmp_path: Path, feature, value, message: str):
    first = [0] if isinstance(value, list) else 0
    path = write(tmp_path / "a.parquet", {"label": feature}, AUDIO[:2], label=[first, value])
    with pytest.raises(ManifestError, match=message):
        clips_of(path, class_labels=write_classes(tmp_path))


def test_a_number_beyond_the_classes_of_a_file_is_refused(tmp_path: Path):
    path = write(tmp_path / "a.parquet", {"label": ClassLabel(names=NAMES)}, AUDIO[:1], label=[0])
    table = pq.read_table(path)
    column = table.schema.get_field_index("label")
    pq.write_table(table.set_column(column, "label", pa.array([3], pa.int64())), path)
    with pytest.raises(ManifestError, match=r"label 3 is none of 3 classes\n.*row 0"):
        clips_of(path)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-00000-of-00001.parquet", "train"),
        ("validation-00001-of-00002-2f1ab7b824ec751f.parquet", "validation"),
        ("data/my-set-00001-of-00002.parquet", "my-set"),
        ("bal_train/00.parquet", "bal_train"),
        ("test.parquet", "test"),
        ("esc50.parquet", ""),
    ],
)
def test_the_split_is_in_the_name_of_a_file(tmp_path: Path, name: str, split: str):
    feature = {"label": ClassLabel(names=NAMES), "fold": Value("int8"), "part": Value("string")}
    columns = {"label": [0], "fold": [3], "part": ["dev"]}
    write(tmp_path / name, feature, AUDIO[:1], **columns)
    options: list[dict[str, Any]] = [{}, {"split": "x"}, {"split_column": "fold"}]
    found = [clips_of(tmp_path, **o)[0].split for o in [*options, {"split_column": "part"}]]
    assert found == [split, "x", "fold3", "dev"]
    groups = [clips_of(tmp_path, **o)[0].group for o in [{}, {"group_column": "fold"}]]
    assert groups == ["", "3"]


def test_clip_ids_are_unique_and_stable(tmp_path: Path):
    label = {"label": ClassLabel(names=NAMES)}
    for folder in ("a", "b"):
        write(tmp_path / folder / "0.parquet", label, AUDIO[:2], label=[0, 1])
    rows = {"audio": pa.array([b"", b""]), "label": [0, 1], "name": ["x", "y"]}
    pq.write_table(pa.table(rows), tmp_path / "c.parquet")
    classes = write_classes(tmp_path)
    found = [clip.clip_id for clip in clips_of(tmp_path, class_labels=classes)]
    assert found == ["x/a0", "x/a1", "b/0-0", "b/0-1", "c-0", "c-1"]
    named = clips_of(tmp_path / "c.parquet", class_labels=classes, id_column="name")
    assert [clip.clip_id for clip in named] == ["x", "y"]


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        (
            {"a": b"", "b": b"", "label": 0},
            {},
            "2 of the columns can be meant by --audio-column: a, b",
        ),
        ({"a": "text", "label": 0}, {}, "none of the columns can be meant by --audio-column"),
        ({"a": b"", "labels": [0], "tags": ["x"]}, {}, "--label-column: labels, tags"),
        ({"a": b"", "target": 0}, {}, "none .* --label-column: a, target"),
        (
            {"a": b"", "label": 0},
            {"id_column": "id"},
            "0 columns are named id\n.*\n.*it has a, label",
        ),
        ({"a": b"", "b": "x", "label": 0}, {"audio_column": "b"}, "column b has no bytes"),
    ],
)
def test_columns_that_do_not_fit_are_named(tmp_path: Path, columns, options, message: str):
    table = pa.table({name: [value] for name, value in columns.items()})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(ManifestError, match=message):
        clips_of(tmp_path / "a.parquet", class_labels=write_classes(tmp_path), **options)


def test_lists_of_bytes_are_audio_too(tmp_path: Path):
    audio = [list(content) for content in AUDIO[:2]]
    columns = {"fname": [7, 8], "mids": ["/m/a,/m/c", "/m/b"], "mp3": pa.array(audio, LISTS)}
    pq.write_table(pa.table(columns), tmp_path / "eval-00000-of-00001.parquet")
    options = {"class_labels": write_classes(tmp_path), "id_column": "fname", "separator": ","}
    clips = clips_of(tmp_path, **options)
    found = [(clip.clip_id, clip.labels, clip.split) for clip in clips]
    assert found == [("7", (0, 2), "eval"), ("8", (1,), "eval")]
    assert [read_cell(clip.path, clip.part) for clip in clips] == AUDIO[:2]


def test_a_path_named_as_another_kind_is_noted(tmp_path: Path):
    path = write(
        tmp_path / "a.parquet", {"label": ClassLabel(names=NAMES)}, AUDIO[:3], label=[0] * 3
    )
    said = []
    for clip in clips_of(path):
        decode(clip, sample_rate_hz=16_000, notes=(notes := Notes()))
        said.append(notes.flags.get("misnamed"))
    assert said == [None, "named .wav, is flac", "named .wav, is ogg"]


def test_human_labels_give_way_to_labels(tmp_path: Path):
    text = List(Value("string"))
    columns = {"labels": [["/m/a"]], "human_labels": [["Bark"]]}
    path = write(tmp_path / "a.parquet", dict.fromkeys(columns, text), AUDIO[:1], **columns)
    classes = write_classes(tmp_path)
    for options in ({}, {"label_column": "human_labels"}):
        assert clips_of(path, class_labels=classes, **options)[0].labels == (0,)


ALIKE = [bytes(100) + last for last in (b"a", b"b", b"c")]
VALUES = st.none() | st.binary(max_size=300) | st.sampled_from([b"", *ALIKE])
OPTIONS = st.fixed_dictionaries(
    {
        "compression": st.sampled_from(["none", "snappy", "zstd"]),
        "use_dictionary": st.booleans(),
        "row_group_size": st.integers(1, 20),
        "data_page_size": st.sampled_from([64, 1000, 2**20]),
        "write_batch_size": st.sampled_from([1, 3, 1024]),
        "data_page_version": st.sampled_from(["1.0", "2.0"]),
        "write_page_checksum": st.booleans(),
    }
)


LISTS = pa.list_(pa.uint8())
KINDS = [pa.binary(), pa.large_binary(), LISTS]


@settings(max_examples=100, deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=40), OPTIONS, st.sampled_from(KINDS), st.randoms())
def test_bytes_of_any_row_are_those_that_were_written(values, options, kind, random):
    with tempfile.TemporaryDirectory() as folder:
        audio = values
        if kind == LISTS:
            audio = [None if value is None else list(value) for value in values]
        if random.random() < 0.5:
            audio = [{"bytes": value, "path": None} for value in audio]
            audio = [
                None if row["bytes"] is None and random.random() < 0.5 else row for row in audio
            ]
            kind = pa.struct({"path": pa.string(), "bytes": kind})
        table = pa.table({"audio": pa.array(audio, kind), "label": [0] * len(values)})
        pq.write_table(table, Path(folder, "a.parquet"), **options)
        clips = clips_of(Path(folder, "a.parquet"), class_labels=write_classes(Path(folder)))
        expected = list(zip(clips, values, strict=True))
        random.shuffle(expected)
        for clip, value in expected:
            assert read_cell(clip.path, clip.part) == value


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.audio"))


def test_only_bytes_that_are_encoded_are_unpacked(tmp_path: Path, temporary_folder: Path):
    audio = [np.random.default_rng(n).bytes(50_000) for n in range(10)]
    label = ClassLabel(names=NAMES)
    path = write(tmp_path / "a.parquet", {"label": label}, audio, label=[0] * 10)
    for clip, value in zip(clips_of(path), audio, strict=True):
        assert read_cell(clip.path, clip.part) == value
    assert size_of(temporary_folder) == 0
    pq.write_table(pq.read_table(path), path)  # with a dictionary and compressed, as years ago
    for clip, value in zip(clips_of(path), audio, strict=True):
        assert read_cell(clip.path, clip.part) == value
    assert size_of(temporary_folder) == 500_000
    ParquetSource(files=(path,)).clean_up()
    assert size_of(temporary_folder) == 0


def corpus(folder: Path) -> Path:
    """Two files of 12 clips of which one is empty, one has only a path, and one is no audio."""
    label = {"label": ClassLabel(names=NAMES)}
    soundfile.write(folder / "there.wav", sound(0), 16_000)
    for part in range(2):
        audio: list[Any] = [audio_of(part * 12 + n, "flac") for n in range(12)]
        path = folder / "set" / "data" / f"train-0000{part}-of-00002.parquet"
        write(path, label, audio, label=[n % 3 for n in range(12)])
        table = pq.read_table(path).to_pylist()
        for n, row in enumerate(table):
            row["audio"]["path"] = f"{part}/{n}.wav"
        if part:
            table[1]["audio"] = {"bytes": None, "path": str(folder / "there.wav")}
            table[2]["audio"]["bytes"] = b"no audio"
            table[3]["audio"]["bytes"] = b""
        schema = pq.read_schema(path)
        compression = ("none", "snappy")[part]
        made = pa.Table.from_pylist(table, schema=schema)
        pq.write_table(made, path, row_group_size=5, compression=compression)
    return folder / "set"


def build(folder: Path, output: Path, *more: str, check: bool = True):
    words = [folder, f"--output={output}", "--clips-per-shard=4", "--max-rejected=0.2", *more]
    return run_command("sharding.build", "parquet", *words, check=check)


def shard_files(output: Path) -> dict[str, bytes]:
    return {n: c for n, c in content(output).items() if n.endswith((".tar", ".npy"))}


@pytest.mark.usefixtures("one_process")
def test_parquet_files_become_shards(tmp_path: Path, temporary_folder: Path):
    output = tmp_path / "shards"
    folder = corpus(tmp_path)
    assert "clips    24 (train 24)" in build(folder, output, "--dry-run").stdout
    assert not list(temporary_folder.iterdir())
    build(folder, output)
    index = read_index(output)
    assert index.classes.names == tuple(NAMES) and index.splits == ("train",)
    assert len(ids(output)) == 21 and "0/11" in ids(output)
    missing = str(tmp_path / "there")
    assert reasons(output) == {missing: "missing", "1/2": "unreadable", "1/3": "unreadable"}
    assert not list(temporary_folder.iterdir())


@pytest.mark.usefixtures("one_process")
def test_builds_of_parquet_go_on_and_are_shared(tmp_path: Path, monkeypatch):
    folder, whole = corpus(tmp_path), tmp_path / "whole"
    build(folder, whole)
    expected = shard_files(whole)

    def interrupted(tasks: Any, workers: int) -> Any:
        yield from map(pack_shard, tasks[:2])
        raise KeyboardInterrupt

    from sharding.packing.shard import pack_shard

    with monkeypatch.context() as patch:
        patch.setattr("sharding.packing.pack_all.run_local", interrupted)
        assert build(folder, tmp_path / "again", check=False).returncode == 130
    build(folder, tmp_path / "again")
    assert shard_files(tmp_path / "again") == expected
    for task in ("0/2", "1/2"):
        build(folder, tmp_path / "tasks", f"--task={task}")
    run_command("sharding.index", tmp_path / "tasks", "--max-rejected=0.2")
    assert shard_files(tmp_path / "tasks") == expected


def zero_the_audio(path: Path) -> None:
    content, metadata = bytearray(path.read_bytes()), pq.read_metadata(path)
    for group in range(metadata.num_row_groups):
        chunk = metadata.row_group(group).column(0)
        size = chunk.total_compressed_size
        content[chunk.data_page_offset : chunk.data_page_offset + size] = bytes(size)
    path.write_bytes(content)
    assert len(clips_of(path)) == len(AUDIO)  # listing clips does not read their audio


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "Parquet file cannot be read"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9] + b"9" * 9), "cannot be read"),
        (lambda path: path.write_bytes(b""), "Parquet file cannot be read"),
        (lambda path: path.write_text("path,labels\n"), "Parquet file cannot be read"),
        (lambda path: path.unlink(), "no such file"),
        (zero_the_audio, "6 of 6 clips were refused (100.0%): 6 unreadable"),
    ],
)
@pytest.mark.usefixtures("one_process")
def test_a_damaged_file_is_one_error(tmp_path: Path, damage, message: str):
    label = ClassLabel(names=NAMES)
    path = write(tmp_path / "a.parquet", {"label": label}, label=[0] * 6)
    damage(path)
    done = run_command("sharding.build", "parquet", path, f"--output={tmp_path}/o", check=False)
    assert_user_error(done, message)


def test_files_behind_urls_are_read_alike(tmp_path: Path, temporary_folder: Path):
    here = corpus(tmp_path)
    fsspec.filesystem("memory").put(str(here), "/bucket", recursive=True)
    local, there = clips_of(here), clips_of(parse_location("memory://bucket"))
    assert len(there) == 24
    for one, other in zip(local, there, strict=True):
        assert (one.clip_id, one.labels, one.part) == (other.clip_id, other.labels, other.part)
        assert read_cell(one.path, one.part) == read_cell(other.path, other.part)
    with serving(here / "data") as web:
        on_the_web = clips_of(parse_location(web.url("data/train-00000-of-00002.parquet")))
        for one, other in zip(local[:12], on_the_web, strict=True):
            assert read_cell(one.path, one.part) == read_cell(other.path, other.part)
    with pytest.raises(ClipRefusedError, match="not followed"):
        decode(there[13], sample_rate_hz=16_000)


def test_a_hub_out_of_reach_is_one_error(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("psla_wds.io.remote.RETRY_PAUSES_S", (0.01, 0.01))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    url = "hf://datasets/owner/name/data"
    done = run_command("sharding.build", "parquet", url, f"--output={tmp_path}/o", check=False)
    assert_user_error(done, "could not be read", url)
