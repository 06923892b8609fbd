"""Tasks given to a Dask cluster whose workers come and go, without a cluster."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from psla_wds.errors import ConfigError
from psla_wds.io.locations import parse_location
from psla_wds.labels.manifest import Clip
from sharding.packing import dask_engine
from sharding.packing.config import PackConfig
from sharding.packing.shard import ShardResult, ShardTask

ENCODING = PackConfig(output=Path("shards")).encoding


def task_of(number: int, folder: str = "/shards", audio: str = "/audio/a.wav") -> ShardTask:
    clip = Clip("a", parse_location(audio), (), "", "list.csv, line 2")
    return ShardTask(number, parse_location(folder), (clip,), (), ENCODING)


class Cluster:
    """A client whose futures are done at once, and whose threads go one by one."""

    loop = None

    def __init__(self, threads: int) -> None:
        self._threads, self.most_running, self._num_running = threads, 0, 0

    def nthreads(self) -> dict[str, int]:
        self._threads = max(1, self._threads - 10)
        return {"tcp://worker": self._threads}

    def submit(self, _work, task: ShardTask, _folder: str, **_: object) -> SimpleNamespace:
        self._num_running += 1
        self.most_running = max(self.most_running, self._num_running)
        return SimpleNamespace(key=task.number, result=lambda: self._done(task))

    def _done(self, task: ShardTask) -> ShardResult:
        self._num_running -= 1
        return ShardResult(task.number, 1, [])


class InTurn:
    """As `distributed.as_completed` gives futures that are added while it is gone through."""

    def __init__(self, loop: object) -> None:
        self._futures: list = []
        self.add = self._futures.append

    def __iter__(self):
        while self._futures:
            yield self._futures.pop(0)


def test_all_tasks_are_done_when_a_cluster_shrinks(monkeypatch: pytest.MonkeyPatch):
    distributed = pytest.importorskip("distributed", reason="the extra cluster is not installed")
    monkeypatch.setattr(distributed, "as_completed", InTurn)
    cluster = Cluster(threads=200)
    results = list(dask_engine._results(cluster, [task_of(number) for number in range(1000)]))
    assert sorted(result.number for result in results) == list(range(1000))
    assert cluster.most_running > 300


@pytest.mark.parametrize(
    ("folder", "audio", "shares"),
    [
        ("s3://bucket/shards", "s3://bucket/a.wav", False),
        ("/shards", "s3://bucket/a.wav", False),
        ("shards", "s3://bucket/a.wav", True),
        ("s3://bucket/shards", "audio/a.wav", True),
    ],
)
def test_a_worker_needs_the_folder_only_for_relative_paths(
    monkeypatch: pytest.MonkeyPatch, folder: str, audio: str, shares: bool
):
    packed = ShardResult(0, 1, [])
    monkeypatch.setattr(dask_engine, "pack_shard", lambda task: packed)
    monkeypatch.chdir(os.getcwd())
    pytest.importorskip("s3fs", reason="the extra s3 is not installed")
    task = task_of(0, folder, audio)
    if shares:
        with pytest.raises(ConfigError, match="cannot use the folder"):
            dask_engine._work(task, "/there/is/no/such/folder")
    else:
        assert dask_engine._work(task, "/there/is/no/such/folder") is packed
