"""Clips by byte range: in order, checked, tried again, and never waited for without an end."""

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import assert_user_error
from services.store_server import serving

from psla_wds.errors import ShardError
from psla_wds.io.stores import Disk
from psla_wds.reading.reader import Reader
from psla_wds.shards.index_files import read_index


@pytest.fixture
def copied(shards: Path, tmp_path: Path) -> Path:
    return shutil.copytree(shards, tmp_path / "shards")


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("psla_wds.io.remote.RETRY_PAUSES_S", (0.0, 0.0))


def read(shards: Path, rows: np.ndarray, threads: int = 1) -> list[bytes]:
    reader = Reader(read_index(shards), threads=threads)
    try:
        return [clip.tobytes() for clip in reader.start(rows).wait()]
    finally:
        reader.close()


def test_clips_come_in_the_order_of_the_rows_with_repeats(shards: Path):
    index = read_index(shards)
    rows = np.random.default_rng(0).integers(0, len(index), 100)
    for row, clip in zip(rows, read(shards, rows, threads=3), strict=True):
        start = index.offset[row]
        content = index.shards[index.shard[row]].read_bytes()
        assert clip == content[start : start + index.size[row]]


def test_a_clip_that_comes_again_at_once_is_read_once(
    shards: Path, monkeypatch: pytest.MonkeyPatch
):
    asked, read_one, index = [], Disk.read_into, read_index(shards)

    def counted(shard: Disk, offset: int, buffer: memoryview) -> int:
        asked.append(offset)
        return read_one(shard, offset, buffer)

    monkeypatch.setattr(Disk, "read_into", counted)
    rows = [3, 3, 3, 4, 3]
    clips = dict(zip(range(5), read(shards, np.arange(5)), strict=True))
    asked.clear()
    assert read(shards, np.array(rows)) == [clips[row] for row in rows]
    assert asked == index.offset[[3, 4, 3]].tolist()


def test_a_flipped_bit_is_named_with_shard_offset_and_clip(copied: Path):
    index = read_index(copied)
    row, tar = 7, index.shards[index.shard[7]]
    content = bytearray(tar.read_bytes())
    content[index.offset[row] + index.size[row] // 2] ^= 4
    tar.write_bytes(content)
    with pytest.raises(ShardError, match="damaged: its CRC-32 differs") as caught:
        read(copied, np.arange(len(index)))
    for part in (str(tar), f"byte {index.offset[row]}", index.clip_id(row), "psla-wds check"):
        assert part in str(caught.value)


def test_a_shard_that_became_shorter_or_vanished_is_named(copied: Path):
    index = read_index(copied)
    with index.shards[0].open("r+b") as file:
        file.truncate(600)
    index.shards[1].unlink()
    for shard, problem in enumerate(("cut short", "No such file")):
        with pytest.raises(ShardError, match=problem):
            read(copied, np.flatnonzero(index.shard == shard))


def test_a_read_that_fails_for_a_moment_is_tried_again(
    shards: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    index, pread, failures = read_index(shards), os.preadv, iter([OSError(5, "I/O error"), None])

    def flaky(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        if (failure := next(failures, None)) is not None:
            raise failure
        return pread(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", flaky)
    assert [*map(len, read(shards, np.arange(10)))] == index.size[:10].tolist()
    assert "I/O error; trying again" in caplog.text and index.clip_id(0) in caplog.text


def test_a_read_that_hangs_is_reported_with_its_clip(
    shards: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    index, pread, storage_answers = read_index(shards), os.preadv, threading.Event()

    def hanging(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        storage_answers.wait(timeout=30)
        return pread(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", hanging)
    monkeypatch.setattr("psla_wds.reading.reader.HANG_WARNING_S", 0.05)
    threading.Timer(0.3, storage_answers.set).start()
    assert [*map(len, read(shards, np.array([13, 14])))] == index.size[13:15].tolist()
    warnings = [r.getMessage() for r in caplog.records]
    assert 2 <= len(warnings) <= 8 and all(index.where(13) in text for text in warnings)


READ_ALL = """
import sys
import numpy as np
from psla_wds import cli
from psla_wds.shards.index_files import read_index
from psla_wds.reading.reader import Reader

def main():
    index = read_index(sys.argv[1])
    print("opened", flush=True)
    sys.stdin.readline()
    reader = Reader(index, threads=2, timeout_s=2)
    try:
        reader.start(np.arange(len(index))).wait()
    finally:
        reader.close()

cli.run(main)
"""


def never_answering_file(folder: Path) -> None:
    (folder / "shard-000002.tar").unlink()
    os.mkfifo(folder / "shard-000002.tar")  # opening it waits for a writer


@pytest.mark.parametrize("storage", ["file", "silent"])
def test_storage_that_never_answers_ends_the_process(copied: Path, storage: str):
    with serving(copied) as store:
        location = str(copied) if storage == "file" else store.url()
        process = subprocess.Popen(
            [sys.executable, "-c", READ_ALL, location],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None and process.stdout.readline() == "opened\n"
        if storage == "file":
            never_answering_file(copied)
        else:
            store.fault = lambda path, number: storage if path.endswith("2.tar") else None
        started = time.perf_counter()
        out, err = process.communicate("read\n", timeout=60)
    assert time.perf_counter() - started < 20
    done = subprocess.CompletedProcess(process.args, process.returncode, out, err)
    assert_user_error(done, "did not arrive within 2 s", "shard-000002.tar, byte ", "clip clip.")
    assert "--reader.timeout-s" in err
