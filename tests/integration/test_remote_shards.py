"""Shards behind URLs, on a store that fails in the ways stores do."""

import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from services.store_server import Store, serving

from psla_wds import LoaderConfig, ReaderConfig, open_indexes, training_batches
from psla_wds.errors import ConfigError, PslaError, ShardError, StaleIndexError
from psla_wds.features.config import FeatureConfig
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


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("psla_wds.io.remote.RETRY_PAUSES_S", (0.01, 0.02, 0.05, 0.1))


def all_clips(index: ShardIndex, **settings: object) -> list[bytes]:
    reader = Reader(index, threads=3, **settings)
    try:
        return [clip.tobytes() for clip in reader.start(np.arange(len(index))).wait()]
    finally:
        reader.close()


def is_clip(path: str) -> bool:
    return path.endswith(".tar")


def test_an_index_behind_a_url_is_that_of_the_folder(shards: Path, store: Store):
    local, remote = read_index(shards), read_index(store.url())
    for name in COLUMN_DTYPES:
        assert np.array_equal(getattr(local, name), getattr(remote, name))
    assert remote.fingerprint == local.fingerprint and remote.shard_sizes == local.shard_sizes
    assert [str(shard) for shard in remote.shards] == [
        f"{store.url()}/{shard.name}" for shard in local.shards
    ]
    remote.check_shards()


def test_splits_of_a_url_with_a_port(shards: Path, store: Store):
    for splits in ("", ":train", ":eval", ":train,eval"):
        local, remote = open_indexes([f"{shards}{splits}"]), open_indexes([store.url() + splits])
        assert np.array_equal(local.offset, remote.offset)
        assert local.fingerprint == remote.fingerprint
    with pytest.raises(ConfigError, match="no split test"):
        open_indexes([f"{store.url()}:test"])


def test_shards_in_memory_are_read_by_the_same_code(shards: Path):
    memory = fsspec.filesystem("memory")
    memory.put(str(shards), "/somewhere/shards", recursive=True)
    index = open_indexes(["memory://somewhere/shards:train"])
    index.check_shards()
    assert all_clips(index) == all_clips(open_indexes([f"{shards}:train"]))
    memory.rm_file("/somewhere/shards/shard-000001.tar")
    with pytest.raises(StaleIndexError, match="it is missing"):
        index.check_shards()
    with pytest.raises(ShardError, match="no such shard"):
        all_clips(index)
    memory.rm("/somewhere", recursive=True)


