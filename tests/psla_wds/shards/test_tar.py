import tarfile
import zlib
from pathlib import Path

import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from psla_wds.errors import ShardError
from psla_wds.shards.tar import (
    PackedClip,
    Sidecar,
    WrittenTar,
    key_of,
    read_sidecar,
    sidecar_path,
    write_sidecar,
    write_tar,
)

clip_ids = st.text(min_size=1, max_size=40)


def packed(clip_id: str, audio: bytes) -> PackedClip:
    return PackedClip(clip_id, audio, "flac", 16000, 16000, ("/m/a",), "train", "m.csv, line 2")


@given(st.lists(clip_ids, min_size=2, max_size=2, unique=True))
def test_two_clip_ids_never_share_a_key(ids: list[str]):
    keys = [key_of(clip_id) for clip_id in ids]
    assert keys[0] != keys[1]
    assert not set("".join(keys)) & set("./\\ \0")


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(clip_ids, st.binary(min_size=1, max_size=2000), min_size=1, max_size=8))
def test_the_bytes_at_an_offset_are_the_audio(tmp_path_factory, clips: dict[str, bytes]):
    tar = tmp_path_factory.mktemp("tar") / "shard-000000.tar"
    columns = write_tar(tar, [packed(clip_id, audio) for clip_id, audio in clips.items()]).clips
    content = tar.read_bytes()
    found = {
        clip_id: content[offset : offset + size]
        for clip_id, offset, size in zip(columns.clip_id, columns.offset, columns.size, strict=True)
    }
    assert found == clips
    assert columns.crc32 == [zlib.crc32(audio) for audio in clips.values()]


def test_webdataset_reads_back_clips_with_dots_and_long_ids(tmp_path: Path):
    ids = ["Y--PJ_30.000_40.000", "a.b", "a_b", "x/y", "long" * 40]
    tar = tmp_path / "shard-000000.tar"
    write_tar(tar, [packed(clip_id, clip_id.encode()) for clip_id in ids])
    samples = list(webdataset.WebDataset(str(tar), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [key_of(clip_id) for clip_id in ids]
    assert [sample["flac"].decode() for sample in samples] == ids


def test_a_tar_depends_on_its_clips_alone(tmp_path: Path):
    for name in ("one.tar", "two.tar"):
        write_tar(tmp_path / name, [packed("a", b"audio"), packed("b", b"more")])
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    with tarfile.open(tmp_path / "one.tar") as archive:
        assert {(m.mtime, m.uid, m.uname) for m in archive} == {(0, 0, "")}


def test_a_failure_while_writing_leaves_no_tar(tmp_path: Path):
    def clips():
        yield packed("a", b"audio")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        write_tar(tmp_path / "shard-000000.tar", clips())
    assert list(tmp_path.iterdir()) == []


def sidecar_of(tar: Path, written: WrittenTar) -> Sidecar:
    return Sidecar(
        shard=tar.name,
        task="t",
        size_bytes=written.size_bytes,
        sha256=written.sha256,
        sample_rate_hz=16000,
        clips=written.clips,
        rejected=[],
        versions={},
    )


def test_a_sidecar_survives_writing_and_reading(tmp_path: Path):
    tar = tmp_path / "shard-000000.tar"
    sidecar = sidecar_of(tar, write_tar(tar, [packed("a", b"audio")]))
    assert read_sidecar(tar) is None
    write_sidecar(tar, sidecar)
    assert read_sidecar(tar) == sidecar


@pytest.mark.parametrize("damage", ["", "{}", "[]", '{"clips": 3}', "null", "[" * 20_000])
def test_a_damaged_sidecar_is_named(tmp_path: Path, damage: str):
    tar = tmp_path / "shard-000000.tar"
    sidecar_path(tar).write_text(damage)
    with pytest.raises(ShardError, match=r"sidecar is damaged[^\n]*\n.*shard-000000\.sidecar"):
        read_sidecar(tar)


def test_an_empty_shard_is_a_valid_tar(tmp_path: Path):
    columns = write_tar(tmp_path / "shard-000000.tar", []).clips
    assert columns.offset == []
    with tarfile.open(tmp_path / "shard-000000.tar") as archive:
        assert archive.getmembers() == []
