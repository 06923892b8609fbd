"""What fuzzing found, each as a case of its own."""

import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fuzz.mutations import npy_bytes
from fuzz.properties import limited_memory
from test_fuzz_tars import AUDIO, NUM_SAMPLES, own_shard, own_sidecar
from test_fuzz_tensors import CHECKPOINT, SCORES

from psla_wds.config import read_json
from psla_wds.errors import CheckpointError, ConfigError, ManifestError, ScoreError, ShardError
from psla_wds.evaluation.scores import LAYOUT, Scores
from psla_wds.io.files import sha256_of
from psla_wds.labels.manifest import Clip, checked
from psla_wds.models.checkpoint import load_checkpoint, save_checkpoint
from psla_wds.shards.index_files import read_index
from psla_wds.shards.merge import merge_sidecars
from psla_wds.shards.tar import (
    PackedClip,
    read_sidecar,
    sidecar_path,
    write_sidecar,
    write_tar,
)
from sharding.check import check
from train.config import TrainConfig

NESTED = b"[" * 20_000


def change_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_json_nested_deeper_than_the_stack_is_refused(tmp_path: Path):
    (tmp_path / "a.sidecar.json").write_bytes(NESTED)
    with pytest.raises(ShardError, match="the sidecar is damaged"):
        read_sidecar(tmp_path / "a.tar")
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        read_json(TrainConfig, tmp_path / "a.sidecar.json")


def test_one_changed_bit_of_the_weights_is_noticed(tmp_path: Path):
    path = tmp_path / "c.pt"
    save_checkpoint(CHECKPOINT, path)
    content = bytearray(path.read_bytes())
    content[content.index(CHECKPOINT.weights["a"].numpy().tobytes()) + 4000] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(path)


def test_scores_that_claim_gigabytes_take_no_memory(tmp_path: Path):
    path = tmp_path / "p.npz"
    SCORES.save(path)
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2147483648, 2)}"
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as source:
        members = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(path, "w") as target:
        for name, content in (members | {"scores.npy": npy_bytes(header, bytes(24))}).items():
            target.writestr(name, content)
    with pytest.raises(ScoreError), limited_memory():
        Scores.load(path)


def test_an_npy_header_that_is_no_python_is_refused(tmp_path: Path):
    header = "{'descr': '|u1', 'fortran_order': False, 'shape': )6,)}"
    arrays = {name: np.zeros(1) for name in ("targets", "clip_ids", "mids", "names")}
    np.savez(tmp_path / "p.npz", **arrays)
    with zipfile.ZipFile(tmp_path / "p.npz", "a") as archive:
        archive.writestr("scores.npy", npy_bytes(header, b""))
    with pytest.raises(ScoreError, match="cannot be used"):
        Scores.load(tmp_path / "p.npz")


@pytest.mark.parametrize("name", ["clip_id", "split"])
def test_text_that_utf_8_cannot_hold_is_refused_in_a_manifest(name: str):
    texts = {"clip_id": "a", "split": "", name: "\ud800"}
    clip = Clip(path=Path("a"), labels=(0,), source="x", **texts)
    with pytest.raises(ManifestError, match="UTF-8"):
        list(checked([clip]))


@pytest.mark.parametrize(
    ("name", "value"),
    [("fingerprint", "\ud800"), ("fingerprint", 1), ("sample_rate_hz", 10**40), ("num_clips", 3)],
)
def test_what_no_index_says_is_refused_in_meta_json(tmp_path: Path, name: str, value: object):
    own_shard(tmp_path, "a.tar")
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
        lambda sidecar: sidecar["clips"]["clip_id"].__setitem__(0, "\ud800"),
        lambda sidecar: sidecar["clips"]["split"].__setitem__(0, "\ud800"),
        lambda sidecar: sidecar["clips"]["mids"].__setitem__(0, ["\ud800"]),
        lambda sidecar: sidecar["clips"]["crc32"].__setitem__(0, 2**36),
        lambda sidecar: sidecar.update(sample_rate_hz=10**40),
        lambda sidecar: sidecar.update(sample_rate_hz=-1),
    ],
    ids=[
        "sha256", "silent", "versions", "rejected", "clip_id", "split", "mids", "crc32",
        "rate", "rate below 0",
    ],
)  # fmt: skip
def test_what_the_index_cannot_hold_is_refused_in_a_sidecar(
    tmp_path: Path, change: Callable[[dict[str, Any]], object]
):
    tar = own_shard(tmp_path, "a.tar")
    change_json(sidecar_path(tar), change)
    with pytest.raises(ShardError, match="the sidecar is damaged"):
        read_sidecar(tar)


def test_another_split_than_in_the_tar_is_named(tmp_path: Path):
    tar = own_shard(tmp_path, "a.tar")
    change_json(sidecar_path(tar), lambda sidecar: sidecar["clips"].update(split=["eval", "train"]))
    merge_sidecars(tmp_path)
    assert check(tmp_path, deep=False) == []
    assert check(tmp_path, deep=True) == [
        "a.tar: a has another split in its .json than in the sidecar"
    ]


