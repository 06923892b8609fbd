"""What is compared does the same work, and a loader that does other work is noticed."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.bench_loader import check_clips, encoded_clips
from benchmarks.dali_ways import decode_way, shard_reader_way
from benchmarks.our_ways import read_way, waveform_way
from benchmarks.peers import Collate, Work, loose_files, webdataset_way
from benchmarks.table_forms import speeds
from benchmarks.ways import Batch, Timing, Way, measure_level
from psla_wds.shards.index import ShardIndex
from psla_wds.shards.index_files import open_indexes

BATCH_SIZE = 8


@pytest.fixture(scope="module")
def index(shards: Path) -> ShardIndex:
    return open_indexes([str(shards)])


@pytest.fixture
def work(index: ShardIndex, tmp_path: Path) -> Work:
    paths = [tmp_path / f"{row}.flac" for row in range(len(index))]
    for path, clip in zip(paths, encoded_clips(index), strict=True):
        path.write_bytes(clip.tobytes())
    return Work(index, paths, tmp_path, BATCH_SIZE, decode=False)


def ways_of(work: Work) -> list[Way]:
    """Those that need nothing else installed."""
    index, decode = work.index, work.decode
    ours = [decode_way, waveform_way] if decode else [read_way]
    return [
        loose_files(work),
        webdataset_way(work, shuffled=False),
        webdataset_way(work, shuffled=True),
        shard_reader_way(index, BATCH_SIZE, decode=decode),
        *(way(index, BATCH_SIZE) for way in ours),
    ]


@pytest.mark.parametrize("decode", [False, True])
def test_every_way_delivers_the_same_clips_and_targets(work: Work, decode: bool):
    index = work.index
    rows = {index.clip_id(row): row for row in range(len(index))}
    ways = ways_of(replace(work, decode=decode))
    check_clips(ways, index, encoded_clips(index), decode=decode)
    for way in ways:
        with way.open(**way.settings[0]) as batches:
            batch = next(batches)
            assert len(batch.keys) == len(batch.clips) == BATCH_SIZE
            keys = [rows[k] if isinstance(k, str) else int(k) for k in batch.keys]
            assert (np.asarray(batch.targets) == index.targets(np.array(keys))).all(), way.name


def spoiled(way: Way, change: Callable[[Batch], Batch]) -> Way:
    @contextmanager
    def opened(**setting: int) -> Iterator[Iterator[Batch]]:
        with way.open(**setting) as batches:
            yield map(change, batches)

    return replace(way, open=opened)


@pytest.mark.parametrize(
    "change",
    [
        lambda batch: replace(batch, keys=np.roll(batch.keys, 1)),
        lambda batch: replace(batch, clips=[clip[:-1] for clip in batch.clips]),
        lambda batch: replace(batch, keys=["another"] * len(batch.keys)),
    ],
)
def test_a_way_that_delivers_other_clips_is_noticed(
    index: ShardIndex, change: Callable[[Batch], Batch]
):
    way = spoiled(read_way(index, BATCH_SIZE), change)
    with pytest.raises(AssertionError, match=r"delivers another|delivered none"):
        check_clips([way], index, encoded_clips(index), decode=False)


def test_a_waveform_that_is_louder_is_noticed(index: ShardIndex):
    way = spoiled(
        waveform_way(index, BATCH_SIZE),
        lambda batch: replace(batch, clips=[clip * 1.01 for clip in batch.clips]),
    )
    with pytest.raises(AssertionError, match="delivers another"):
        check_clips([way], index, encoded_clips(index), decode=True)


def test_the_fastest_setting_is_the_one_that_is_measured():
    opened = []

    @contextmanager
    def wait(ms: int) -> Iterator[Iterator[None]]:
        opened.append(ms)
        yield iter(lambda: time.sleep(ms / 1000), 0)

    way = Way("way", "none", wait, ({"ms": 5}, {"ms": 1}, {"ms": 3}))
    (result,) = measure_level("read", [way], {}, Timing(4, seconds=0.05, repeats=2))
    assert result["setting"] == "ms 1" and set(result["sweep"]) == {"ms 5", "ms 1", "ms 3"}
    assert opened == [5, 1, 3, 1, 1, 1]  # each setting once, then a warm-up and two rounds
    assert result["level"] == "read" and result["clips_per_s"] < 4000


def test_workers_hand_over_what_they_were_given():
    samples = [("a", b"123", np.array([0])), ("b", b"45", np.array([1, 2], np.uint16))]
    keys, buffer, lengths, targets = Collate(3, decode=False)(samples)
    assert keys == ["a", "b"] and lengths == [3, 2] and buffer.numpy().tobytes() == b"12345"
    assert targets.tolist() == [[1, 0, 0], [0, 1, 1]]


def test_each_level_has_a_table():
    result = {"name": "x", "clips_per_s": 10.0, "spread": 0.1, "speed_up": 1.0, "order": "any"}
    content = {
        "title": "Loader",
        "conditions": {"repeats": 5, "page_cache": "warm"},
        "machine": {"gpu": "G", "cores": 2, "cpu": "c", "date": "d", "commit": "e"},
        "results": [result | {"level": level} for level in ("read", "decode")],
    }
    table = speeds(content)
    assert "| read | order |" in table and "| decode | order |" in table
