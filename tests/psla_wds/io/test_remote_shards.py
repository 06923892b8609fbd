"""Shards behind URLs, on a store that fails in the ways stores do."""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from services.store_server import Store, serving

from psla_wds import FeatureConfig, LoaderConfig, ReaderConfig, open_indexes, training_batches
from psla_wds.errors import ConfigError, ShardError, StaleIndexError
from psla_wds.io import remote
from psla_wds.reading.reader import DamagedClipError, Reader
from psla_wds.shards.index import ShardIndex
from psla_wds.shards.index_files import COLUMN_DTYPES, read_index

CONFIG = LoaderConfig(
    features=FeatureConfig(num_frames=64),
    reader=ReaderConfig(threads=3, decode_threads=1),
    device="cpu",
)


@pytest.fixture
def store(shards: Path) -> Iterator[Store]:
    with serving(shards) as store:
        yield store


@pytest.fixture
def copied(shards: Path, store: Store, tmp_path: Path) -> Path:
    """Shards that may be damaged, which the store serves."""
    store.folder = shutil.copytree(shards, tmp_path / "shards")
    return store.folder


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("psla_wds.io.remote.RETRY_PAUSES_S", (0.01, 0.02, 0.05, 0.1))


def read(index: ShardIndex, *rows: int, **settings: float) -> list[bytes]:
    """The clips of some rows, or of all."""
    reader = Reader(index, threads=3, **settings)
    try:
        pending = reader.start(np.array(rows) if rows else np.arange(len(index)))
        return [clip.tobytes() for clip in pending.wait()]
    finally:
        reader.close()


def is_clip(path: str) -> bool:
    return path.endswith(".tar")


@pytest.mark.parametrize("splits", ["", ":train", ":train,eval"])
def test_an_index_behind_a_url_is_that_of_the_folder(shards: Path, store: Store, splits: str):
    local, remote = open_indexes([f"{shards}{splits}"]), open_indexes([store.url() + splits])
    for name in COLUMN_DTYPES:
        assert np.array_equal(getattr(local, name), getattr(remote, name))
    assert remote.fingerprint == local.fingerprint and remote.shard_sizes == local.shard_sizes
    for there, here in zip(remote.shards, local.shards, strict=True):
        assert str(there) == f"{store.url()}/{here.name}"
    remote.check_shards()
    with pytest.raises(ConfigError, match="no split test"):
        open_indexes([f"{store.url()}:test"])


def test_shards_in_memory_are_read_by_the_same_code(shards: Path):
    memory = fsspec.filesystem("memory")
    memory.put(str(shards), "/somewhere/shards", recursive=True)
    index = open_indexes(["memory://somewhere/shards:train"])
    index.check_shards()
    assert read(index) == read(open_indexes([f"{shards}:train"]))
    memory.rm_file("/somewhere/shards/shard-000001.tar")
    with pytest.raises(StaleIndexError, match="it is missing"):
        index.check_shards()
    with pytest.raises(ShardError, match="no such shard"):
        read(index)
    memory.rm("/somewhere", recursive=True)


@pytest.mark.parametrize("fault", [None, "503", "429", "reset", "truncated", "slow"])
def test_batches_are_those_of_a_disk_through_faults(shards: Path, store: Store, fault: str | None):
    def batches(where: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
        index = open_indexes([f"{where}:train"])
        with training_batches(index, batch_size=6, seed=3, config=CONFIG) as epoch:
            return [(b.log_mel.clone(), b.targets.clone()) for b in epoch]

    expected = batches(str(shards))
    store.latency_s = 0.0 if fault else 0.02
    # Each range fails twice before it arrives.
    store.fault = lambda path, number: fault if number < 2 else None
    arrived = batches(store.url())
    assert len(arrived) == len(expected) > 3
    for (log_mel, targets), (log_mel_there, targets_there) in zip(expected, arrived, strict=True):
        assert torch.equal(log_mel, log_mel_there) and torch.equal(targets, targets_there)


def test_a_clip_costs_one_request_of_its_bytes(store: Store):
    index = read_index(store.url())
    store.requests.clear()
    store.sent_bytes = 0
    read(index)
    assert sum(store.requests.values()) == len(index)
    assert store.sent_bytes == index.size.sum()


def test_each_try_is_logged_and_the_last_is_an_error(
    store: Store, caplog: pytest.LogCaptureFixture
):
    index = read_index(store.url())
    store.fault = lambda path, number: "503" if is_clip(path) else None
    store.requests.clear()
    with pytest.raises(ShardError, match=r"503.*also when read again") as caught:
        read(index, 5)
    assert not isinstance(caught.value, DamagedClipError)  # or it would be replaced
    assert index.where(5) in str(caught.value) and "--resume" in str(caught.value)
    assert sum(store.requests.values()) == 5
    lines = [r.getMessage() for r in caplog.records if "trying again" in r.getMessage()]
    assert len(lines) == 4 and all(index.where(5) in line for line in lines)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("403", "refuses access"),
        ("401", "refuses access"),
        ("404", "no such shard"),
        ("400", "refuses the request"),
        ("whole", "sends whole files"),
    ],
)
def test_what_another_try_cannot_mend_ends_at_once(store: Store, fault: str, words: str):
    index = read_index(store.url())
    store.fault = lambda path, number: fault if is_clip(path) else None
    store.requests.clear()
    with pytest.raises(ShardError, match=words) as caught:
        read(index, 5)
    assert "  fix:   " in str(caught.value) and str(store.port) in str(caught.value)
    assert sum(store.requests.values()) == 1


