"""Changed columns, meta.json and sidecars: refused, named by the check, or without effect."""

import json
import shutil
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from builds import build, use_index
from conftest import build_in_one_process, write_corpus
from fuzz.mutations import changed_json, changed_npy
from fuzz.properties import Trap, accepted, fuzz, tiers

from psla_wds.errors import ShardError
from psla_wds.shards.index import ShardIndex
from psla_wds.shards.index_files import COLUMN_DTYPES, read_index
from psla_wds.shards.merge import merge_sidecars
from psla_wds.shards.tar import sidecar_path
from sharding.check import check


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight clips in two shards."""
    folder = tmp_path_factory.mktemp("small")
    corpus = write_corpus(folder / "corpus", num_clips=8)
    with pytest.MonkeyPatch.context() as patch:
        build_in_one_process(patch)
        build(corpus, folder / "shards", "--clips-per-shard=4")
    return folder / "shards"


@pytest.fixture
def copied(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("psla_wds.io.remote.RETRY_PAUSES_S", ())
    return shutil.copytree(small, tmp_path / "shards")


def same(one: ShardIndex, other: ShardIndex) -> bool:
    return all(np.array_equal(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))


def check_index(shards: Path, original: ShardIndex, *, deep: bool = False) -> None:
    """The index is the original, or refused when read, or `check` says what is wrong with it."""
    index = accepted(lambda: read_index(shards))
    if index is None:
        return
    accepted(lambda: use_index(index))
    if not same(index, original):
        assert accepted(lambda: check(shards, deep=deep)) != [], "a change that nothing notices"


@tiers(60, 4000)
@pytest.mark.parametrize("column", COLUMN_DTYPES)
def test_a_changed_column_is_noticed(copied: Path, column: str, num_cases: int):
    original, path = read_index(copied), copied / "index" / f"{column}.npy"
    values = np.array(np.load(path))

    def changed(content: bytes) -> None:
        path.unlink()
        path.write_bytes(content)
        check_index(copied, original)

    fuzz(num_cases // len(COLUMN_DTYPES), changed_npy(values), changed)


@tiers(60, 4000)
def test_a_changed_meta_json_is_noticed(copied: Path, num_cases: int):
    original, path = read_index(copied), copied / "index" / "meta.json"
    text = path.read_bytes()

    def changed(content: bytes) -> None:
        path.write_bytes(content)
        check_index(copied, original)

    fuzz(num_cases, changed_json(text), changed)


@tiers(40, 2000)
def test_a_changed_sidecar_is_noticed(copied: Path, num_cases: int):
    original, path = read_index(copied), sidecar_path(copied / "shard-000000.tar")
    text = path.read_bytes()

    def changed(content: bytes) -> None:
        path.write_bytes(content)
        accepted(lambda: check(copied, deep=False))
        if accepted(lambda: merge_sidecars(copied)):
            check_index(copied, original, deep=True)

    fuzz(num_cases, changed_json(text), changed)


def test_a_column_of_python_objects_is_not_unpickled(copied: Path, tmp_path: Path):
    canary = tmp_path / "canary"
    values = np.array([Trap(canary)] * 8, dtype=object)
    np.save(copied / "index" / "size.npy", values, allow_pickle=True)
    with pytest.raises(ShardError, match="the index is damaged"):
        read_index(copied)
    assert not canary.exists()


@pytest.mark.parametrize("name", ["../outside.tar", "/etc/passwd", "..", ".", "", "a\0b"])
def test_no_shard_outside_its_folder_is_opened(copied: Path, name: str):
    shutil.copy(copied / "shard-000000.tar", copied.parent / "outside.tar")
    meta = json.loads((copied / "index" / "meta.json").read_text())
    meta["shards"][0]["name"] = name
    (copied / "index" / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(ShardError, match="outside its folder"):
        read_index(copied)
