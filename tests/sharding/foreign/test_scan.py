"""What a scan of a foreign tar refuses, and how names and classes are understood."""

import bz2
import gzip
import json
import lzma
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from data_sets import GOOD, RATE_HZ, audio_of, write_class_labels, write_members
from hypothesis import example, given
from hypothesis import strategies as st
from webdataset.tariterators import base_plus_ext

from psla_wds.audio.files import Notes
from psla_wds.errors import ManifestError, PslaError, ShardError
from psla_wds.labels.class_list import ClassList
from sharding.check import check
from sharding.foreign.labels import LabelRules
from sharding.foreign.scan import scan
from sharding.foreign.tar_members import split_name
from sharding.index import class_separation, make_index
from sharding.packing.clip_table import ClipTable
from sharding.packing.decode import decode
from sharding.packing.reports import REJECTED
from sharding.sources import TarsSource

CLASSES = ClassList(("/t/0", "/t/1", "/t/2", "7"), ("low", "middle, or so", "2", "noise"))


FORMS = {"wav": audio_of(0, "wav"), "cls": b"0"}


@pytest.fixture
def class_labels(tmp_path: Path) -> Path:
    return write_class_labels(tmp_path / "classes.csv")


names = st.lists(st.sampled_from(["a", "b.c", "d.flac", "000_10.000.wav", "e"]), min_size=1)


@given(names.map("/".join) | st.text("aB./_", min_size=1))
@example("Y--PJHxphWEs_30.000_40.000.flac")
@example("__.__")
def test_names_are_split_as_webdataset_splits_them(name: str):
    key, extension = split_name(name)
    if key:
        expected_key, expected_extension = base_plus_ext(name)
        assert (key, extension) == (expected_key, expected_extension.lower())
    else:  # hidden, without an extension, or a name that webdataset keeps for itself
        base = name.rpartition("/")[2]
        reserved = base.startswith("__") and base.endswith("__")
        assert (
            reserved
            or "." not in base.rstrip(".")
            or base.startswith(".")
            or not base.partition(".")[2]
        )


@pytest.mark.parametrize("name", ["a", ".a.wav", "d/._a.wav", "__meta__/a.wav", "__a.b__", "a."])
def test_a_name_that_is_not_part_of_a_clip_has_no_key(name: str):
    assert split_name(name) == ("", "")


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"json": {"labels": ["/t/1", "low"]}}, ["/t/0", "/t/1"]),
        ({"json": {"labels": "middle, or so|/t/0|low"}}, ["/t/0", "/t/1"]),
        ({"json": {"label": 2}}, ["/t/2"]),
        ({"json": {"labels": [], "tags": ["noise"]}, "cls": "0"}, ["7"]),
        ({"json": {"text": ["a dog"], "tag": ["noise", "low"]}}, ["/t/0", "7"]),
        ({"json": {"caption": "?"}, "cls": "0", "txt": "noise"}, ["/t/0"]),
        ({"cls": " 3\n"}, ["7"]),
        ({"txt": "low\r\nmiddle, or so\n\n"}, ["/t/0", "/t/1"]),
        ({"txt": "7"}, ["7"]),
        ({"json": {"labels": "2"}}, ["/t/2"]),
        ({"json": {"label": [0, 0, 0, 1]}}, ["7"]),
        ({"json": {"labels": [True, False, True, False]}}, ["/t/0", "/t/2"]),
        ({"json": {"labels": [0, 1]}}, ["/t/0", "/t/1"]),
    ],
)
def test_labels_are_mids_names_or_indices(tmp_path: Path, labels: dict, expected: list[str]):
    members = {
        f"a.{kind}": (json.dumps(value) if kind == "json" else value).encode()
        for kind, value in labels.items()
    }
    write_members(tmp_path / "a.tar", {"a.wav": audio_of(0, "wav")} | members)
    scanned = scan(tmp_path / "a.tar", LabelRules(CLASSES)).sidecar
    assert scanned.rejected == [] and scanned.clips.mids == [expected]


def test_an_index_counts_even_if_a_class_is_named_like_it(tmp_path: Path):
    classes = ClassList(("/t/0", "/t/1"), ("1", "0"))
    write_members(tmp_path / "a.tar", {"a.wav": audio_of(0, "wav"), "a.cls": b"1"})
    assert scan(tmp_path / "a.tar", LabelRules(classes)).sidecar.clips.mids == [["/t/1"]]


