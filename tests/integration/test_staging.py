"""Copies of shards on a local disk: whole or absent, whatever ends the process that makes them."""

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from store_server import serving

from psla_wds import LoaderConfig, ReaderConfig, training_batches
from psla_wds.features.config import FeatureConfig
from psla_wds.reading.reader import Reader
from psla_wds.reading.staging import copy_paths
from psla_wds.shards.index import ShardIndex
from psla_wds.shards.index_files import open_indexes, read_index

STAGE_ALL = """
import sys, time
from pathlib import Path
import psla_wds.reading.staging
from psla_wds.shards.index_files import read_index
from psla_wds.reading.reader import Reader

psla_wds.reading.staging.COPY_BYTES, psla_wds.reading.staging.POLL_S = 4096, 0.05
shard_read, pause_s = psla_wds.io.stores.LocalShard.read_into, float(sys.argv[3])
def slow_read(*arguments):
    time.sleep(pause_s)
    return shard_read(*arguments)
psla_wds.io.stores.LocalShard.read_into = slow_read
index = read_index(sys.argv[1])
reader = Reader(index, threads=1, stage=Path(sys.argv[2]))
print("begun", flush=True)
while len(reader._staging.copies) < len(index.shards):
    time.sleep(0.01)
reader.close()
"""


def all_clips(reader: Reader, index: ShardIndex) -> list[bytes]:
    return [clip.tobytes() for clip in reader.start(np.arange(len(index))).wait()]


def until(holds: Callable[[], bool], timeout_s: float = 30.0) -> None:
    end = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def staging_process(shards: Path, stage: Path, pause_s: float) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", STAGE_ALL, str(shards), str(stage), str(pause_s)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    return process


@pytest.fixture
def index(shards: Path) -> ShardIndex:
    return read_index(shards)


def assert_reads_from_copies(index: ShardIndex, stage: Path, expected: list[bytes]) -> None:
    """All shards come to stand, equal to their origins, and clips arrive as they are."""
    reader = Reader(index, threads=2, stage=stage)
    until(lambda: all(path.exists() for path in copy_paths(index, stage)))
    assert all_clips(reader, index) == expected
    reader.close()
    for copy, origin in zip(copy_paths(index, stage), index.shards, strict=True):
        assert copy.read_bytes() == origin.read_bytes()
    assert not list(stage.rglob("*.tmp"))


@pytest.fixture
def expected(index: ShardIndex) -> list[bytes]:
    reader = Reader(index, threads=2)
    clips = all_clips(reader, index)
    reader.close()
    return clips


def test_clips_are_read_from_copies_once_they_stand(
    shards: Path, tmp_path: Path, expected: list[bytes], caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO")
    moved = shutil.copytree(shards, tmp_path / "shards")
    index, stage = read_index(moved), tmp_path / "stage"
    reader = Reader(index, threads=2, stage=stage)
    until(lambda: "4 of 4 shards stand now" in caplog.text)
    for tar in index.shards:
        tar.unlink()  # nothing but the copies is left
    assert all_clips(reader, index) == expected
    reader.close()
    assert "0 of 4 shards stand at the start" in caplog.text
    assert "4 of 4 shards stand at the end" in caplog.text
    again = Reader(index, threads=2, stage=stage)
    assert all_clips(again, index) == expected
    again.close()
    assert "4 of 4 shards stand at the start" in caplog.text


def test_only_shards_that_the_index_uses_are_copied(index: ShardIndex, tmp_path: Path):
    few = index.select(np.flatnonzero(index.shard == 2), "shard 2")
    reader = Reader(few, threads=1, stage=tmp_path)
    until(lambda: copy_paths(few, tmp_path)[2].exists())
    reader.close()
    assert [path.name for path in tmp_path.rglob("*.tar")] == ["shard-000002.tar"]


def test_shards_behind_a_url_are_copied_for_training(shards: Path, tmp_path: Path):
    config = LoaderConfig(
        features=FeatureConfig(num_frames=64),
        reader=ReaderConfig(decode_threads=1, stage=tmp_path),
        device="cpu",
    )
    with serving(shards) as store:
        index = open_indexes([f"{store.url()}:train"])
        with training_batches(index, batch_size=6, config=config) as batches:
            until(lambda: all(path.exists() for path in copy_paths(index, tmp_path)))
            time.sleep(0.1)
            store.requests.clear()
            rows = [batch.rows for batch in batches]
    assert len(rows) > 3 and not store.requests
    for copy in copy_paths(index, tmp_path):
        assert copy.read_bytes() == (shards / copy.name).read_bytes()


@pytest.mark.parametrize("seed", range(5))
def test_a_kill_at_any_moment_leaves_nothing_half(
    shards: Path, index: ShardIndex, tmp_path: Path, expected: list[bytes], seed: int
):
    process = staging_process(shards, tmp_path, pause_s=0.005)
    time.sleep(random.Random(seed).uniform(0, 0.6))
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=10)
    for copy, origin in zip(copy_paths(index, tmp_path), index.shards, strict=True):
        assert not copy.exists() or copy.read_bytes() == origin.read_bytes()
    assert_reads_from_copies(index, tmp_path, expected)


