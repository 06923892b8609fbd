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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from services.store_server import serving

from psla_wds.reading.reader import Reader
from psla_wds.reading.staging import copy_paths
from psla_wds.shards.index import ShardIndex
from psla_wds.shards.index_files import open_indexes, read_index

STAGE_ALL = """
import sys, time
from pathlib import Path
import psla_wds.reading.staging as staging
from psla_wds.shards.index_files import read_index
from psla_wds.reading.reader import Reader

staging.COPY_BYTES, staging.POLL_S = 4096, 0.05
read_into, pause_s = staging.Disk.read_into, float(sys.argv[3])
def slow_read(*arguments):
    time.sleep(pause_s)
    return read_into(*arguments)
staging.Disk.read_into = slow_read
index = read_index(sys.argv[1])
reader = Reader(index, threads=1, stage=Path(sys.argv[2]))
print("begun", flush=True)
while len(reader._staging.copies) < len(index.shards):
    time.sleep(0.01)
reader.close()
"""


@pytest.fixture
def index(shards: Path) -> ShardIndex:
    return read_index(shards)


@contextmanager
def reading(index: ShardIndex, stage: Path | None = None) -> Iterator[Reader]:
    reader = Reader(index, threads=2, stage=stage)
    try:
        yield reader
    finally:
        reader.close()


def all_clips(reader: Reader, index: ShardIndex) -> list[bytes]:
    return [clip.tobytes() for clip in reader.start(np.arange(len(index))).wait()]


@pytest.fixture
def expected(index: ShardIndex) -> list[bytes]:
    with reading(index) as reader:
        return all_clips(reader, index)


def until(holds: Callable[[], bool], timeout_s: float = 30.0) -> None:
    end = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def assert_reads_from_copies(index: ShardIndex, stage: Path, expected: list[bytes]) -> None:
    """All shards are copied, equal to their origins, and clips arrive as they are."""
    with reading(index, stage) as reader:
        until(lambda: all(path.exists() for path in copy_paths(index, stage)))
        assert all_clips(reader, index) == expected
    for copy, origin in zip(copy_paths(index, stage), index.shards, strict=True):
        assert copy.read_bytes() == origin.read_bytes()
    assert not list(stage.rglob("*.tmp"))


def test_clips_are_read_from_copies_once_these_are_whole(
    shards: Path, tmp_path: Path, expected: list[bytes], caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO")
    moved = shutil.copytree(shards, tmp_path / "shards")
    index, stage = read_index(moved), tmp_path / "stage"
    with reading(index, stage) as reader:
        until(lambda: "4 of 4 shards are staged now" in caplog.text)
        for tar in index.shards:
            tar.unlink()  # only the copies are left
        assert all_clips(reader, index) == expected
    assert "0 of 4 shards are staged at the start" in caplog.text
    assert "4 of 4 shards are staged at the end" in caplog.text
    with reading(index, stage) as again:
        assert all_clips(again, index) == expected
    assert "4 of 4 shards are staged at the start" in caplog.text


def test_only_shards_that_the_index_uses_are_copied(index: ShardIndex, tmp_path: Path):
    few = index.select(np.flatnonzero(index.shard == 2), "shard 2")
    with reading(few, tmp_path):
        until(lambda: copy_paths(few, tmp_path)[2].exists())
    assert [path.name for path in tmp_path.rglob("*.tar")] == ["shard-000002.tar"]


def staging_process(shards: Path, stage: Path, pause_s: float) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", STAGE_ALL, str(shards), str(stage), str(pause_s)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    return process


@pytest.mark.parametrize("moment", [1, "in a copy"])
def test_a_kill_at_any_moment_leaves_no_half_copy(
    shards: Path, index: ShardIndex, tmp_path: Path, expected: list[bytes], moment: int | str
):
    process = staging_process(shards, tmp_path, pause_s=0.005 if moment != "in a copy" else 0.02)
    if moment == "in a copy":
        until(lambda: any(part.stat().st_size for part in tmp_path.rglob("*.tar.tmp")))
    else:
        time.sleep(random.Random(moment).uniform(0, 0.6))
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=10)
    if moment == "in a copy":
        assert list(tmp_path.rglob("*.tar.tmp")), "the kill came too late to show anything"
    for copy, origin in zip(copy_paths(index, tmp_path), index.shards, strict=True):
        assert not copy.exists() or copy.read_bytes() == origin.read_bytes()
    assert_reads_from_copies(index, tmp_path, expected)


