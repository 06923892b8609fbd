"""Changed tars, our own and those of others: refused, named by the check, or a sound index."""

import io
import os
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from builds import AUDIO, own_shard, use_index
from data_sets import audio_of, write_class_labels, write_members
from fuzz.mutations import AWKWARD_TEXTS, changed_bytes, changed_json
from fuzz.properties import accepted, fuzz, tiers
from hypothesis import strategies as st

from psla_wds.io.atomic_files import sha256_of
from psla_wds.shards.index_files import read_index
from psla_wds.shards.merge import merge_sidecars
from psla_wds.shards.tar import read_sidecar, write_sidecar
from sharding.check import check
from sharding.index import make_index

METADATA = b'{"labels": ["/t/1"], "clip_id": "id", "split": "eval", "duration_s": 0.4}'
MEMBERS = {
    "a.flac": AUDIO,
    "a.json": METADATA,
    "b.wav": audio_of(1, "wav"),
    "b.cls": b"2",
    "c.ogg": audio_of(2, "ogg"),
    "c.txt": b"low|noise\n",
}
TYPES = [
    tarfile.REGTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE,
    tarfile.DIRTYPE, tarfile.CONTTYPE, tarfile.GNUTYPE_SPARSE, tarfile.GNUTYPE_LONGNAME,
    tarfile.XHDTYPE, tarfile.XGLTYPE, b"\xff",
]  # fmt: skip
SIZES = [0, 1, 511, 513, 2**31, 2**33 - 1, 2**40, 2**62]
PAX = [
    {"size": "99999999999999"}, {"size": "-1"}, {"size": "x"}, {"path": "../canary"},
    {"path": "/tmp/canary"}, {"GNU.sparse.map": "0,99999999999"}, {"GNU.sparse.size": "1" * 30},
    {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9" * 15},
    {"linkpath": "/etc/passwd"}, {"hdrcharset": "BINARY"}, {"comment": "x" * 100_000},
]  # fmt: skip


@st.composite
def awkward_tar(draw: st.DrawFn) -> bytes:
    """A tar in which one member has another name, type, size, link, pax header, or label file."""
    odd = draw(st.sampled_from(sorted(MEMBERS)))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in MEMBERS.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            if name == odd:
                content = draw(make_odd(info, content))
            archive.fileobj.write(info.tobuf(tarfile.PAX_FORMAT, errors="surrogateescape"))
            archive.fileobj.write(content + bytes(-len(content) % tarfile.BLOCKSIZE))
            archive.offset = archive.fileobj.tell()
    return buffer.getvalue()


@st.composite
def make_odd(draw: st.DrawFn, info: tarfile.TarInfo, content: bytes) -> bytes:
    match draw(st.sampled_from(["name", "type", "size", "pax", "content"])):
        case "name":
            folder = draw(st.sampled_from(["", "../", "/", "a/../../", "x" * 300 + "/"]))
            awkward = [text for text in AWKWARD_TEXTS if text.isprintable()]
            info.name = folder + draw(st.sampled_from([*awkward, "a.flac", "b.pkl", "a.b.c.wav"]))
        case "type":
            info.type = draw(st.sampled_from(TYPES))
            info.linkname = draw(st.sampled_from(["/etc/passwd", "../canary", "a.flac"]))
        case "size":
            info.size = draw(st.sampled_from(SIZES))
        case "pax":
            info.pax_headers = draw(st.sampled_from(PAX))
        case "content" if info.name.endswith(".json"):
            content = draw(changed_json(content))
            info.size = len(content)
        case "content":
            content = draw(changed_bytes(content))
            info.size = len(content)
    return content


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("psla_wds.io.remote.RETRY_PAUSES_S", ())
    (tmp_path / "shards").mkdir()
    (tmp_path / "canary").write_text("never read, never written")
    return tmp_path / "shards"


@tiers(100, 8000)
def test_a_changed_tar_of_others_is_refused_or_sound(folder: Path, num_cases: int):
    classes = write_class_labels(folder.parent / "classes.csv")
    write_members(folder / "original.tar", MEMBERS)
    original = (folder / "original.tar").read_bytes()

    def changed(content: bytes) -> None:
        shutil.rmtree(folder)
        folder.mkdir()
        (folder / "part.tar").write_bytes(content)
        found = accepted(lambda: make_index(folder, classes, max_rejected=1.0))
        if found:
            accepted(lambda: use_index(found[0]))
            assert accepted(lambda: check(folder, deep=False)) == []
            accepted(lambda: check(folder, deep=True))
        assert sorted(os.listdir(folder.parent)) == ["canary", "classes.csv", "shards"]

    fuzz(num_cases // 2, changed_bytes(original), changed)
    fuzz(num_cases // 2, awkward_tar(), changed)


@tiers(40, 3000)
def test_a_changed_tar_of_ours_is_named_by_the_check(folder: Path, num_cases: int):
    tar = own_shard(folder, "shard-000000.tar")
    original = tar.read_bytes()

    def changed(content: bytes) -> None:
        tar.write_bytes(content)
        for deep in (False, True):
            assert (accepted(lambda deep=deep: check(folder, deep=deep)) != []) == (
                content != original
            )
        accepted(lambda: use_index(read_index(folder)))

    fuzz(num_cases, changed_bytes(original), changed)


@tiers(40, 3000)
def test_a_changed_tar_that_its_sidecar_fits_does_no_harm(folder: Path, num_cases: int):
    tar = own_shard(folder, "shard-000000.tar")
    sidecar = read_sidecar(tar)

    def changed(content: bytes) -> None:
        tar.write_bytes(content)
        fitting = replace(sidecar, size_bytes=len(content), sha256=sha256_of(tar))
        write_sidecar(tar, fitting)
        if accepted(lambda: merge_sidecars(folder)):
            accepted(lambda: check(folder, deep=True))

    fuzz(num_cases, changed_bytes(tar.read_bytes()) | awkward_tar(), changed)