def test_a_split_without_clips_in_meta_json_is_named(tmp_path: Path):
    own_shard(tmp_path, "a.tar")
    change_json(tmp_path / "index" / "meta.json", lambda meta: meta["splits"].append("x"))
    assert check(tmp_path, deep=False) == [
        "the index and the sidecars differ in the names of splits"
    ]


@pytest.mark.parametrize("byte", [b"1", b"["], ids=["a number", "nested"])
def test_json_in_a_tar_that_is_no_table_is_named(tmp_path: Path, byte: bytes):
    tar = own_shard(tmp_path, "a.tar")
    source = "x" * len(NESTED)
    clip = PackedClip("a", AUDIO, "flac", NUM_SAMPLES, 16_000, ("/t/1",), "train", source)
    sidecar, columns = own_sidecar(tar), write_tar(tar, [clip]).clips
    metadata = json.dumps(clip.metadata()).encode()
    other = byte.ljust(len(metadata)) if byte.isdigit() else byte * len(metadata)
    tar.write_bytes(tar.read_bytes().replace(metadata, other))
    size_bytes, sha256 = tar.stat().st_size, sha256_of(tar)
    write_sidecar(tar, replace(sidecar, clips=columns, size_bytes=size_bytes, sha256=sha256))
    merge_sidecars(tmp_path)
    (problem,) = check(tmp_path, deep=True)
    assert problem.startswith("a.tar: a cannot be decoded")


@pytest.mark.parametrize(
    ("name", "value"), [("epoch", float("inf")), ("format_version", torch.ones(2))]
)
def test_what_is_no_number_is_refused_in_a_checkpoint(tmp_path: Path, name: str, value: object):
    path = tmp_path / "c.pt"
    save_checkpoint(CHECKPOINT, path)
    torch.save(torch.load(path, weights_only=True) | {name: value}, path)
    with pytest.raises(CheckpointError, match="no checkpoint of psla-wds"):
        load_checkpoint(path)


@pytest.mark.parametrize("character", [0x110000, 0xD800], ids=["above Unicode", "half a pair"])
@pytest.mark.parametrize("name", ["clip_ids", "names"])
def test_text_that_utf_8_cannot_hold_is_refused_in_scores(
    tmp_path: Path, name: str, character: int
):
    arrays = {n: np.asarray(getattr(SCORES, n), dtype) for n, (dtype, _) in LAYOUT.items()}
    arrays[name] = arrays[name].copy()
    arrays[name].view(np.uint32)[0] = character
    np.savez(tmp_path / "p.npz", **arrays)
    with pytest.raises(ScoreError, match="UTF-8"):
        Scores.load(tmp_path / "p.npz")


SPARSE_1_0 = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9"}


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ({"GNU.sparse.size": "1" * 30}, "is sparse"),
        ({"GNU.sparse.size": str(2**33)}, "is sparse"),
        (SPARSE_1_0, "not a whole tar: invalid literal"),
    ],
)
def test_a_sparse_member_is_named_and_not_read(tmp_path: Path, headers: dict[str, str], told: str):
    """webdataset made room for the size that it claims, or tarfile took audio for a map."""
    tar = own_shard(tmp_path, "shard-000000.tar")
    sidecar = own_sidecar(tar)
    with tarfile.open(tar) as archive:
        members = [(m, archive.extractfile(m).read()) for m in archive]
    members[0][0].pax_headers = headers
    with tarfile.open(tar, "w", format=tarfile.PAX_FORMAT) as archive:
        for member, content in members:
            archive.addfile(member, io.BytesIO(content))
    fitting = replace(sidecar, size_bytes=tar.stat().st_size, sha256=sha256_of(tar))
    write_sidecar(tar, fitting)
    assert merge_sidecars(tmp_path)
    with limited_memory():
        problems = check(tmp_path, deep=True)
    assert any(told in problem for problem in problems), problems


def test_a_member_that_stands_twice_is_named(tmp_path: Path):
    """webdataset's ValueError was a traceback."""
    tar = own_shard(tmp_path, "shard-000000.tar")
    sidecar = own_sidecar(tar)
    with tarfile.open(tar) as archive:
        members = [(m, archive.extractfile(m).read()) for m in archive]
    with tarfile.open(tar, "w") as archive:
        for member, content in [members[0], *members]:
            archive.addfile(member, io.BytesIO(content))
    write_sidecar(tar, replace(sidecar, size_bytes=tar.stat().st_size, sha256=sha256_of(tar)))
    assert merge_sidecars(tmp_path)
    problems = check(tmp_path, deep=True)
    assert any("webdataset cannot read it" in problem for problem in problems), problems
