"""Sources that read lists of clips: manifests, AudioSet's segments, a folder per class."""

import json
import math
import os
from pathlib import Path

import pytest
from data_sets import write_sound

from psla_wds.errors import ConfigError, ManifestError
from psla_wds.labels.manifest import Clip, checked
from sharding.sources import AudioSetSource, FolderSource, ManifestSource


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "classes.csv").write_text(
        'index,mid,display_name\n0,/m/a,Dog\n1,/m/b,"Rain, heavy"\n2,/m/c,Car\n'
    )
    return tmp_path


def clips_of(folder: Path, name: str, content: str) -> list[Clip]:
    (folder / name).write_text(content)
    source = ManifestSource(file=folder / name, class_labels=folder / "classes.csv")
    return list(checked(source.read()[1]))


def test_jsonl_and_csv_give_the_same_clips(folder: Path):
    rows = [
        {"path": "x/1.wav", "labels": ["Rain, heavy", "/m/a"], "split": "train"},
        {"path": "2.wav", "labels": ["2"], "clip_id": "two", "start_s": 1.5, "end_s": 3},
    ]
    from_jsonl = clips_of(folder, "m.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    from_csv = clips_of(
        folder,
        "m.csv",
        "path,labels,clip_id,start_s,end_s,split,comment\n"
        'x/1.wav,"Rain, heavy|/m/a",,,,train,nothing\n2.wav,2,two,1.5,3,,"a, b"\n',
    )
    assert [(c.clip_id, c.labels, c.path) for c in from_jsonl] == [
        ("x/1.wav", (0, 1), folder / "x/1.wav"),
        ("two", (2,), folder / "2.wav"),
    ]
    for one, other in zip(from_jsonl, from_csv, strict=True):
        for name in ("clip_id", "path", "labels", "split", "start_s", "end_s"):
            assert getattr(one, name) == getattr(other, name)


def test_a_zero_is_a_value_and_not_an_absence(folder: Path):
    row = {"path": 0, "labels": [0], "clip_id": 0, "split": 0, "start_s": 0, "end_s": 1}
    clip = clips_of(folder, "m.jsonl", json.dumps(row))[0]
    assert (clip.clip_id, clip.split, clip.path) == ("0", "0", folder / "0")
    with pytest.raises(ManifestError, match=r"from 0.0 s to 0.0 s"):
        clips_of(folder, "m.jsonl", json.dumps(row | {"end_s": 0}))
    assert clips_of(folder, "m.jsonl", json.dumps(row | {"labels": 0}))[0].labels == (0,)
    nothing = clips_of(folder, "m.jsonl", json.dumps({"path": "1", "clip_id": None, "end_s": None}))
    assert (nothing[0].clip_id, nothing[0].end_s, nothing[0].labels) == ("1", math.inf, ())


