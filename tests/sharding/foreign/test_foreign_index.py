"""Tars that others built: indexed, they load as our own; what cannot be used is said."""

import io
import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import TINY_CLASSES, assert_user_error, run_command
from data_sets import GOOD, audio_of, write_class_labels, write_members, write_tars

from psla_wds.errors import ConfigError, ManifestError, ShardError
from psla_wds.features.config import FeatureConfig
from psla_wds.reading.reader import Reader
from psla_wds.shards.index import ShardIndex
from psla_wds.shards.index_files import read_index
from sharding.check import check
from sharding.index import make_index
from sharding.packing.reports import REJECTED
from sharding.sources import TarsSource
from sharding.sources.label_table import LabelOptions

NUM_CLIPS = 24
FEATURES = FeatureConfig(num_frames=64)
LOSSY = "ogg"


def sample_of(number: int) -> dict[str, object]:
    """A clip in one of four forms: FLAC with JSON, Ogg with .cls, WAV with .txt, stereo FLAC."""
    label, key = number % 4, f"part/{number:04d}"
    name = TINY_CLASSES[label]
    form = number // 4 % 4
    if form == 0:
        json_ = {"labels": [f"/t/{label}"], "clip_id": f"id {number}", "split": "eval"}
        return {"__key__": key, "flac": audio_of(number, "flac"), "json": json_}
    if form == 1:
        return {"__key__": key, "ogg": audio_of(number, "ogg"), "cls": label}
    if form == 2:
        return {"__key__": key, "wav": audio_of(number, "wav"), "txt": f"{name}\n"}
    json_ = {"tags": f"{name}|noise", "unrelated": {"a": 1}}
    return {"__key__": key, "flac": audio_of(number, "flac", channels=2), "json": json_}


SAMPLES = [sample_of(number) for number in range(NUM_CLIPS)]


def id_of(sample: dict) -> str:
    return sample.get("json", {}).get("clip_id", sample["__key__"])


def extension_of(sample: dict) -> str:
    return next(name for name in ("flac", "ogg", "wav") if name in sample)


AUDIO = {id_of(sample): sample[extension_of(sample)] for sample in SAMPLES}
EXTENSIONS = {id_of(sample): extension_of(sample) for sample in SAMPLES}


@pytest.fixture(scope="module")
def class_labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_class_labels(tmp_path_factory.mktemp("classes") / "classes.csv")


def index_tars(folder: Path, class_labels: Path, *, check: bool = True):
    words = [str(folder), f"--class-labels={class_labels}"]
    return run_command("sharding.index", *words, check=check)