def test_a_kill_in_the_middle_of_a_copy_leaves_a_part_that_is_replaced(
    shards: Path, index: ShardIndex, tmp_path: Path, expected: list[bytes]
):
    process = staging_process(shards, tmp_path, pause_s=0.02)
    until(lambda: any(part.stat().st_size for part in tmp_path.rglob("*.tar.tmp")))
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=10)
    assert list(tmp_path.rglob("*.tar.tmp")), "the kill came too late to show anything"
    assert_reads_from_copies(index, tmp_path, expected)


def test_two_processes_share_a_folder_and_copy_each_shard_once(
    shards: Path, index: ShardIndex, tmp_path: Path, expected: list[bytes]
):
    processes = [staging_process(shards, tmp_path, pause_s=0.01) for _ in range(2)]
    temporaries: dict[str, set[int]] = {}
    while any(process.poll() is None for process in processes):
        for part in tmp_path.rglob("*.tar.tmp"):
            try:
                temporaries.setdefault(part.name, set()).add(part.stat().st_ino)
            except FileNotFoundError:
                continue
        time.sleep(0.001)
    for process in processes:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    assert temporaries and all(len(inodes) == 1 for inodes in temporaries.values())
    assert_reads_from_copies(index, tmp_path, expected)


def test_a_damaged_copy_is_dropped_and_read_from_its_origin(
    index: ShardIndex, tmp_path: Path, expected: list[bytes], caplog: pytest.LogCaptureFixture
):
    assert_reads_from_copies(index, tmp_path, expected)
    copy = copy_paths(index, tmp_path)[1]
    content = bytearray(copy.read_bytes())
    for row in np.flatnonzero(index.shard == 1):
        content[index.offset[row] + 5] ^= 1
    copy.write_bytes(content)
    reader = Reader(index, threads=3, stage=tmp_path)
    assert all_clips(reader, index) == expected
    reader.close()
    dropped = [r.getMessage() for r in caplog.records if "the copy is dropped" in r.getMessage()]
    assert len(dropped) == 1 and str(copy) in dropped[0] and "CRC-32" in dropped[0]
    assert not copy.exists()
    assert_reads_from_copies(index, tmp_path, expected)  # the next run makes it again


def test_a_copy_of_another_size_is_not_read(
    index: ShardIndex, tmp_path: Path, expected: list[bytes]
):
    copy = copy_paths(index, tmp_path)[0]
    copy.parent.mkdir()
    copy.write_bytes(b"of another time")
    assert_reads_from_copies(index, tmp_path, expected)


def test_two_data_sets_do_not_mix(shards: Path, index: ShardIndex, tmp_path: Path):
    other = read_index(shutil.copytree(shards, tmp_path / "other"))
    assert not set(copy_paths(index, tmp_path)) & set(copy_paths(other, tmp_path))
    train = open_indexes([f"{shards}:train"])
    assert copy_paths(train, tmp_path) == copy_paths(index, tmp_path)


def test_a_full_disk_is_told_once_and_training_goes_on(
    index: ShardIndex,
    tmp_path: Path,
    expected: list[bytes],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    synced = []

    def full(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)  # the second file's; the first has its folder's as well
    reader = Reader(index, threads=2, stage=tmp_path)
    until(lambda: "no more shards are staged" in caplog.text)
    assert all_clips(reader, index) == expected
    reader.close()
    assert caplog.text.count("No space left on device") == 1
    assert len(list(tmp_path.rglob("*.tar"))) == 1 and not list(tmp_path.rglob("*.tmp"))


def test_a_part_of_the_disk_stays_free(
    index: ShardIndex,
    tmp_path: Path,
    expected: list[bytes],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    usage = namedtuple("usage", "total used free")
    room = 2**30 + index.shard_sizes[0] + index.shard_sizes[1]

    def disk_usage(folder: Path) -> usage:
        copied = sum(path.stat().st_size for path in tmp_path.rglob("*.tar"))
        return usage(10 * 2**30, 0, room - copied)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    reader = Reader(index, threads=2, stage=tmp_path)
    until(lambda: "no more shards are staged" in caplog.text)
    assert all_clips(reader, index) == expected
    reader.close()
    assert sorted(path.name for path in tmp_path.rglob("*.tar")) == [
        "shard-000000.tar",
        "shard-000001.tar",
    ]


def test_a_folder_that_cannot_be_written_is_told_once(
    index: ShardIndex, tmp_path: Path, expected: list[bytes], caplog: pytest.LogCaptureFixture
):
    (tmp_path / "file").write_text("not a folder")
    reader = Reader(index, threads=2, stage=tmp_path / "file" / "stage")
    until(lambda: "no more shards are staged" in caplog.text)
    assert all_clips(reader, index) == expected
    reader.close()
    assert "Not a directory" in caplog.text


def test_closing_does_not_wait_for_the_copies(shards: Path, index: ShardIndex, tmp_path: Path):
    with serving(shards) as store:
        remote = read_index(store.url())
        store.fault = lambda path, number: "silent"
        reader = Reader(remote, threads=1, timeout_s=0.3, stage=tmp_path)
        time.sleep(0.1)
        started = time.perf_counter()
        reader.close()
        assert time.perf_counter() - started < 3
    assert not list(tmp_path.rglob("*.tar"))