def test_multi_hot_labels_of_a_manifest_are_classes(folder: Path):
    rows = [{"path": "1.wav", "labels": labels} for labels in ([0, 0, 1], [True, False, True])]
    clips = clips_of(folder, "m.jsonl", "\n".join(map(json.dumps, rows)))
    assert [clip.labels for clip in clips] == [(2,), (0, 2)]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("#1.wav,Dog\n\n2.wav,Dog\n", [("#1.wav", (0,)), ("2.wav", (0,))]),
        ("1.wav,Dog|/m/a|0\n", [("1.wav", (0,))]),
        ("1.wav,\n2.wav,|\n3.wav,Dog\n", [("1.wav", ()), ("2.wav", ()), ("3.wav", (0,))]),
    ],
    ids=["name like a comment", "label twice", "without labels, for the packer to refuse"],
)
def test_rows_of_a_csv_become_clips(folder: Path, rows: str, expected: list):
    clips = clips_of(folder, "m.csv", "path,labels\n" + rows)
    assert [(clip.clip_id, clip.labels) for clip in clips] == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.csv", "path,labels\n1.wav,Dgo\n", "label 'Dgo' .*\n.*line 2\n.*did you mean 'Dog'"),
        ("m.csv", "path,labels\n1.wav,Rain, heavy\n", "too many or too few values\n.*line 2"),
        ("m.csv", "file,label\n1.wav,Dog\n", "but has 'file', 'label'\n.*\n.* has: path, labels"),
        ("m.csv", "path;labels\n1.wav;Dog\n", "name the columns .*\n.*\n.*columns by commas"),
        ("m.csv", "1.wav,Dog\n", "name the columns .*\n.*\n.*add a first line .* path,labels"),
        ("m.csv", "", "but is missing"),
        ("m.csv", "path,labels\n1.wav,Car;Dog\n", r"separate labels by \|, as in Car\|Dog"),
        ("m.csv", "path,labels,start_s\n1.wav,Dog,x\n", "start_s or end_s: .*\n.*line 2"),
        ("m.csv", "path,labels,start_s,end_s\n1.wav,Dog,3,2\n", "from 3.0 s to 2.0 s"),
        ("m.jsonl", '{"path": "1.wav"\n', "not JSON: .*\n.*line 1"),
        ("m.jsonl", "[" * 100_000, "not JSON: .*\n.*line 1"),
        (
            "m.jsonl",
            '{"path": "1", "labels": "0", "end_s": 1' + "0" * 400 + "}",
            "start_s or end_s: .*",
        ),
        ("m.jsonl", "[1]\n", "not an object\n.*line 1"),
        (
            "m.jsonl",
            '{"path": "1.wav", "labels": {"Dog": 1}}\n',
            "neither text nor an index.*\n.*line 1",
        ),
        (
            "m.jsonl",
            '{"path": "1.wav", "labels": [0, 1, 0, 0]}\n',
            "list of 4; .* 3 classes\n.*line 1",
        ),
        ("m.jsonl", '{"labels": ["Dog"]}\n', "no path\n.*line 1"),
        ("m.txt", "1.wav\n", "neither .jsonl nor .csv"),
    ],
)
def test_a_wrong_row_is_refused_with_its_line(folder: Path, name: str, content: str, message: str):
    with pytest.raises(ManifestError, match=message):
        clips_of(folder, name, content)


def test_long_clip_ids_are_shortened_and_stay_apart(caplog: pytest.LogCaptureFixture):
    ids = ["a" * 200, "雨" * 67, "雨" * 67 + "a", "雨" * 67 + "b", "c" * 250]
    found = list(checked(Clip(i, Path("a"), (0,), "", f"/x/{i}.wav") for i in ids))
    short = [clip.clip_id for clip in found]
    assert len(set(short)) == 5 and short[0] == ids[0]
    assert all(len(clip_id.encode()) <= 200 for clip_id in short)
    assert all(s[:-17] == i[: len(s) - 17] for s, i in zip(short[1:], ids[1:], strict=True))
    assert [clip.source.endswith(f", clip id {i}") for clip, i in zip(found, ids, strict=True)] == [
        *(False, True, True, True, True)
    ]
    assert "4 clip ids" in caplog.text
    # Builds that were interrupted go on with the same ids.
    assert short[1] == "雨" * 61 + "~944cdd8d819ae007"


def test_an_empty_clip_id_is_refused():
    with pytest.raises(ManifestError, match=r"clip id is empty\n.*x"):
        list(checked([Clip("", Path("a"), (0,), "", "x")]))


@pytest.mark.parametrize("name", ["clip_id", "split"])
def test_text_that_is_not_utf_8_is_refused(name: str):
    texts = {"clip_id": "a", "split": "", name: "\ud800"}
    with pytest.raises(ManifestError, match="UTF-8"):
        list(checked([Clip(path=Path("a"), labels=(0,), source="x", **texts)]))


def test_a_missing_manifest_is_named(folder: Path):
    source = ManifestSource(file=folder / "no.csv", class_labels=folder / "classes.csv")
    with pytest.raises(ManifestError, match=r"no such file\n.*no\.csv"):
        list(source.read()[1])


SEGMENTS = (
    "# Segments csv created Sun Mar  5 10:54:31 2017\n# num_ytids=2\n"
    "# YTID, start_seconds, end_seconds, positive_labels\n"
    '--PJHxphWEs, 30.000, 40.000, "/m/a,/m/b"\nabcdefghijk, 0.000, 10.000, "/m/c"\n'
)