@pytest.fixture(scope="module")
def foreign(class_labels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tars of webdataset's own writer, indexed by the command."""
    folder = write_tars(tmp_path_factory.mktemp("foreign") / "tars", SAMPLES)
    before = {tar.name: tar.read_bytes() for tar in folder.glob("*.tar")}
    done = index_tars(folder, class_labels)
    last_line = done.stdout.splitlines()[-1]
    assert "24 clips in 3 shards" in last_line and "3 scanned, 0 clips refused" in last_line
    assert f"next: psla-wds check {folder}" in last_line
    assert {tar.name: tar.read_bytes() for tar in folder.glob("*.tar")} == before
    return folder


def test_every_clip_is_read_as_it_was_packed(foreign: Path):
    index = read_index(foreign)
    reader = Reader(index, threads=2)
    clips = reader.start(np.arange(len(index))).wait()
    reader.close()
    assert {index.clip_id(row): clip.tobytes() for row, clip in enumerate(clips)} == AUDIO
    for row, clip in enumerate(clips):
        assert index.num_samples[row] == soundfile.info(io.BytesIO(clip.tobytes())).frames


def test_labels_are_read_from_json_cls_and_txt(foreign: Path):
    index = read_index(foreign)
    expected = {
        id_of(sample): sorted({number % 4} | ({3} if number // 4 % 4 == 3 else set()))
        for number, sample in enumerate(SAMPLES)
    }
    assert {index.clip_id(r): index.labels(r).tolist() for r in range(len(index))} == expected
    in_eval = {index.clip_id(r) for r in np.flatnonzero(index.split == 1)}
    assert index.splits == ("", "eval") and in_eval == {i for i in AUDIO if i.startswith("id ")}


def test_check_names_a_damaged_clip(foreign: Path, tmp_path: Path):
    copied = shutil.copytree(foreign, tmp_path / "tars")
    index = read_index(copied)
    with index.shards[0].open("r+b") as tar:
        tar.seek(index.offset[3] + index.size[3] // 2)
        byte = tar.read(1)
        tar.seek(-1, os.SEEK_CUR)
        tar.write(bytes([byte[0] ^ 1]))
    findings = "\n".join(check(copied, deep=False))
    assert "the SHA-256 differs" in findings
    assert f"clip {index.clip_id(3)} is damaged: its CRC-32 differs" in findings


def test_check_finds_a_sidecar_with_other_labels(foreign: Path, tmp_path: Path):
    copied = shutil.copytree(foreign, tmp_path / "tars")
    path = copied / "part-000.sidecar.json"
    sidecar = json.loads(path.read_text())
    sidecar["clips"]["mids"][0] = ["/t/2"]
    path.write_text(json.dumps(sidecar))
    make_index(copied)
    assert check(copied, deep=False) == []
    assert "differ in mids" in "\n".join(check(copied, deep=True))


def sidecar_times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.sidecar.json")}


def test_a_second_run_scans_nothing(foreign: Path):
    before, fingerprint = sidecar_times(foreign), read_index(foreign).fingerprint
    done = run_command("sharding.index", str(foreign))
    assert "0 scanned, 0 clips refused" in done.stdout
    assert sidecar_times(foreign) == before and len(before) == 3
    assert read_index(foreign).fingerprint == fingerprint


def test_an_interrupted_run_goes_on_where_it_stopped(
    class_labels: Path, foreign: Path, tmp_path: Path
):
    folder = write_tars(tmp_path / "tars", SAMPLES)
    whole = (folder / "part-002.tar").read_bytes()
    (folder / "part-002.tar").write_bytes(whole[:-15_000])
    with pytest.raises(ShardError, match=r"part-002\.tar"):
        make_index(folder, class_labels)
    finished = sidecar_times(folder)
    assert len(finished) == 2 and not (folder / "index").exists()
    (folder / "part-002.tar").write_bytes(whole)
    index, found = make_index(folder, class_labels)
    assert found.num_scanned == 1 and len(index) == NUM_CLIPS
    assert sidecar_times(folder).items() > finished.items()


def test_a_tar_that_changed_at_the_same_size_is_scanned_again(foreign: Path, tmp_path: Path):
    copied = shutil.copytree(foreign, tmp_path / "tars")
    tar = copied / "part-001.tar"
    tar.write_bytes(tar.read_bytes().replace(b"part/0008", b"part/0080"))
    index, found = make_index(copied)
    assert found.num_scanned == 1
    assert "part/0080" in {index.clip_id(row) for row in range(len(index))}


def test_another_class_list_is_refused_beside_the_old_one(foreign: Path, tmp_path: Path):
    copied = shutil.copytree(foreign, tmp_path / "tars")
    other = tmp_path / "other.csv"
    other.write_text(
        (copied / "class_labels_indices.csv").read_text().replace("/t/0,low", "/t/0,deep")
    )
    with pytest.raises(ConfigError, match="another class list"):
        make_index(copied, other)
    (copied / "class_labels_indices.csv").unlink()
    with pytest.raises(ManifestError, match=r"2 of 24 clips .*: 2 unknown-label"):
        make_index(copied, other)
    assert not (copied / "class_labels_indices.csv").exists()
    assert make_index(copied, other, max_rejected=0.5)[1].num_scanned == 0


def test_one_clip_id_in_two_tars_is_refused_with_both(class_labels: Path, tmp_path: Path):
    for name in ("one", "two"):
        members = {f"{name}.wav": GOOD["good.wav"], f"{name}.json": b'{"id": "x", "labels": "low"}'}
        folder = write_members(tmp_path / "tars" / f"{name}.tar", members)
    done = index_tars(folder, class_labels, check=False)
    assert_user_error(done, "clip id 'x' appears twice", "one.tar and two.tar")


def ids_in(index: ShardIndex) -> list[str]:
    return [index.clip_id(row) for row in range(len(index))]


def restarting(folder: Path, number: int, num_clips: int = 2) -> Path:
    """A tar whose keys begin at 000, where the first clip has an id of its own."""
    members = {f"{n:03d}.wav": audio_of(10 * number + n, "wav") for n in range(num_clips)}
    members |= {f"{n:03d}.txt": b"low" for n in range(1, num_clips)}
    members["000.json"] = json.dumps({"id": f"own {number}", "label": n_class(number)}).encode()
    return write_members(folder / f"s-{number}.tar", members)


def n_class(number: int) -> str:
    return TINY_CLASSES[number % len(TINY_CLASSES)]


def test_keys_that_begin_anew_get_the_name_of_their_tar(class_labels: Path, tmp_path: Path):
    folder = restarting(tmp_path / "tars", 0)
    index, _ = make_index(folder, class_labels)
    assert ids_in(index) == ["own 0", "001"]
    restarting(folder, 1)
    index, found = make_index(folder)
    expected = ["own 0", "s-0/001", "own 1", "s-1/001"]
    assert ids_in(index) == expected and found.num_scanned == 2
    assert check(folder, deep=True) == []
    source = TarsSource(folder=folder, class_labels=class_labels)
    assert [clip.clip_id for clip in source.read()[1]] == expected

    before = sidecar_times(folder)
    index, found = make_index(folder)
    assert ids_in(index) == expected and found.num_scanned == 0
    restarting(folder, 2, num_clips=3)
    index, found = make_index(folder)
    assert ids_in(index) == [*expected, "own 2", "s-2/001", "s-2/002"] and found.num_scanned == 1
    assert sidecar_times(folder).items() > before.items()


def test_tars_sorted_by_class_get_a_warning(
    class_labels: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    make_index(write_tars(tmp_path / "shuffled", SAMPLES, per_tar=12), class_labels)
    assert not caplog.records
    singles = [s for n, s in enumerate(SAMPLES) if n // 4 % 4 != 3]
    by_class = sorted(singles, key=lambda sample: SAMPLES.index(sample) % 4)
    make_index(write_tars(tmp_path / "sorted", by_class, per_tar=5), class_labels)
    assert "sorted by class" in caplog.text


def test_our_own_tars_are_foreign_without_their_sidecars(shards: Path, tmp_path: Path):
    copied = shutil.copytree(shards, tmp_path / "shards")
    for path in (*copied.glob("*.sidecar.json"), copied / "build.json"):
        path.unlink()
    index, found = make_index(copied)
    assert found.num_scanned == 4
    ours = read_index(shards)
    for name in ("shard", "offset", "size", "crc32", "num_samples", "split", "label_values"):
        assert np.array_equal(getattr(index, name), getattr(ours, name)), name
    assert index.fingerprint == ours.fingerprint


def test_an_unfinished_build_is_not_taken_for_foreign(shards: Path, tmp_path: Path):
    copied = shutil.copytree(shards, tmp_path / "shards")
    (copied / "shard-000001.sidecar.json").unlink()
    with pytest.raises(ShardError, match="1 shards are not made yet: 1"):
        make_index(copied)


def test_the_keys_of_labels_are_named_where_none_is_found(class_labels: Path, tmp_path: Path):
    folder = write_members(
        tmp_path / "tars" / "a.tar", {"a.wav": audio_of(1, "wav"), "a.json": b'{"class": 1}'}
    )
    done = index_tars(folder, class_labels, check=False)
    assert_user_error(done, "1 of 1 clips were refused", "rejected.jsonl", "psla-wds build")
    refusal = json.loads((folder / REJECTED).read_text())["detail"]
    assert "no label in labels, label, mids, tags, tag, only class: --label-key" in refusal
    index, _ = make_index(folder, class_labels, options=LabelOptions(label_key="class"))
    assert index.labels(0).tolist() == [1]
    assert check(folder, deep=True) == [] and make_index(folder)[1].num_scanned == 0
    with pytest.raises(ManifestError, match="1 no-label"):
        make_index(folder, options=LabelOptions(label_key="other"))


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("extension", ["pyd", "pth"])
def test_pickles_are_never_loaded(class_labels: Path, tmp_path: Path, extension: str):
    trap = pickle.dumps(Trap(tmp_path / "sprung"))
    members = {"a.wav": audio_of(1, "wav"), f"a.{extension}": trap}
    folder = write_members(tmp_path / "tars" / "a.tar", members)
    done = index_tars(folder, class_labels, check=False)
    assert_user_error(done, "pickles, which are never loaded", "a.tar", "KEY.json")
    write_members(folder / "a.tar", members | {"a.cls": b"1"})
    make_index(folder, class_labels)
    assert check(folder, deep=True) == []
    assert not (tmp_path / "sprung").exists()
    pickle.loads(trap)
    assert (tmp_path / "sprung").exists()  # the trap works
