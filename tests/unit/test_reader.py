import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from psla_wds.errors import ConfigError, ShardError
from psla_wds.reading.reader import Reader, ReaderConfig
from psla_wds.shards.index_files import read_index


@pytest.fixture
def copied(shards: Path, tmp_path: Path) -> Path:
    return shutil.copytree(shards, tmp_path / "shards")


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("psla_wds.io.retry.RETRY_PAUSES_S", (0.0, 0.0))


def test_clips_come_in_the_order_of_the_rows_with_repeats(shards: Path):
    index = read_index(shards)
    rows = np.random.default_rng(0).integers(0, len(index), 100)
    reader = Reader(index, threads=3)
    clips = reader.start(rows).wait()
    reader.close()
    for row, clip in zip(rows, clips, strict=True):
        content = index.shards[index.shard[row]].read_bytes()
        start = index.offset[row]
        assert clip.tobytes() == content[start : start + index.size[row]]


def test_a_flipped_bit_is_named_with_shard_offset_and_clip(copied: Path):
    index = read_index(copied)
    row, tar = 7, index.shards[index.shard[7]]
    content = bytearray(tar.read_bytes())
    content[index.offset[row] + index.size[row] // 2] ^= 4
    tar.write_bytes(content)
    reader = Reader(index, threads=1)
    with pytest.raises(ShardError, match="damaged: its CRC-32 differs") as caught:
        reader.start(np.arange(len(index))).wait()
    reader.close()
    for part in (str(tar), f"byte {index.offset[row]}", index.clip_id(row), "sharding.check"):
        assert part in str(caught.value)


def test_a_shard_that_became_shorter_or_vanished_is_named(copied: Path):
    index = read_index(copied)
    with index.shards[0].open("r+b") as file:
        file.truncate(600)
    index.shards[1].unlink()
    reader = Reader(index, threads=1)
    with pytest.raises(ShardError, match="cut short"):
        reader.start(np.flatnonzero(index.shard == 0)).wait()
    with pytest.raises(ShardError, match="No such file"):
        reader.start(np.flatnonzero(index.shard == 1)).wait()
    reader.close()


def test_a_read_that_fails_for_a_moment_is_tried_again(
    shards: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    index, pread, failures = read_index(shards), os.preadv, iter([OSError(5, "I/O error"), None])

    def flaky(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        if (failure := next(failures, None)) is not None:
            raise failure
        return pread(descriptor, buffers, offset)

    monkeypatch.setattr("psla_wds.io.stores.os.preadv", flaky)
    reader = Reader(index, threads=1)
    clips = reader.start(np.arange(10)).wait()
    reader.close()
    assert [len(clip) for clip in clips] == index.size[:10].tolist()
    assert "I/O error; trying again" in caplog.text and index.clip_id(0) in caplog.text


def test_a_read_that_hangs_is_told_with_what_it_waits_for(
    shards: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    index, pread, storage_answers = read_index(shards), os.preadv, threading.Event()

    def hanging(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        storage_answers.wait(timeout=30)
        return pread(descriptor, buffers, offset)

    monkeypatch.setattr("psla_wds.io.stores.os.preadv", hanging)
    monkeypatch.setattr("psla_wds.reading.reader.HANG_WARNING_S", 0.05)
    reader = Reader(index, threads=1)
    pending = reader.start(np.array([13, 14]))
    threading.Timer(0.3, storage_answers.set).start()
    clips = pending.wait()
    reader.close()
    assert [len(clip) for clip in clips] == index.size[13:15].tolist()
    warnings = [r.getMessage() for r in caplog.records]
    assert 2 <= len(warnings) <= 8 and all(index.where(13) in text for text in warnings)


def test_closing_ends_the_threads(shards: Path):
    before = threading.active_count()
    reader = Reader(read_index(shards), threads=3)
    reader.start(np.arange(40)).wait()
    assert threading.active_count() > before
    reader.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("setting", ["threads", "decode_threads", "prefetch_batches", "memory_mib"])
def test_a_setting_below_one_names_its_flag(setting: str):
    with pytest.raises(ConfigError, match=f"--reader.{setting.replace('_', '-')}"):
        ReaderConfig(**{setting: 0})