def test_only_the_named_key_of_the_json_counts(tmp_path: Path):
    content = {"a": {"labels": ["low"], "coarse": ["noise"]}, "b": {"labels": ["low"]}}
    members = {f"{key}.json": json.dumps(content[key]).encode() for key in content}
    members |= {f"{key}.{kind}": data for key in content for kind, data in FORMS.items()}
    write_members(tmp_path / "a.tar", members)
    sidecar = scan(tmp_path / "a.tar", LabelRules(CLASSES, key="coarse")).sidecar
    assert (sidecar.clips.clip_id, sidecar.clips.mids) == (["a"], [["7"]])
    (rejected,) = sidecar.rejected
    assert (rejected["clip_id"], rejected["reason"]) == ("b", "no-label")
    assert "no label in coarse, only labels" in rejected["detail"]


def test_names_with_seconds_keep_their_own_labels(tmp_path: Path):
    members = {
        "Y_30.000_40.000.wav": audio_of(0, "wav"),
        "Y_30.500_40.500.json": b'{"labels": "low"}',
        "Y_30.000_40.000.json": b'{"labels": "noise", "id": 12}',
    }
    write_members(tmp_path / "a.tar", members)
    clips = scan(tmp_path / "a.tar", LabelRules(CLASSES)).sidecar.clips
    assert (clips.clip_id, clips.mids) == (["12"], [["7"]])


@given(st.integers(2, 6), st.integers(2, 30), st.integers(0, 99))
def test_separation_is_1_for_pure_tars_and_0_for_shuffled_ones(
    num_tars: int, per_tar: int, seed: int
):
    sizes = np.full(num_tars, per_tar)
    assert class_separation(np.diag(sizes), sizes) == pytest.approx(1)
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(4), 250)).reshape(10, 100)
    counts = np.stack([np.bincount(tar, minlength=4) for tar in labels])
    assert abs(class_separation(counts, np.full(10, 100))) < 0.02


def test_a_class_that_every_clip_has_separates_nothing():
    assert class_separation(np.array([[5, 0], [5, 5]]), np.array([5, 5])) == pytest.approx(1)
    assert class_separation(np.array([[5, 0], [5, 0]]), np.array([5, 5])) == 0
    assert class_separation(np.array([[1, 0], [0, 1]]), np.array([1, 1])) == 0


MP3 = audio_of(1, "mp3")
GSM = audio_of(1, "wav", subtype="GSM610")
WAV = audio_of(1, "wav")
SIZE_AT = WAV.index(b"data") + 4
UNFINISHED = WAV[:SIZE_AT] + struct.pack("<I", 1000) + WAV[SIZE_AT + 4 :]
MP3_FORM = struct.pack("<HHIIHHHHIHHH", 0x55, 1, RATE_HZ, 8000, 1, 0, 12, 1, 0, 1, 1, 0)
MP3_IN_WAV = b"RIFF\xff\xff\xff\xffWAVEfmt " + struct.pack("<I", len(MP3_FORM)) + MP3_FORM
MP3_IN_WAV += b"data" + struct.pack("<I", len(MP3)) + MP3


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"bad.wav": audio_of(1, "wav")}, "no-label"),
        ({"bad.wav": audio_of(1, "wav"), "bad.json": b'{"caption": "low"}'}, "no-label"),
        ({"bad.json": b'{"labels": "low"}'}, "no-audio"),
        ({"bad.mp3": MP3, "bad.cls": b"1"}, "mp3"),
        ({"bad.wav": MP3, "bad.cls": b"1"}, "mp3"),
        ({"bad.wav": audio_of(1, "wav"), "bad.flac": b"", "bad.cls": b"1"}, "two-audio"),
        ({"bad.wav": b"no audio", "bad.cls": b"1"}, "unreadable"),
        ({"bad.wav": MP3_IN_WAV, "bad.cls": b"1"}, "mp3"),
        ({"bad.wav": GSM, "bad.cls": b"1"}, "gsm"),
        ({"bad.wav": UNFINISHED, "bad.cls": b"1"}, "bad-header"),
        ({"bad.wav": audio_of(1, "wav")[:5000], "bad.cls": b"1"}, "truncated"),
        ({"bad.wav": audio_of(1, "wav")[:44], "bad.cls": b"1"}, "empty"),
        ({"bad.wav": audio_of(1, "wav"), "bad.txt": b"lwo"}, "unknown-label"),
        ({"bad.wav": audio_of(1, "wav"), "bad.cls": b"4"}, "unknown-label"),
        ({"bad.wav": audio_of(1, "wav"), "bad.cls": b"-1"}, "unknown-label"),
        ({"bad.wav": audio_of(1, "wav"), "bad.cls": b"one"}, "bad-label"),
        ({"bad.wav": audio_of(1, "wav"), "bad.json": b'{"labels": [1.5]}'}, "bad-label"),
        ({"bad.wav": audio_of(1, "wav"), "bad.json": b'{"labels": [0, 1, 0]}'}, "bad-label"),
        ({"bad.wav": audio_of(1, "wav"), "bad.json": b'{"labels": [0, 0, 0, 0]}'}, "no-label"),
        ({"bad.wav": audio_of(1, "wav"), "bad.json": b"[" * 100_000}, "bad-json"),
        ({"bad.wav": audio_of(1, "wav"), "bad.json": b"[1]"}, "bad-json"),
        ({"bad.wav": audio_of(1, "wav"), "bad.WAV": audio_of(1, "wav")}, "duplicate-key"),
    ],
)
def test_a_bad_clip_is_listed_and_the_others_load(
    class_labels: Path, tmp_path: Path, members: dict[str, bytes], reason: str
):
    folder = write_members(tmp_path / "tars" / "a.tar", GOOD | members)
    with pytest.raises(ManifestError, match=rf"1 of 2 clips were refused \(50.0%\): 1 {reason}"):
        make_index(folder, class_labels)
    assert not (folder / "index").exists()
    index, found = make_index(folder, class_labels, max_rejected=0.5)
    assert len(index) == 1 and index.clip_id(0) == "good" and found.num_scanned == 0
    (line,) = (folder / REJECTED).read_text().splitlines()
    rejected = json.loads(line)
    assert (rejected["clip_id"], rejected["path"], rejected["reason"]) == ("bad", "a.tar", reason)
    assert check(folder, deep=True) == []


