"""Sources that read data sets as they are published."""

import csv
import logging
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from data_sets import (
    CLASSES,
    sound,
    write_classes,
    write_esc50,
    write_fsd50k,
    write_panns_hdf5,
    write_passt_hdf5,
    write_psla_json,
    write_table,
)
from foreign_tars import audio_of, write_members

from psla_wds.audio.decode import ClipRefusedError
from psla_wds.errors import ManifestError, PslaError
from psla_wds.labels.manifest import checked
from sharding.labels import Args, class_names
from sharding.packing.decode import decode
from sharding.sources import (
    Esc50Source,
    Fsd50kSource,
    Hdf5Source,
    PslaJsonSource,
    TarsSource,
)
from sharding.sources.psla_json import check_weights


def test_fsd50k_has_three_splits_and_the_classes_of_its_vocabulary(tmp_path: Path):
    classes, clips = Fsd50kSource(folder=write_fsd50k(tmp_path)).read()
    assert (classes.mids, classes.names) == tuple(zip(*CLASSES, strict=True))
    found = {clip.clip_id: (clip.split, clip.labels) for clip in checked(clips)}
    assert found == {
        "10": ("train", (0,)),
        "11": ("train", (0, 2)),
        "12": ("val", (2,)),
        "13": ("val", (0,)),
        "20": ("eval", (0,)),
        "21": ("eval", (2,)),
    }
    assert all(clip.path.is_file() for clip in Fsd50kSource(folder=tmp_path).read()[1])


def test_fsd50k_splits_can_be_chosen_and_their_audio_alone_is_needed(tmp_path: Path):
    folder = write_fsd50k(tmp_path)
    (folder / "FSD50K.eval_audio").rename(folder / "elsewhere")
    clips = Fsd50kSource(folder=folder, splits=("val",)).read()[1]
    assert [clip.clip_id for clip in clips] == ["12", "13"]
    with pytest.raises(ManifestError, match=r"no folder FSD50K\.eval_audio"):
        list(Fsd50kSource(folder=folder).read()[1])


def test_esc50_keeps_its_folds_and_the_numbers_of_its_classes(tmp_path: Path):
    classes, clips = Esc50Source(folder=write_esc50(tmp_path)).read()
    assert classes.names == ("dog", "rooster")
    found = list(clips)
    assert [clip.split for clip in found] == [f"fold{n}" for n in (1, 1, 2, 2, 3, 3, 4, 4, 5, 5)]
    assert [clip.labels for clip in found] == [(n % 2,) for n in range(10)]
    assert found[0].clip_id == "1-1000-A-0" and found[0].path.is_file()


def test_the_real_list_of_esc50_gives_fifty_classes_and_five_folds(tmp_path: Path):
    folder = os.environ.get("PSLA_AUDIOSET_META")
    if not folder:
        pytest.skip("PSLA_AUDIOSET_META names no folder of metadata")
    (tmp_path / "audio").mkdir()
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "esc50.csv").symlink_to(Path(folder) / "esc50.csv")
    classes, clips = Esc50Source(folder=tmp_path).read()
    assert len(classes) == 50 and (classes.names[0], classes.names[49]) == ("dog", "hand_saw")
    per_split = np.unique([clip.split for clip in clips], return_counts=True)[1]
    assert per_split.tolist() == [400] * 5


def test_targets_of_esc50_with_two_names_are_refused(tmp_path: Path):
    write_esc50(tmp_path)
    table = tmp_path / "meta" / "esc50.csv"
    table.write_text(table.read_text().replace("1,rooster", "0,rooster", 1))
    with pytest.raises(ManifestError, match=r"target 0 has two names\n.*line 3"):
        Esc50Source(folder=tmp_path).read()


def official_weights(labels: list[str]) -> list[float]:
    rows = [row.split(",") for row in labels]
    counts = {mid: sum(row.count(mid) for row in rows) for row in rows for mid in row}
    return [sum(1000 / (counts[mid] + 0.01) for mid in row) for row in rows]


LABELS = ["/m/a", "/m/a,/m/b", "/m/c,/m/a", "/m/b"]


