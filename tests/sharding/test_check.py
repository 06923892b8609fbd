"""Damage to shards is found and named, and numbers about shards agree with them."""

import gzip
import io
import json
import lzma
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builds import own_shard, packed_clip
from conftest import assert_user_error, run_command
from fuzz.properties import limited_memory

from psla_wds.errors import ShardError
from psla_wds.io.atomic_files import sha256_of
from psla_wds.shards.index_files import read_index
from psla_wds.shards.merge import merge_sidecars
from psla_wds.shards.tar import read_sidecar, sidecar_path, write_sidecar, write_tar
from sharding.check import check

NESTED = b"[" * 20_000


def test_check_and_info_agree_with_the_shards(shards: Path):
    assert "agree" in run_command("sharding.check", str(shards), "--deep").stdout
    info = json.loads(run_command("sharding.info", str(shards), "--json").stdout)
    assert info["clips"] == 48 and [c["clips"] for c in info["classes"]] == [12] * 4
    assert sum(info["splits"].values()) == 48
    assert sum(entry["clips"] for entry in info["duration_histogram"]) == 48
    assert 0 < info["audio_bytes"] < info["bytes"]
    text = run_command("sharding.info", str(shards)).stdout
    assert "noise" in text and info["lengths"] in text
    assert info["lengths"].endswith("94 % padding; --features.num-frames 96")


def flip_a_byte(tar: Path) -> None:
    content = bytearray(tar.read_bytes())
    content[len(content) // 2] ^= 1
    tar.write_bytes(content)


def damage_a_clip(tar: Path) -> None:
    index = read_index(tar.parent)
    with tar.open("r+b") as file:
        file.seek(index.offset[3] + index.size[3] // 2)
        file.write(b"\0\0\0\0\0\0\0\0")


def first_json(tar: Path) -> str:
    with tarfile.open(tar) as archive:
        return next(name for name in archive.getnames() if name.endswith(".json"))


def add_member(tar: Path, name: str) -> None:
    """As a tool would that writes size and hash anew, but not what the tar holds."""
    with tarfile.open(tar, "a") as archive:
        member = tarfile.TarInfo(name)
        member.size = 4
        archive.addfile(member, io.BytesIO(b"{}  "))
    size_bytes, sha256 = tar.stat().st_size, sha256_of(tar)
    change_json(sidecar_path(tar), lambda content: content.update(sha256=sha256))
    change_json(sidecar_path(tar), lambda content: content.update(size_bytes=size_bytes))


def change_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def change_split_in_index(tar: Path) -> None:
    path = tar.parent / "index" / "split.npy"
    np.save(path, 1 - np.load(path))


def swap_sidecars(tar: Path) -> None:
    mine, other = tar.with_suffix(".sidecar.json"), tar.with_name("shard-000001.sidecar.json")
    saved = mine.read_bytes()
    mine.write_bytes(other.read_bytes())
    other.write_bytes(saved)


@pytest.mark.parametrize(
    ("damage", "finding"),
    [
        (flip_a_byte, "SHA-256 differs"),
        (damage_a_clip, "is damaged: its CRC-32 differs"),
        (damage_a_clip, "cannot be decoded"),
        (lambda tar: tar.write_bytes(tar.read_bytes()[:5000]), "not the shard of its sidecar"),
        (lambda tar: tar.unlink(), "missing"),
        (swap_sidecars, "not the shard of its sidecar"),
        (lambda tar: tar.with_suffix(".sidecar.json").unlink(), "no sidecar"),
        (lambda tar: shutil.copy(tar, tar.with_name("shard-9.tar")), "not in the index"),
        (lambda tar: add_member(tar, "stowaway.flac"), "member stowaway is not in the sidecar"),
        (lambda tar: add_member(tar, first_json(tar)), "has 25 members for 12 clips"),
        (change_split_in_index, "differ in splits"),
    ],
)
def test_check_finds_damage(shards: Path, tmp_path: Path, damage, finding: str):
    copied = shutil.copytree(shards, tmp_path / "shards")
    damage(copied / "shard-000000.tar")
    assert finding in "\n".join(check(copied, deep=False))
    assert finding in "\n".join(check(copied, deep=True))


def test_damage_is_an_error_of_the_command(shards: Path, tmp_path: Path):
    copied = shutil.copytree(shards, tmp_path / "shards")
    flip_a_byte(copied / "shard-000000.tar")
    flip_a_byte(copied / "shard-000002.tar")
    done = run_command("sharding.check", str(copied), check=False)
    assert_user_error(done, "SHA-256 differs")
    assert len(done.stderr[done.stderr.index("error: ") :].splitlines()) == 3
    assert done.stdout.count("SHA-256 differs") == 2


def test_a_folder_whose_name_has_a_line_break_is_read(shards: Path, tmp_path: Path):
    copied = shutil.copytree(shards, tmp_path / "two\nlines")
    assert check(copied, deep=True) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("fingerprint", "\ud800"), ("fingerprint", 1), ("sample_rate_hz", 10**40), ("num_clips", 3)],
)
def test_meta_json_with_impossible_values_is_refused(tmp_path: Path, name: str, value: object):
    own_shard(tmp_path)
    change_json(tmp_path / "index" / "meta.json", lambda meta: meta.update({name: value}))
    with pytest.raises(ShardError, match="the index is damaged"):
        read_index(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda sidecar: sidecar.update(sha256="\ud800"),
        lambda sidecar: sidecar.update(silent=["\ud800"]),
        lambda sidecar: sidecar["versions"].update(a="\ud800"),
        lambda sidecar: sidecar["rejected"].append({"clip_id": "\ud800"}),
        lambda sidecar: sidecar["clips"]["split"].__setitem__(0, "\ud800"),
        lambda sidecar: sidecar["clips"]["mids"].__setitem__(0, ["\ud800"]),
        lambda sidecar: sidecar["clips"]["crc32"].__setitem__(0, 2**36),
        lambda sidecar: sidecar.update(sample_rate_hz=10**40),
        lambda sidecar: sidecar.update(sample_rate_hz=-1),
    ],
)
def test_a_sidecar_with_impossible_values_is_refused(tmp_path: Path, change):
    tar = own_shard(tmp_path)
    change_json(sidecar_path(tar), change)
    with pytest.raises(ShardError, match="the sidecar is damaged"):
        read_sidecar(tar)