def special(kind: bytes, name: str = "special", target: str = "") -> Callable[[Path], None]:
    def add(tar: Path) -> None:
        with tarfile.open(tar, "a") as archive:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)

    return add


def cut_between_members(tar: Path) -> None:
    with tarfile.open(tar) as archive:
        end = archive.getmembers()[-1].offset
    tar.write_bytes(tar.read_bytes()[:end])


def damage_a_header(tar: Path) -> None:
    with tarfile.open(tar) as archive:
        start = archive.getmembers()[-1].offset
    content = bytearray(tar.read_bytes())
    content[start + 150] ^= 1
    tar.write_bytes(content)


def compressed_by(compress: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda tar: tar.write_bytes(compress(tar.read_bytes())) and None


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (special(tarfile.REGTYPE, "../outside.wav"), r"'\.\./outside\.wav' has a name with \.\."),
        (special(tarfile.REGTYPE, "/etc/passwd"), "'/etc/passwd' has an absolute name"),
        (special(tarfile.SYMTYPE, "a.wav", "/etc/passwd"), "'a.wav' is a link"),
        (special(tarfile.LNKTYPE, "a.wav", "good.wav"), "'a.wav' is a link"),
        (special(tarfile.CHRTYPE), "neither a file nor a folder"),
        (special(tarfile.FIFOTYPE), "neither a file nor a folder"),
        (special(tarfile.GNUTYPE_SPARSE), "is sparse"),
        (special(tarfile.REGTYPE, "\udcff.wav"), "not UTF-8"),
        (lambda tar: tar.write_bytes(tar.read_bytes()[:3000]), "unexpected end of data"),
        (cut_between_members, "cut short at byte"),
        (damage_a_header, "a damaged header at byte"),
        (lambda tar: tar.write_bytes(tar.read_bytes() * 2), "second tar appended"),
        (lambda tar: tar.write_bytes(b""), "not a whole tar"),
        (compressed_by(gzip.compress), r"compressed \(gz\)"),
        (compressed_by(lzma.compress), r"compressed \(xz\)"),
        (compressed_by(bz2.compress), r"compressed \(bz2\)"),
        (compressed_by(lambda content: b"\x28\xb5\x2f\xfd" + content), r"compressed \(zst\)"),
    ],
)
def test_a_tar_that_is_unsafe_or_not_whole_is_refused(
    class_labels: Path, tmp_path: Path, damage: Callable[[Path], None], message: str
):
    folder = write_members(tmp_path / "tars" / "bad.tar", GOOD)
    damage(folder / "bad.tar")
    with pytest.raises(ShardError, match=rf"(?s){message}.*where: [^\n]*bad\.tar.*fix: "):
        make_index(folder, class_labels)
    assert [path.name for path in folder.iterdir()] == ["bad.tar"]


@pytest.mark.parametrize("end", ["tar.gz", "tgz", "tar.zst", "tar.xz", "tar.bz2", "tar.lz4"])
def test_compressed_tars_are_named_by_every_command(class_labels: Path, tmp_path: Path, end: str):
    folder = write_members(tmp_path / "tars" / f"part-0.{end}", {})
    message = (
        rf"(?s)compressed, such as part-0\.{end}.*fix: .*un.* {folder}/\*\.{end.split('.')[-1]}"
    )
    with pytest.raises(ShardError, match=message):
        make_index(folder, class_labels)
    with pytest.raises(ShardError, match=message):
        list(TarsSource(folder=folder, class_labels=class_labels).read()[1])


