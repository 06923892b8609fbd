"""Class lists made by `sharding.labels`, from a folder or from a column of a CSV."""

import csv
import os
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from conftest import assert_user_error, run_command
from data_sets import write_esc50, write_fsd50k, write_sound, write_table

from psla_wds.errors import ManifestError
from psla_wds.labels.class_list import ClassList, joined_classes
from sharding.labels import Args, class_names
from sharding.sources import ManifestSource


def test_a_class_list_is_made_from_a_folder_or_a_column(tmp_path: Path):
    for name in ("music/a.wav", "dog/b.flac", "__MACOSX/dog/._b.flac", "empty/notes.txt"):
        (tmp_path / "set" / name).parent.mkdir(parents=True)
        (tmp_path / "set" / name).touch()
    output = tmp_path / "out.csv"
    assert class_names(Args(tmp_path / "set", output)) == ["dog", "music"]
    rows = [["x", "labels"], [1, "b|a"], [2, ""], [3, "Rain, a|b"]]
    table = write_table(tmp_path / "t.csv", rows)
    assert class_names(Args(table, output)) == ["Rain, a", "a", "b"]
    esc50 = write_esc50(tmp_path) / "meta" / "esc50.csv"
    assert class_names(Args(esc50, output, column="category")) == ["dog", "rooster"]
    columns = {"category": ["b", "a", None], "tags": [["x", "y|z"], None, ["w"]]}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    for column, names in {"category": ["a", "b"], "tags": ["w", "x", "y|z"]}.items():
        assert class_names(Args(tmp_path / "t.parquet", output, column=column)) == names
    with pytest.raises(ManifestError, match="name the columns labels"):
        class_names(Args(esc50, output))


def test_a_folder_whose_name_is_no_text_is_one_error(tmp_path: Path):
    folder = tmp_path / "set" / os.fsdecode(b"caf\xe9")
    folder.mkdir(parents=True)
    soundfile.write(os.fsencode(folder / "a.wav"), np.zeros(16_000), 16_000)
    for words in (["labels", folder.parent], ["build", "folder", folder.parent]):
        done = run_command(
            f"sharding.{words[0]}", *words[1:], f"--output={tmp_path}/o", check=False
        )
        assert_user_error(done, "characters that cannot be shown", r"caf\udce9")


def test_a_field_beyond_the_limit_of_csv_is_an_error(tmp_path: Path):
    text = "path,labels\n" + "x" * (csv.field_size_limit() + 1) + ",a\n"
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ManifestError, match=r"not CSV: .*\n.*line 2"):
        class_names(Args(tmp_path / "t.csv", tmp_path / "out.csv"))


def test_a_class_list_is_written_once_and_named_as_next(tmp_path: Path):
    dev = write_fsd50k(tmp_path) / "FSD50K.ground_truth" / "dev.csv"
    arguments = [str(dev), f"--output={tmp_path}/made.csv", "--separator=,"]
    done = run_command("sharding.labels", *arguments)
    assert "wrote 2 classes" in done.stdout and f"--class-labels {tmp_path}/made.csv" in done.stdout
    rows = (tmp_path / "made.csv").read_text().splitlines()
    assert rows == ["index,mid,display_name", "0,Bark,Bark", "1,Meow,Meow"]
    again = run_command("sharding.labels", *arguments, check=False)
    assert_user_error(again, "exists already")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("my set", "folder '{0}/my set'"),
        ("clips.csv", "manifest {0}/clips.csv"),
        ("clips.parquet", "parquet {0}/clips.parquet"),
    ],
)
def test_the_next_command_names_what_was_read(tmp_path: Path, name: str, words: str):
    (tmp_path / "my set" / "dog").mkdir(parents=True)
    write_sound(tmp_path / "my set" / "dog" / "1.wav", 0)
    write_table(tmp_path / "clips.csv", [["path", "labels"], ["my set/dog/1.wav", "dog"]])
    sound = (tmp_path / "my set" / "dog" / "1.wav").read_bytes()
    columns = {"audio": [sound], "labels": ["dog"]}
    pq.write_table(pa.table(columns), tmp_path / "clips.parquet")
    arguments = [str(tmp_path / name), f"--output={tmp_path}/made.csv"]
    done = run_command("sharding.labels", *arguments)
    build = f"psla-wds build {words.format(tmp_path)} --class-labels {tmp_path}/made.csv"
    assert f"next: {build} --output SHARDS" in done.stdout
    command = shlex.split(build)[2:]
    run_command("sharding.build", *command, f"--output={tmp_path}/shards", "--dry-run")


@pytest.mark.parametrize(
    ("names", "joined"),
    [
        (("animal", "cat,animal"), "cat,animal"),
        (("cat,animal", "rain"), "cat,animal"),
        (("cat; rain", "rain"), "cat; rain"),
        (("Chicken, rooster", "1,000 Hz", "rain"), ""),
    ],
)
def test_a_class_of_several_names_is_found(names: tuple[str, ...], joined: str):
    found = joined_classes(ClassList(names, names))
    assert (repr(joined) in (found or "")) if joined else found is None


@pytest.mark.parametrize("name", ["my_clpis", "clips.csv", "notes.txt"])
def test_a_path_that_is_wrong_is_the_error(tmp_path: Path, name: str):
    (tmp_path / "notes.txt").touch()
    done = run_command("sharding.labels", tmp_path / name, "--output=c.csv", check=False)
    wrong = "not .csv, .jsonl or .parquet" if name == "notes.txt" else "there is no such f"
    assert_user_error(done, wrong)


def test_labels_joined_otherwise_are_reported_with_the_flag(tmp_path: Path):
    rows = [["path", "labels"], ["1.wav", "dog, rain"], ["2.wav", "dog"], ["3.wav", "rain"]]
    table = write_table(tmp_path / "t.csv", rows)
    done = run_command("sharding.labels", str(table), f"--output={tmp_path}/made.csv")
    seems = "'dog, rain' seems to be 2 classes"
    assert seems in done.stderr and "--separator ','" in done.stderr
    build = ["manifest", str(table), f"--class-labels={tmp_path}/made.csv", "--dry-run"]
    again = run_command("sharding.build", *build, f"--output={tmp_path}/shards", check=False)
    assert seems in again.stderr and "--separator ','" in again.stderr
    (tmp_path / "made.csv").unlink()
    words = [f"--output={tmp_path}/made.csv", "--separator", ","]
    assert "wrote 2 classes" in run_command("sharding.labels", str(table), *words).stdout
    source = ManifestSource(file=table, class_labels=tmp_path / "made.csv")
    with pytest.raises(ManifestError, match=r"'dog, rain' is not .*\n.*\n.* \|, as in dog\|rain"):
        list(source.read()[1])
    clips = replace(source, separator=",").read()[1]
    assert [clip.labels for clip in clips] == [(0, 1), (0,), (1,)]