def test_a_sidecar_with_another_split_than_its_tar_is_named(tmp_path: Path):
    tar = own_shard(tmp_path)
    change_json(sidecar_path(tar), lambda sidecar: sidecar["clips"].update(split=["eval", "train"]))
    merge_sidecars(tmp_path)
    assert check(tmp_path, deep=False) == []
    assert check(tmp_path, deep=True) == [
        "a.tar: a has another split in its .json than in the sidecar"
    ]


def test_a_split_without_clips_in_meta_json_is_named(tmp_path: Path):
    own_shard(tmp_path)
    change_json(tmp_path / "index" / "meta.json", lambda meta: meta["splits"].append("x"))
    assert check(tmp_path, deep=False) == [
        "the index and the sidecars differ in the names of splits"
    ]


def refit(tar: Path, **changes: object) -> None:
    """Make sidecar and index fit a tar that was changed."""
    sidecar = read_sidecar(tar)
    size = {"size_bytes": tar.stat().st_size, "sha256": sha256_of(tar)}
    write_sidecar(tar, replace(sidecar, **size, **changes))
    assert merge_sidecars(tar.parent)


@pytest.mark.parametrize("byte", [b"1", b"["], ids=["a number", "nested"])
def test_json_in_a_tar_that_is_not_an_object_is_named(tmp_path: Path, byte: bytes):
    tar = own_shard(tmp_path)
    clip = packed_clip("a", source="x" * len(NESTED))
    columns = write_tar(tar, [clip]).clips
    metadata = json.dumps(clip.metadata()).encode()
    other = byte.ljust(len(metadata)) if byte.isdigit() else byte * len(metadata)
    tar.write_bytes(tar.read_bytes().replace(metadata, other))
    refit(tar, clips=columns)
    (problem,) = check(tmp_path, deep=True)
    assert problem.startswith("a.tar: a cannot be decoded")


def rewrite(tar: Path, *, pax_headers: dict[str, str] | None = None, twice: bool = False) -> None:
    """Write a tar anew, with pax headers of its first member, or with this member twice."""
    with tarfile.open(tar) as archive:
        members = [(m, archive.extractfile(m).read()) for m in archive]
    members[0][0].pax_headers = pax_headers or {}
    with tarfile.open(tar, "w", format=tarfile.PAX_FORMAT) as archive:
        for member, content in [*members[:twice], *members]:
            archive.addfile(member, io.BytesIO(content))
    refit(tar)


SPARSE_1_0 = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9"}


@pytest.mark.parametrize(
    ("headers", "finding"),
    [
        ({"GNU.sparse.size": "1" * 30}, "is sparse"),
        ({"GNU.sparse.size": str(2**33)}, "is sparse"),
        (SPARSE_1_0, "not a whole tar: invalid literal"),
    ],
)
def test_a_sparse_member_is_named_and_not_read(
    tmp_path: Path, headers: dict[str, str], finding: str
):
    """webdataset made room for the size that it claims, or tarfile took audio for a map."""
    rewrite(own_shard(tmp_path), pax_headers=headers)
    with limited_memory():
        problems = check(tmp_path, deep=True)
    assert any(finding in problem for problem in problems), problems


def with_the_header_of_lzma(content: bytes) -> bytes:
    """It asks for a dictionary of 4 GiB."""
    return b"]" + (2**32 - 1).to_bytes(4, "little") + content[5:]


@pytest.mark.parametrize("change", [gzip.compress, lzma.compress, with_the_header_of_lzma])
def test_a_tar_is_not_unpacked(tmp_path: Path, change: Callable[[bytes], bytes]):
    """tarfile would try all its compressions, and take memory for what a header claims."""
    tar = own_shard(tmp_path)
    content = tar.read_bytes()
    tar.write_bytes(change(content).ljust(len(content), b"\0"))
    refit(tar)
    with limited_memory():
        (problem,) = check(tmp_path, deep=True)
    assert problem.startswith("a.tar: not a whole tar")


def test_a_member_that_stands_twice_is_named(tmp_path: Path):
    """webdataset's ValueError was a traceback."""
    rewrite(own_shard(tmp_path), twice=True)
    problems = check(tmp_path, deep=True)
    assert any("webdataset cannot read it" in problem for problem in problems), problems


@pytest.mark.parametrize("name", ["pipe:touch canary #.tar", "x::pipe:touch canary #.tar"])
def test_a_shard_that_is_named_like_a_command_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    monkeypatch.chdir(tmp_path)
    own_shard(Path(), name)
    check(Path(), deep=True)
    assert not (tmp_path / "canary").exists()