def test_a_server_without_ranges_sends_no_shard(store: Store, copied: Path):
    store.fault = lambda path, number: "whole"
    with pytest.raises(ShardError, match="sends whole files"):
        read_index(store.url())
    store.fault = lambda path, number: "whole" if is_clip(path) else None
    index = read_index(store.url())
    for tar in copied.glob("*.tar"):
        os.truncate(tar, 100_000_000)
    store.sent_bytes = 0
    for reading in (index.check_shards, lambda: read(index)):
        with pytest.raises(ShardError, match="sends whole files"):
            reading()
    # What fits the buffers of sockets may leave the server, and is not read here.
    assert store.sent_bytes < 60_000_000


def test_a_missing_or_cut_shard_is_found_before_training(store: Store, copied: Path):
    index = read_index(store.url())
    index.check_shards()
    tar = copied / index.shards[1].name
    tar.write_bytes(tar.read_bytes()[:-512])
    with pytest.raises(StaleIndexError, match=r"expects a shard of [\d,]+ bytes, it has") as caught:
        index.check_shards()
    assert str(index.shards[1]) in str(caught.value)
    tar.unlink()
    with pytest.raises(StaleIndexError, match="it is missing"):
        training_batches(index, batch_size=6, config=CONFIG)


def test_sizes_of_many_shards_are_asked_for_at_once(store: Store):
    index = read_index(store.url())
    store.requests.clear()
    store.latency_s = 0.5
    started = time.perf_counter()
    index.check_shards()
    assert time.perf_counter() - started < len(index.shards) * store.latency_s
    assert [store.requests[f"/shards/{shard.name}"] for shard in index.shards] == [1, 1, 1, 1]


def test_a_silent_store_is_asked_again_after_the_timeout(store: Store):
    index = read_index(store.url())
    store.fault = lambda path, number: "silent" if path.endswith("2.tar") and number == 0 else None
    assert read(index, timeout_s=8.0) == read(index)


def test_a_missing_index_is_not_an_unreachable_store(store: Store):
    with pytest.raises(StaleIndexError, match="no index here"):
        read_index(store.url("shards/elsewhere"))
    with pytest.raises(ShardError, match="also when asked again"):
        read_index("http://127.0.0.1:9/shards")  # the port to discard, where nothing listens
    store.fault = lambda path, number: "403"
    with pytest.raises(ShardError, match="refuses access"):
        read_index(store.url())


@pytest.mark.parametrize("damage", ["missing", "short", "large"])
def test_a_damaged_index_is_refused_unread(store: Store, copied: Path, damage: str):
    column = copied / "index" / "size.npy"
    if damage == "missing":
        column.unlink()
    elif damage == "short":
        column.write_bytes(column.read_bytes()[:-3])
    else:
        np.save(column, np.ones(1_000_000, np.int64))
    words = "8,000,128 bytes; at most 4,488 are read" if damage == "large" else "size.npy"
    with pytest.raises(StaleIndexError, match=words):
        read_index(store.url())
    assert store.sent_bytes < 100_000


def test_sizes_are_asked_for_by_the_clock_of_the_reader(store: Store, monkeypatch):
    index = read_index(store.url())
    monkeypatch.setattr(remote, "_default_timeout_s", 60.0)
    remote.expect_reads_within(2.0)
    store.fault = lambda path, number: "silent" if path.endswith("2.tar") else None
    began = time.monotonic()
    with pytest.raises(ShardError, match=r"did not answer for 0\.2 s"):
        index.check_shards()
    assert time.monotonic() - began < 30