FAULTS = {
    "latency": None,
    "a burst of 503": "503",
    "a busy store": "429",
    "resets": "reset",
    "truncated answers": "truncated",
    "slow bytes": "slow",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_batches_are_those_of_local_shards_through_faults(shards: Path, store: Store, fault: str):
    def batches(where: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
        index = open_indexes([f"{where}:train"])
        with training_batches(index, batch_size=6, seed=3, config=CONFIG) as epoch:
            return [(b.log_mel.clone(), b.targets.clone()) for b in epoch]

    expected = batches(str(shards))
    store.latency_s = 0.02 if fault == "latency" else 0.0
    # Each range fails twice before it arrives.
    store.fault = lambda path, number: FAULTS[fault] if number < 2 else None
    arrived = batches(store.url())
    assert len(arrived) == len(expected) > 3
    for (log_mel, targets), (log_mel_there, targets_there) in zip(expected, arrived, strict=True):
        assert torch.equal(log_mel, log_mel_there) and torch.equal(targets, targets_there)


def test_a_clip_costs_one_request_of_its_bytes(store: Store):
    index = read_index(store.url())
    store.requests.clear()
    store.sent_bytes = 0
    all_clips(index)
    assert sum(store.requests.values()) == len(index)
    assert store.sent_bytes == index.size.sum()


def test_each_try_is_logged_and_a_store_that_stays_broken_is_one_error(
    store: Store, caplog: pytest.LogCaptureFixture
):
    index = read_index(store.url())
    store.fault = lambda path, number: "503" if is_clip(path) else None
    store.requests.clear()
    reader = Reader(index, threads=1)
    with pytest.raises(ShardError, match=r"503.*also when read again") as caught:
        reader.start(np.array([5])).wait()
    reader.close()
    assert not isinstance(caught.value, DamagedClipError)  # or it would be replaced
    assert index.where(5) in str(caught.value) and "--resume" in str(caught.value)
    assert sum(store.requests.values()) == 5
    lines = [r.getMessage() for r in caplog.records if "trying again" in r.getMessage()]
    assert len(lines) == 4 and all(index.where(5) in line for line in lines)


@pytest.mark.parametrize(
    ("fault", "words"),
    [("403", "refuses access"), ("401", "refuses access"), ("404", "no such shard"),
     ("400", "refuses the request"), ("whole", "sends whole files")],
)  # fmt: skip
def test_what_another_try_cannot_mend_is_an_error_at_once(store: Store, fault: str, words: str):
    index = read_index(store.url())
    store.fault = lambda path, number: fault if is_clip(path) else None
    store.requests.clear()
    reader = Reader(index, threads=1)
    with pytest.raises(ShardError, match=words) as caught:
        reader.start(np.array([5])).wait()
    reader.close()
    assert "  fix:   " in str(caught.value) and str(store.port) in str(caught.value)
    assert sum(store.requests.values()) == 1


def test_a_server_without_ranges_is_found_at_opening_and_sends_no_shard(
    shards: Path, store: Store, tmp_path: Path
):
    store.fault = lambda path, number: "whole"
    with pytest.raises(ShardError, match="sends whole files"):
        read_index(store.url())
    store.fault = lambda path, number: None
    index = read_index(store.url())
    copied = shutil.copytree(shards, tmp_path / "shards")
    for tar in copied.glob("*.tar"):
        with tar.open("ab") as file:
            file.truncate(100_000_000)
    store.folder, store.sent_bytes = copied, 0
    store.fault = lambda path, number: "whole" if is_clip(path) else None
    with pytest.raises(ShardError, match="sends whole files"):
        index.check_shards()
    with pytest.raises(ShardError, match="sends whole files"):
        all_clips(index)
    # What fits the buffers of sockets may leave the server, and is not read here.
    assert store.sent_bytes < 60_000_000


def test_a_shard_that_is_missing_or_cut_on_the_store_is_found_before_training(
    shards: Path, store: Store, tmp_path: Path
):
    store.folder = shutil.copytree(shards, tmp_path / "shards")
    index = read_index(store.url())
    index.check_shards()
    tar = store.folder / index.shards[1].name
    tar.write_bytes(tar.read_bytes()[:-512])
    with pytest.raises(StaleIndexError, match=r"expects a shard of [\d,]+ bytes, it has") as caught:
        index.check_shards()
    assert str(index.shards[1]) in str(caught.value)
    tar.unlink()
    with pytest.raises(StaleIndexError, match="it is missing"):
        training_batches(index, batch_size=6, config=CONFIG)


def test_sizes_of_many_shards_are_asked_for_at_the_same_time(store: Store):
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
    assert all_clips(index, timeout_s=8.0) == all_clips(index)


def test_a_damaged_clip_behind_a_url_is_named(shards: Path, store: Store, tmp_path: Path):
    store.folder = shutil.copytree(shards, tmp_path / "shards")
    index = read_index(store.url())
    tar = store.folder / index.shards[0].name
    content = bytearray(tar.read_bytes())
    content[index.offset[3] + 20] ^= 1
    tar.write_bytes(content)
    with pytest.raises(DamagedClipError, match="CRC-32 differs") as caught:
        all_clips(index)
    assert caught.value.row == 3


def test_a_missing_index_and_an_unreachable_store_are_told_apart(store: Store):
    with pytest.raises(StaleIndexError, match="no index here"):
        read_index(store.url("shards/elsewhere"))
    with pytest.raises(ShardError, match="also when asked again"):
        read_index("http://127.0.0.1:9/shards")  # the port to discard, where nothing listens
    store.fault = lambda path, number: "403"
    with pytest.raises(ShardError, match="refuses access"):
        read_index(store.url())


def test_a_column_behind_a_url_may_not_be_larger_than_its_clips(
    shards: Path, store: Store, tmp_path: Path
):
    store.folder = shutil.copytree(shards, tmp_path / "shards")
    np.save(store.folder / "index" / "size.npy", np.ones(1_000_000, np.int64))
    store.sent_bytes = 0
    with pytest.raises(StaleIndexError, match="8,000,128 bytes; at most 4,488 are read"):
        read_index(store.url())
    assert store.sent_bytes < 100_000


@pytest.mark.parametrize("name", COLUMN_DTYPES)
@pytest.mark.parametrize("damage", ["missing", "short", "garbage", "pickled"])
def test_a_damaged_index_behind_a_url_is_refused(
    shards: Path, store: Store, tmp_path: Path, name: str, damage: str
):
    store.folder = shutil.copytree(shards, tmp_path / "shards")
    path = store.folder / "index" / f"{name}.npy"
    if damage == "missing":
        path.unlink()
    elif damage == "short":
        path.write_bytes(path.read_bytes()[:-3])
    elif damage == "pickled":
        np.save(path, np.array([object()]), allow_pickle=True)
    else:
        path.write_bytes(b"\x93NUMPY" + b"garbage" * 30)
    with pytest.raises(StaleIndexError, match="the index is damaged"):
        read_index(store.url())


def test_a_scheme_that_is_unknown_or_needs_a_package_is_told(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ConfigError, match="cannot be read"):
        open_indexes(["nothing://bucket/shards"])
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(PslaError, match=r"pip install 'psla-wds\[gcs\]'"):
        open_indexes(["gs://bucket/shards"])