def audioset_clips(folder: Path, *file_names: str) -> list[Clip]:
    for name in file_names:
        path = folder / "audio" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (folder / "balanced_train_segments.csv").write_text(SEGMENTS)
    source = AudioSetSource(
        segments=folder / "balanced_train_segments.csv",
        audio_root=folder / "audio",
        class_labels=folder / "classes.csv",
    )
    return list(source.read()[1])


@pytest.mark.parametrize(
    ("file_name", "may_be_cut"),
    [
        ("Y--PJHxphWEs.wav", True),
        ("--PJHxphWEs.flac", True),
        ("--PJHxphWEs.WEBM", True),
        ("--PJHxphWEs_30.000.wav", False),
        ("--PJHxphWEs_30.000_40.000.wav", False),
        ("--PJHxphWEs_30000_40000.ogg", False),
        ("--PJHxphWEs_30_40.m4a", False),
        ("--PJHxphWEs_30.0-40.0.ogg", False),
        ("Y--PJHxphWEs_30.000_40.000.mp3", False),
        ("Some Title [live] 0 [--PJHxphWEs].webm", True),
        ("--PJHxphWEs_30-40.wav", False),
        ("--PJHxphWEs-30-40.mp3", False),
        ("--PJHxphWEs_30000.flac", False),
        ("--PJHxphWEs_000030.mp4", False),
    ],
)
def test_audioset_files_are_found_under_downloaders_names(
    folder: Path, file_name: str, may_be_cut: bool
):
    others = ("--PJHxphWEs.info.json", "--PJHxphWEs_50.000.wav", f"._{file_name}")
    rest = [f"part1/{name}" for name in others] + [f"__MACOSX/part1/{file_name}"]
    first, second = audioset_clips(folder, f"part1/{file_name}", *rest)
    assert first.path == folder / "audio" / "part1" / file_name
    assert (first.clip_id, first.labels, first.split) == ("--PJHxphWEs", (0, 1), "balanced_train")
    times = (30.0, 40.0) if may_be_cut else (0.0, math.inf)
    assert (first.start_s, first.end_s, first.may_be_cut) == (*times, may_be_cut)
    assert not second.path.exists()  # to be refused as missing, by name


def test_two_files_for_one_id_are_refused_by_name(folder: Path):
    with pytest.raises(ManifestError, match=r"2 files for clip '--PJ.*\n.*a/Y.*wav and .*b/--PJ"):
        audioset_clips(folder, "a/Y--PJHxphWEs.wav", "b/--PJHxphWEs_30.000.flac")


def test_copies_in_the_folders_of_classes_are_one_clip(folder: Path):
    names = [f"{label}/--PJHxphWEs_30.0-40.0.ogg" for label in ("Speech", "Music")]
    assert audioset_clips(folder, *names)[0].path == folder / "audio" / names[1]
    for content in (b"other", b"othe_"):
        (folder / "audio" / names[0]).write_bytes(content)
        with pytest.raises(ManifestError, match="2 files for clip"):
            audioset_clips(folder)
        (folder / "audio" / names[1]).write_bytes(b"other")


def test_names_that_do_not_fit_are_shown_before_packing(
    folder: Path, caplog: pytest.LogCaptureFixture
):
    with pytest.raises(ManifestError, match=r"of 0 audio files, none .*\n.*\n.* ID_30-40,"):
        audioset_clips(folder, "notes.txt")
    with pytest.raises(ManifestError, match=r"of 2 audio files, none .*such as '1--PJHxphWEs.wav'"):
        audioset_clips(folder, "1--PJHxphWEs.wav", "other.wav")
    assert not caplog.records
    audioset_clips(folder, "--PJHxphWEs.wav")
    (text,) = [record.getMessage() for record in caplog.records]
    assert text.startswith("1 clips have no file, and 2 of 3 files") and "'1--PJ" in text
    caplog.clear()
    audioset_clips(folder, "abcdefghijk.wav")
    assert not caplog.records  # of other lists, perhaps