def test_a_compressed_tar_beside_others_gets_a_warning(
    class_labels: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    folder = write_members(tmp_path / "tars" / "a.tar", GOOD)
    write_members(folder / "a.tar.gz", {})
    make_index(folder, class_labels)
    assert "compressed" not in caplog.text
    write_members(folder / "b.tar.gz", {})
    assert len(make_index(folder)[0]) == 1
    assert "1 tars are compressed, such as b.tar.gz" in caplog.text


def test_leftovers_of_macos_are_no_clips(class_labels: Path, tmp_path: Path):
    members = {f"d/{name}": content for name, content in GOOD.items()}
    junk = {f"d/._{name.partition('/')[2]}": bytes(40) for name in members}
    folder = write_members(tmp_path / "tars" / "a.tar", junk | members)
    index, found = make_index(folder, class_labels)
    assert [index.clip_id(row) for row in range(len(index))] == ["d/good"] and not found.rejected
    source = TarsSource(folder=folder, class_labels=class_labels)
    assert [clip.clip_id for clip in source.read()[1]] == ["d/good"]


def test_a_name_with_spaces_is_a_key(class_labels: Path, tmp_path: Path):
    members = {"a dog 0.flac": audio_of(0, "flac"), "a dog 0.json": b'{"labels": ["low"]}'}
    folder = write_members(tmp_path / "tars" / "a.tar", members)
    assert make_index(folder, class_labels)[0].clip_id(0) == "a dog 0"
    assert check(folder, deep=True) == []
    source = TarsSource(folder=folder, class_labels=class_labels)
    assert [clip.clip_id for clip in source.read()[1]] == ["a dog 0"]


def test_a_member_named_as_another_kind_is_noted(class_labels: Path, tmp_path: Path):
    folder = write_members(tmp_path / "a.tar", {"a.wav": audio_of(0, "flac"), "a.cls": b"0"})
    clips = TarsSource(folder=folder, class_labels=class_labels).read()[1]
    (clip,) = ClipTable((0, clip) for clip in clips)
    decode(clip, sample_rate_hz=16_000, notes=(notes := Notes()))
    assert notes.flags == {"misnamed": "named .wav, is flac"}


def test_members_of_a_clip_are_brought_together(class_labels: Path, tmp_path: Path):
    members = {f"{n}.wav": audio_of(n, "wav") for n in range(3)}
    members |= {f"{n}.cls": str(n).encode() for n in (2, 0, 1)}
    folder = write_members(tmp_path / "tars" / "apart.tar", members)
    index, _ = make_index(folder, class_labels)
    assert {index.clip_id(r): index.labels(r).tolist() for r in range(3)} == {
        "0": [0], "1": [1], "2": [2],
    }  # fmt: skip
    assert check(folder, deep=True) == []


def test_an_empty_tar_counts_beside_others_and_not_alone(class_labels: Path, tmp_path: Path):
    folder = write_members(tmp_path / "tars" / "a.tar", {})
    with pytest.raises(ManifestError, match="have no clips"):
        make_index(folder, class_labels)
    write_members(folder / "b.tar", {"1.wav": audio_of(1, "wav"), "1.cls": b"1"})
    index, _ = make_index(folder, class_labels)
    assert len(index) == 1 and len(index.shards) == 2 and index.sample_rate_hz == RATE_HZ
    assert check(folder, deep=True) == []


def test_several_sample_rates_are_counted(class_labels: Path, tmp_path: Path):
    folder = tmp_path / "tars"
    for tar, rates in {"a.tar": (16_000, 16_000, 8_000), "b.tar": (22_050,)}.items():
        members = {}
        for number, rate_hz in enumerate(rates):
            members[f"{tar[0]}{number}.wav"] = audio_of(number, "wav", rate_hz=rate_hz)
            members[f"{tar[0]}{number}.cls"] = b"0"
        write_members(folder / tar, members)
    with pytest.raises(ShardError, match=r"2 at 16,000 Hz, 1 at 8,000 Hz, 1 at 22,050 Hz"):
        make_index(folder, class_labels)
    assert not (folder / "a.sidecar.json").exists() and not (folder / "index").exists()


@pytest.mark.parametrize(
    ("folder", "message"),
    [("no", "no such folder"), ("bare", "no shards here"), ("/proc", r"cannot be written here")],
)
def test_a_folder_that_cannot_be_indexed_is_named(
    class_labels: Path, tmp_path: Path, folder: str, message: str
):
    (tmp_path / "bare").mkdir()
    with pytest.raises(PslaError, match=message):
        make_index(tmp_path / folder, class_labels)
    assert list((tmp_path / "bare").iterdir()) == []


def test_a_class_list_is_asked_for_where_there_is_none(tmp_path: Path):
    folder = write_members(tmp_path / "tars" / "a.tar", GOOD)
    with pytest.raises(ManifestError, match="no class list here"):
        make_index(folder)