def test_psla_json_finds_the_files_of_another_machine_by_name(tmp_path: Path):
    file = write_psla_json(tmp_path, LABELS)
    source = PslaJsonSource(
        file=file, class_labels=write_classes(tmp_path), audio_root=tmp_path / "wavs", split="train"
    )
    clips = list(checked(source.read()[1]))
    assert [(c.clip_id, c.labels) for c in clips[:2]] == [("0", (0,)), ("1", (0, 1))]
    assert all(clip.path.is_file() and clip.split == "train" for clip in clips)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (official_weights(LABELS), "has the weights of these labels"),
        (official_weights([*LABELS[:-1], "/m/a"]), "4 of 4 rows differ, first row 1"),
        (official_weights(LABELS)[:-1], "it has 3 rows for 4 clips"),
    ],
)
def test_weights_beside_a_psla_json_are_compared_with_its_labels(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, weights: list[float], message: str
):
    caplog.set_level(logging.INFO)
    write_psla_json(tmp_path, LABELS, weights)
    right = check_weights(tmp_path / "train_weight.csv", [row.split(",") for row in LABELS])
    assert message in caplog.text and right == message.startswith("has")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[]", "no list named data"),
        (
            '{"data": [{"wav": "a.wav", "labels": ""}, {"wav": 3}]}',
            r"no wav or labels\n.*data\[1\]",
        ),
        ('{"data": [{"wav": "a.wav", "labels": "/m/x"}]}', r"'/m/x' is not in.*\n.*data\[0\]"),
    ],
)
def test_a_wrong_psla_json_is_refused_with_its_entry(tmp_path: Path, content: str, message: str):
    (tmp_path / "a.json").write_text(content)
    source = PslaJsonSource(file=tmp_path / "a.json", class_labels=write_classes(tmp_path))
    with pytest.raises(ManifestError, match=message):
        list(source.read()[1])


def hdf5_clips(folder: Path, *files: Path):
    source = Hdf5Source(files=files, class_labels=write_classes(folder), split="train")
    return list(checked(source.read()[1]))


def loudest_hz(waveform: np.ndarray, rate_hz: int = 16_000) -> float:
    return float(np.abs(np.fft.rfft(waveform)).argmax() * rate_hz / len(waveform))


def test_panns_hdf5_gives_waveforms_and_tells_of_rows_left_empty(tmp_path: Path):
    clips = hdf5_clips(tmp_path, write_panns_hdf5(tmp_path / "waveforms.h5"))
    assert [(c.clip_id, c.labels) for c in clips] == [
        ("--PJHxphWEs", (0,)), ("clip.1", (1, 2)), ("waveforms-2", ())
    ]  # fmt: skip
    for number in (1, 2):
        waveform = decode(clips[number - 1], sample_rate_hz=16_000)
        assert len(waveform) == 8000
        assert loudest_hz(waveform) == pytest.approx(200 + 37 * number, abs=2)
        assert waveform.std() == pytest.approx(0.3 / 2 * number / 2**0.5, rel=0.01)
    with pytest.raises(ClipRefusedError) as caught:
        decode(clips[2], sample_rate_hz=16_000)
    assert caught.value.reason == "missing"


def test_passt_hdf5_gives_the_mp3_of_each_row(tmp_path: Path):
    clips = hdf5_clips(tmp_path, write_passt_hdf5(tmp_path / "mp3.hdf"))
    assert [(c.clip_id, c.labels) for c in clips] == [
        ("--PJHxphWEs", (0,)), ("abcdefghijk", (1, 2)), ("clip", ())
    ]  # fmt: skip
    for number, clip in enumerate(clips):
        waveform = decode(clip, sample_rate_hz=16_000)
        assert loudest_hz(waveform) == pytest.approx(200 + 37 * number, abs=2)
        assert waveform.std() == pytest.approx(sound(0).std(), rel=0.1)


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def link_the_waveforms_to_another_file(path: Path) -> None:
    other = write_panns_hdf5(path.with_name("other.h5"))
    with h5py.File(path, "a") as file:
        del file["waveform"]
        file["waveform"] = h5py.ExternalLink(str(other), "/waveform")


def store_the_waveforms_in_another_file(path: Path) -> None:
    path.with_name("secret").write_bytes(bytes(3 * 16_000 * 2))
    with h5py.File(path, "a") as file:
        del file["waveform"]
        external = [(str(path.with_name("secret")), 0, 3 * 16_000 * 2)]
        file.create_dataset("waveform", (3, 16_000), np.int16, external=external)


