"""Sources that read data sets as they are published."""

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from data_sets import (
    CLASSES,
    audio_of,
    sound,
    write_classes,
    write_esc50,
    write_fsd50k,
    write_members,
    write_panns_hdf5,
    write_passt_hdf5,
    write_psla_json,
)
from fuzz.properties import limited_memory

from psla_wds.errors import ClipRefusedError, ManifestError, PslaError
from psla_wds.labels.manifest import checked
from sharding.packing.decode import decode
from sharding.sources import (
    Esc50Source,
    Fsd50kSource,
    Hdf5Source,
    PslaJsonSource,
    TarsSource,
)
from sharding.sources.psla_json import MOST_BYTES, check_weights


def test_the_splits_of_fsd50k_need_only_their_own_audio(tmp_path: Path):
    source = Fsd50kSource(folder=write_fsd50k(tmp_path))
    classes, clips = source.read()
    assert (classes.mids, classes.names) == tuple(zip(*CLASSES, strict=True))
    assert [clip.labels for clip in clips] == [(0,), (0, 2), (2,), (0,), (0,), (2,)]
    (tmp_path / "FSD50K.eval_audio").rename(tmp_path / "elsewhere")
    assert [clip.clip_id for clip in replace(source, splits=("val",)).read()[1]] == ["12", "13"]
    with pytest.raises(ManifestError, match=r"no folder FSD50K\.eval_audio"):
        list(source.read()[1])


def test_unpacked_archives_are_read_as_they_lie(tmp_path: Path):
    archive = write_esc50(tmp_path / "ESC-50-master")
    fsd50k = write_fsd50k(tmp_path / "FSD50K")
    for name in ("audio/._1-1000-A-0.wav", "meta/esc50-human.xlsx", "esc50.gif", "tests/test_x.py"):
        (archive / name).parent.mkdir(exist_ok=True)
        (archive / name).write_bytes(b"")
    for name in ("FSD50K.doc/README.md", "FSD50K.metadata/dev.json", "__MACOSX/FSD50K.dev_audio/1"):
        (fsd50k / name).parent.mkdir(parents=True)
        (fsd50k / name).write_bytes(b"")
    for source, number in ((Esc50Source(folder=archive), 10), (Fsd50kSource(folder=fsd50k), 6)):
        clips = list(checked(source.read()[1]))
        assert len(clips) == number and all(clip.path.is_file() for clip in clips)


def test_the_real_list_of_esc50_has_50_classes_and_five_folds(meta: Path, tmp_path: Path):
    (tmp_path / "audio").mkdir()
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "esc50.csv").symlink_to(meta / "esc50.csv")
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


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (official_weights(LABELS), "has the weights of these labels"),
        (official_weights([*LABELS[:-1], "/m/a"]), "4 of 4 rows differ, first row 1"),
        (official_weights(LABELS)[:-1], "it has 3 rows for 4 clips"),
    ],
)
def test_weights_beside_a_psla_json_are_compared_with_labels(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, weights: list[float], message: str
):
    caplog.set_level(logging.INFO)
    write_psla_json(tmp_path, LABELS, weights)
    right = check_weights(tmp_path / "train_weight.csv", [row.split(",") for row in LABELS])
    assert message in caplog.text and right == message.startswith("has")


def test_a_psla_json_has_a_size_that_memory_holds(tmp_path: Path):
    path = tmp_path / "a.json"
    with path.open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    source = PslaJsonSource(file=path, class_labels=write_classes(tmp_path))
    with limited_memory(), pytest.raises(ManifestError, match=r"1,073,741,825 bytes; at most"):
        list(source.read()[1])


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


def test_panns_hdf5_gives_waveforms_and_reports_empty_rows(tmp_path: Path):
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


def replaced(name: str, make: Callable[[h5py.File, Path], object]) -> Callable[[Path], None]:
    """Damage: an array of another make in place of `name`."""

    def damage(path: Path) -> None:
        with h5py.File(path, "a") as file:
            del file[name]
            made = make(file, path)
            if made is not None:
                file[name] = made

    return damage


def elsewhere(file: h5py.File, path: Path) -> h5py.ExternalLink:
    other = write_panns_hdf5(path.with_name("other.h5"))
    return h5py.ExternalLink(str(other), "/waveform")


def stored_elsewhere(file: h5py.File, path: Path) -> None:
    path.with_name("secret").write_bytes(bytes(3 * 16_000 * 2))
    external = [(str(path.with_name("secret")), 0, 3 * 16_000 * 2)]
    file.create_dataset("waveform", (3, 16_000), np.int16, external=external)


def claims(name: str, shape: tuple, dtype: object, **layout: object) -> Callable[[Path], None]:
    """Damage: an array that claims a size of which the file has nothing."""
    size = {"maxshape": (None, *shape[1:])} if layout else {}
    return replaced(
        name, lambda file, _: file.create_dataset(name, shape, dtype, **size, **layout) and None
    )


def drop_the_rate(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file.attrs["sample_rate"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: os.truncate(path, path.stat().st_size // 2), "not an HDF5 file"),
        (replaced("waveform", elsewhere), "has not the arrays"),
        (replaced("waveform", stored_elsewhere), "has not the arrays"),
        (replaced("target", lambda *_: np.zeros((2, 3), bool)), "has not the arrays"),
        (replaced("target", lambda *_: np.zeros((3, 9), bool)), "target has shape"),
        (claims("target", (3, 2**33), bool), "has not the arrays"),
        (claims("target", (3, 60_000), bool), "target has shape"),
        (claims("waveform", (3, 2**40), np.int16), "has not the arrays"),
        (claims("waveform", (3, 9), np.int16, chunks=(2**26, 9)), "has not the arrays"),
        (claims("audio_name", (3,), "S2000000000"), "has not the arrays"),
        (drop_the_rate, "does not say its sample_rate"),
        (lambda path: path.unlink(), "no such file"),
    ],
)
def test_an_hdf5_file_of_another_make_is_refused_by_name(tmp_path: Path, damage, message: str):
    path = write_panns_hdf5(tmp_path / "waveforms.h5")
    damage(path)
    with limited_memory(), pytest.raises(PslaError, match=rf"{message}.*(.|\n)*waveforms\.h5"):
        hdf5_clips(tmp_path, path)


@pytest.mark.parametrize(
    ("extensions", "taken"),
    [
        (("m4a",), "m4a"),
        (("webm",), "webm"),
        (("mp4", "wav"), "wav"),
        (("m4a", "mp3"), "mp3"),
        (("wav", "flac"), None),
        (("mp4", "webm"), None),
    ],
)
def test_tars_hold_audio_of_any_format(tmp_path: Path, extensions: tuple, taken: str | None):
    members = {f"a.{extension}": extension.encode() for extension in extensions}
    folder = write_members(tmp_path / "tars" / "x.tar", members | {"a.cls": b"1"})
    (clip,) = TarsSource(folder=folder, class_labels=write_classes(tmp_path)).read()[1]
    if taken is None:
        assert clip.refusal and clip.refusal[0] == "two-audio"
    else:
        content = (folder / "x.tar").read_bytes()
        part = content[clip.part.offset : clip.part.offset + clip.part.size]
        assert part == taken.encode()


def test_tars_are_read_by_byte_range_and_keep_bad_clips(tmp_path: Path):
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