def test_two_processes_copy_each_shard_once(
    shards: Path, index: ShardIndex, tmp_path: Path, expected: list[bytes]
):
    processes = [staging_process(shards, tmp_path, pause_s=0.05) for _ in range(2)]
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


def test_a_damaged_copy_is_dropped_and_made_again(
    index: ShardIndex, tmp_path: Path, expected: list[bytes], caplog: pytest.LogCaptureFixture
):
    copy = copy_paths(index, tmp_path)[1]
    copy.parent.mkdir()
    copy.write_bytes(b"of another size")  # not even adopted
    assert_reads_from_copies(index, tmp_path, expected)
    content = bytearray(copy.read_bytes())
    for row in np.flatnonzero(index.shard == 1):
        content[index.offset[row] + 5] ^= 1
    copy.write_bytes(content)
    with reading(index, tmp_path) as reader:
        assert all_clips(reader, index) == expected
    dropped = [r.getMessage() for r in caplog.records if "the copy is dropped" in r.getMessage()]
    assert len(dropped) == 1 and str(copy) in dropped[0] and "CRC-32" in dropped[0]
    assert not copy.exists()
    assert_reads_from_copies(index, tmp_path, expected)


def test_two_data_sets_do_not_mix(shards: Path, index: ShardIndex, tmp_path: Path):
    other = read_index(shutil.copytree(shards, tmp_path / "other"))
    assert not set(copy_paths(index, tmp_path)) & set(copy_paths(other, tmp_path))
    train = open_indexes([f"{shards}:train"])
    assert copy_paths(train, tmp_path) == copy_paths(index, tmp_path)


def disk_that_fills_up(index: ShardIndex, stage: Path, patch: pytest.MonkeyPatch) -> Path:
    fsync, synced = os.fsync, []

    def full(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) > 4:  # each file has its folder synced as well
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    patch.setattr(os, "fsync", full)
    return stage


def disk_with_room_for_two(index: ShardIndex, stage: Path, patch: pytest.MonkeyPatch) -> Path:
    usage = namedtuple("usage", "total used free")
    room = 2**30 + index.shard_sizes[0] + index.shard_sizes[1]

    def disk_usage(folder: Path) -> usage:
        copied = sum(path.stat().st_size for path in stage.rglob("*.tar"))
        return usage(10 * 2**30, 0, room - copied)

    patch.setattr(shutil, "disk_usage", disk_usage)
    return stage


def folder_in_a_file(index: ShardIndex, stage: Path, patch: pytest.MonkeyPatch) -> Path:
    (stage / "file").write_text("not a folder")
    return stage / "file" / "stage"


@pytest.mark.parametrize(
    ("problem", "words", "num_copied"),
    [
        (disk_that_fills_up, "No space left on device", 2),
        (disk_with_room_for_two, "1 GiB stays free", 2),
        (folder_in_a_file, "Not a directory", 0),
    ],
)
def test_a_disk_that_takes_no_more_is_reported_once(
    index: ShardIndex,
    tmp_path: Path,
    expected: list[bytes],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    problem: Callable,
    words: str,
    num_copied: int,
):
    with reading(index, problem(index, tmp_path, monkeypatch)) as reader:
        until(lambda: "no more shards are staged" in caplog.text)
        assert all_clips(reader, index) == expected
    assert caplog.text.count(words) == 1
    assert len(list(tmp_path.rglob("*.tar"))) == num_copied and not list(tmp_path.rglob("*.tmp"))


def test_closing_does_not_wait_for_the_copies(shards: Path, tmp_path: Path):
    with serving(shards) as store:
        remote = read_index(store.url())
        store.fault = lambda path, number: "silent"
        reader = Reader(remote, threads=1, timeout_s=0.3, stage=tmp_path)
        time.sleep(0.1)
        started = time.perf_counter()
        reader.close()
        assert time.perf_counter() - started < 3
    assert not list(tmp_path.rglob("*.tar"))