def shorten_the_targets(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["target"]
        file["target"] = np.zeros((2, 3), bool)


def widen_the_targets(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["target"]
        file["target"] = np.zeros((3, 9), bool)


def drop_the_rate(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file.attrs["sample_rate"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_in_half, "no HDF5 file"),
        (link_the_waveforms_to_another_file, "has not the arrays"),
        (store_the_waveforms_in_another_file, "has not the arrays"),
        (shorten_the_targets, "has not the arrays"),
        (widen_the_targets, "target has shape"),
        (drop_the_rate, "does not say its sample_rate"),
        (lambda path: path.unlink(), "no such file"),
    ],
)
def test_an_hdf5_file_of_another_make_is_refused_by_name(tmp_path: Path, damage, message: str):
    path = write_panns_hdf5(tmp_path / "waveforms.h5")
    damage(path)
    with pytest.raises(PslaError, match=rf"{message}.*(.|\n)*waveforms\.h5"):
        hdf5_clips(tmp_path, path)


def test_tars_are_read_by_byte_range_and_bad_clips_stay_to_be_refused(tmp_path: Path):
    members = {
        "a.wav": audio_of(0, "wav"),
        "a.json": b'{"labels": ["Bark"], "split": "val", "clip_id": "first"}',
        "b.mp3": audio_of(1, "mp3"),
        "b.cls": b"2",
        "c.wav": audio_of(2, "wav"),
        "d.txt": b"Bark",
    }
    folder = write_members(tmp_path / "tars" / "x.tar", members)
    source = TarsSource(folder=folder, class_labels=write_classes(tmp_path))
    clips = list(checked(source.read()[1]))
    found = [(c.clip_id, c.labels, c.split, c.refusal and c.refusal[0]) for c in clips]
    assert found == [
        ("first", (0,), "val", None),
        ("b", (2,), "", None),
        ("c", (), "", "no-label"),
        ("d", (), "", "no-audio"),
    ]
    for clip in clips[:2]:
        assert len(decode(clip, sample_rate_hz=16_000)) > 1000
    with pytest.raises(ClipRefusedError):
        decode(clips[2], sample_rate_hz=16_000)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"../a.wav": b"", "../a.json": b"{}"}, r"has a name with \.\."),
        ({"a.wav": b"", "a.pkl": b"\x80\x04K\x01."}, "pickles, which are never loaded"),
    ],
)
def test_tars_with_pickles_or_names_that_lead_out_are_refused(
    tmp_path: Path, members: dict[str, bytes], message: str
):
    folder = write_members(tmp_path / "tars" / "x.tar", members)
    with pytest.raises(PslaError, match=message):
        list(TarsSource(folder=folder, class_labels=write_classes(tmp_path)).read()[1])


def test_a_class_list_is_made_from_a_folder_or_a_column(tmp_path: Path):
    for name in ("music/a", "dog/b", ".git/c"):
        (tmp_path / "set" / name).mkdir(parents=True)
    output = tmp_path / "out.csv"
    assert class_names(Args(tmp_path / "set", output)) == ["dog", "music"]
    table = write_table(
        tmp_path / "t.csv", [["x", "labels"], [1, "b|a"], [2, ""], [3, "Rain, a|b"]]
    )
    assert class_names(Args(table, output)) == ["Rain, a", "a", "b"]
    write_esc50(tmp_path)
    column = Args(tmp_path / "meta" / "esc50.csv", output, column="category")
    assert class_names(column) == ["dog", "rooster"]
    write_fsd50k(tmp_path)
    dev = Args(tmp_path / "FSD50K.ground_truth" / "dev.csv", output, separator=",")
    assert class_names(dev) == ["Bark", "Meow"]
    with pytest.raises(ManifestError, match="name the columns labels"):
        class_names(Args(tmp_path / "meta" / "esc50.csv", output))


def test_a_field_beyond_the_limit_of_csv_is_an_error_with_its_line(tmp_path: Path):
    text = "path,labels\n" + "x" * (csv.field_size_limit() + 1) + ",a\n"
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ManifestError, match=r"no CSV: .*\n.*line 2"):
        class_names(Args(tmp_path / "t.csv", tmp_path / "out.csv"))