def test_links_are_followed_and_other_files_ignored(folder: Path):
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "Y--PJHxphWEs.wav").symlink_to(folder / "classes.csv")
    (folder / "audio").mkdir()
    links = {"to": folder / "elsewhere", "nowhere.wav": folder / "none", "--PJHxphWEs.ogg": "self"}
    for name, target in (links | {"self": "--PJHxphWEs.ogg"}).items():
        (folder / "audio" / name).symlink_to(target)
    first, _ = audioset_clips(folder, "B\udce4r.wav", ".--PJHxphWEs.wav", "--PJHxphWEs")
    assert first.path == folder / "audio" / "to" / "Y--PJHxphWEs.wav"


def test_a_folder_that_cannot_be_read_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch):
    def scandir(path: str):
        if "locked" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return real_scandir(path)

    real_scandir = os.scandir
    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(ConfigError, match=r"cannot be read: Permission denied\n.*locked"):
        audioset_clips(folder, "locked/Y--PJHxphWEs.wav")


def test_a_file_in_another_encoding_is_named_with_its_line(folder: Path):
    (folder / "m.csv").write_bytes("path,labels\n1.wav,Dog\nB\xe4r.wav,Dog\n".encode("latin-1"))
    source = ManifestSource(file=folder / "m.csv", class_labels=folder / "classes.csv")
    with pytest.raises(ManifestError, match=r"not UTF-8: .*\n.*m\.csv, after line \d\n.*iconv"):
        list(source.read()[1])


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


LEFTOVERS = (
    *("__MACOSX/dog/._1.wav", "$RECYCLE.BIN/9.wav", "lost+found/9.wav", "@eaDir/9.wav", ".git/x"),
    *("cat/.DS_Store", "cat/Thumbs.db", "cat/desktop.ini", "dog/._1.wav", "dog/@eaDir/1.wav/x.wav"),
    *(".ipynb_checkpoints/9.wav", "dog/.ipynb_checkpoints/1-checkpoint.wav", ".DS_Store"),
)


def test_a_folder_per_class_makes_its_own_class_list(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    touch(tmp_path, "dog/1.wav", "dog/2.wav", "cat/sub/1.wav", *LEFTOVERS)
    classes, clips = FolderSource(folder=tmp_path).read()
    assert classes.names == ("cat", "dog")
    assert sorted((c.clip_id, c.labels) for c in clips) == [
        ("cat/sub/1.wav", (0,)),
        ("dog/1.wav", (1,)),
        ("dog/2.wav", (1,)),
    ]
    assert not caplog.records


def test_files_without_a_suffix_are_audio_by_their_content(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    touch(tmp_path, "cat/LICENSE", "dog/Makefile", "dog/bare.tmp")
    for name in ("cat/a", "dog/sub/b"):
        write_sound(tmp_path / f"{name}.wav", 0)
        (tmp_path / f"{name}.wav").rename(tmp_path / name)
    (tmp_path / "dog" / "bare.tmp").write_bytes((tmp_path / "cat" / "a").read_bytes())
    (tmp_path / "dog" / "note").write_text("\ufefftext", "utf-16-le")
    classes, clips = FolderSource(folder=tmp_path).read()
    assert classes.names == ("cat", "dog")
    assert sorted(clip.clip_id for clip in clips) == ["cat/a", "dog/sub/b"]
    assert [record.getMessage()[:2] for record in caplog.records] == ["4 "]


def test_other_files_of_class_folders_are_counted_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    touch(tmp_path, "dog/1.wav", "dog/sub/notes.txt", "empty/LICENSE", "stray.wav", "README.md")
    (tmp_path / "bare").mkdir()
    source = FolderSource(folder=tmp_path)
    classes, clips = source.read()
    assert classes.names == ("dog",) and [clip.clip_id for clip in clips] == ["dog/1.wav"]
    warnings = [record.getMessage() for record in caplog.records]
    assert [text[:2] for text in warnings] == ["2 ", "1 ", "1 "]
    for text, name in zip(warnings, ("bare, empty", "stray.wav", "dog/sub/notes.txt"), strict=True):
        assert text.endswith(name)
    (tmp_path / "dog" / "1.wav").unlink()
    with pytest.raises(ManifestError, match="no subfolder has audio"):
        source.read()
