"""Whoever makes the shards, and whatever kills them on the way: the same bytes."""

import errno
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import assert_user_error, manifest_arguments, run_command, write_corpus

from psla_wds.errors import ConfigError, PslaError
from psla_wds.io.atomic_files import atomic_open
from psla_wds.runtime.array_tasks import parse_task
from psla_wds.shards.index_files import read_index
from sharding.index import make_index
from sharding.packing import engines
from sharding.packing.config import PackConfig
from sharding.packing.shard import ShardTask, pack_shard

NUM_CLIPS, NUM_SHARDS = 480, 40


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("many"), num_clips=NUM_CLIPS)


@pytest.fixture(scope="module")
def whole(many: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shards of a build that nothing disturbed."""
    output = tmp_path_factory.mktemp("whole") / "shards"
    build(many, output)
    return output


def build(corpus: Path, output: Path, *more: str, fails: bool = False):
    arguments = [*manifest_arguments(corpus, output), *more]
    return run_command("sharding.build", "manifest", *arguments, check=not fails)


def content(folder: Path) -> dict[str, bytes]:
    """Every file: tars, sidecars, index, list of the refused, plan."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def start(corpus: Path, output: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sharding.build", "manifest"]
    command += [*manifest_arguments(corpus, output), *more]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for(condition, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


class WatchedPool(engines.ProcessPool):
    """Looks how many workers have started when it is stopped."""

    started: int

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._counter = settings["initargs"][0]

    def stop(self) -> None:
        WatchedPool.started = self._counter.started.value
        super().stop()


def test_workers_are_not_stopped_before_they_have_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(engines, "ProcessPool", WatchedPool)
    encoding = PackConfig(output=tmp_path).encoding
    tasks = [ShardTask(number, tmp_path, (), ("/t/0",), encoding) for number in range(3)]
    assert sum(len(update.results) for update in engines.run_local(tasks, workers=8)) == 3
    assert WatchedPool.started == 3  # one a shard at most


def finished(output: Path) -> int:
    return len(list(output.glob("*.sidecar.json")))


def children(pid: int) -> list[int]:
    done = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    return [int(line) for line in done.stdout.split()]


def kill_and_go_on(corpus: Path, output: Path, *, shards: int, delay_s: float, all_: bool) -> None:
    """SIGKILL a build some time after so many shards stand, with its workers or without."""
    process = start(corpus, output)
    wait_for(lambda: finished(output) >= shards or process.poll() is not None)
    time.sleep(delay_s)
    (os.killpg if all_ else os.kill)(process.pid, signal.SIGKILL)
    process.communicate()
    build(corpus, output)


@pytest.mark.parametrize("moment", range(3))
def test_a_build_killed_at_any_moment_goes_on(many: Path, whole: Path, tmp_path: Path, moment: int):
    _kill_at_random(many, whole, tmp_path, moment)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("moment", range(3, 23))
def test_a_build_killed_at_twenty_moments_goes_on(
    many: Path, whole: Path, tmp_path: Path, moment: int
):
    _kill_at_random(many, whole, tmp_path, moment)


def _kill_at_random(corpus: Path, whole: Path, folder: Path, seed: int) -> None:
    rng = random.Random(seed)
    kill_and_go_on(
        corpus,
        folder / "shards",
        shards=rng.randrange(NUM_SHARDS),
        delay_s=rng.uniform(0, 0.05),
        all_=rng.random() < 0.5,
    )
    assert content(folder / "shards") == content(whole)


@pytest.mark.parametrize("plan_stands", [False, True])
def test_a_build_killed_at_its_beginning_can_begin(
    corpus: Path, shards: Path, tmp_path: Path, plan_stands: bool
):
    (tmp_path / "build.json.0123abcd.tmp").write_text("half")
    if plan_stands:
        shutil.copy(shards / "build.json", tmp_path)
        (tmp_path / "class_labels_indices.csv.0123abcd.tmp").write_text("half")
    build(corpus, tmp_path)
    assert content(tmp_path) == content(shards)


def test_a_worker_that_is_killed_costs_its_shard_a_retry(many: Path, whole: Path, tmp_path: Path):
    output = tmp_path / "shards"
    process = start(many, output, "--workers=2")
    wait_for(lambda: finished(output) >= 3)
    workers = [pid for pid in children(process.pid) if b"spawn_main" in _command_line(pid)]
    assert len(workers) == 2
    assert not any("libtorch" in Path(f"/proc/{pid}/maps").read_text() for pid in workers)
    os.kill(workers[0], signal.SIGKILL)
    _, stderr = process.communicate(timeout=240)
    assert process.returncode == 0, stderr
    assert content(output) == content(whole)


def _command_line(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def test_one_shard_written_by_two_at_once_is_whole(tmp_path: Path):
    """As when a task was given to another worker, and the first was only slow."""
    path = tmp_path / "shard.tar"
    with atomic_open(path, shared=True) as slow:
        slow.write(b"the first half, ")
        with atomic_open(path, shared=True) as fast:
            fast.write(b"the first half, the second half")
        assert path.read_bytes() == b"the first half, the second half"
        slow.write(b"the second half")
    assert path.read_bytes() == b"the first half, the second half"


@contextmanager
def small_disk(folder: Path, size_kib: int) -> Iterator[Path]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_kib}k", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_one_error_and_room_lets_it_go_on(many: Path, whole: Path, tmp_path: Path):
    with small_disk(tmp_path / "disk", size_kib=1200) as disk:
        output = disk / "shards"
        done = build(many, output, fails=True)
        assert_user_error(done, "No space left on device", "it goes on")
        assert 0 < finished(output) < NUM_SHARDS and not (output / "index").exists()
        for sidecar in output.glob("*.sidecar.json"):
            tar = sidecar.with_name(sidecar.name.replace(".sidecar.json", ".tar"))
            assert tar.read_bytes() == (whole / tar.name).read_bytes()
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        build(many, output)
        assert content(output) == content(whole)


def test_a_disk_that_fills_up_while_a_shard_is_synced_leaves_nothing(tmp_path: Path, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    task = ShardTask(0, tmp_path, (), (), PackConfig(output=tmp_path).encoding)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PslaError, match="No space left on device"):
        pack_shard(task, lambda packed: None)
    assert not list(tmp_path.iterdir())


def test_tasks_of_an_array_need_no_coordinator(many: Path, whole: Path, tmp_path: Path):
    output = tmp_path / "shards"
    together = [start(many, output, f"--task={number}/3", "--workers=1") for number in (0, 2)]
    for process in together:
        _, stderr = process.communicate(timeout=240)
        assert process.returncode == 0, stderr
    done = run_command("sharding.index", str(output), check=False)
    assert_user_error(done, "13 shards are not made yet: 1, 4, 7", "run the tasks")
    assert_user_error(
        build(many, output, "--task=1/3", "--codec=wav", fails=True), "holds another build"
    )
    assert f"python -m sharding.index {output}" in build(many, output, "--task=1/3").stdout
    run_command("sharding.index", str(output))
    joined = content(output)
    assert content(whole).items() - joined.items() == coverage_of(whole)
    build(many, output)
    assert content(output) == content(whole)


def coverage_of(output: Path) -> set[tuple[str, bytes]]:
    """What the index alone cannot tell, since it does not know the source."""
    return {("coverage.json", (output / "coverage.json").read_bytes())}


def test_what_tasks_leave_a_build_without_task_finishes(many: Path, whole: Path, tmp_path: Path):
    build(many, tmp_path / "shards", "--task=1/2")
    build(many, tmp_path / "shards")
    assert content(tmp_path / "shards") == content(whole)


def test_what_tasks_refuse_counts_when_they_are_joined(tmp_path: Path):
    corpus = write_corpus(tmp_path / "corpus", num_clips=24)
    (corpus / "clip.003.wav").write_text("no audio")
    output = tmp_path / "shards"
    for number in range(2):
        build(corpus, output, f"--task={number}/2")
    for _ in range(2):
        done = run_command("sharding.index", str(output), check=False)
        assert_user_error(done, "1 of 24 clips were refused")
    assert not (output / "index").exists()
    run_command("sharding.index", str(output), "--max-rejected=0.1")
    assert json.loads((output / "rejected.jsonl").read_text())["clip_id"] == "clip.003.wav"


def test_what_a_retry_packed_is_not_refused_when_tasks_are_joined_again(tmp_path: Path):
    corpus = write_corpus(tmp_path / "corpus", num_clips=24)
    clip, output = corpus / "clip.003.wav", tmp_path / "shards"
    whole = clip.read_bytes()
    clip.write_text("no audio")
    build(corpus, output, "--max-rejected=0.1")
    clip.write_bytes(whole)
    build(corpus, output, "--retry-rejected")
    build(corpus, output, "--task=0/1")
    make_index(output)
    assert (output / "rejected.jsonl").read_text() == ""
    assert len(read_index(output)) == 24


@pytest.mark.parametrize("flag", ["refuse_duplicates", "retry_rejected"])
def test_what_needs_all_shards_is_refused_in_a_task(flag: str):
    with pytest.raises(ConfigError, match="without --task"):
        PackConfig(output=Path("shards"), task="0/2", **{flag: True})


@pytest.mark.parametrize("text", ["", "8/8", "1", "a/b", "-1/4", "0/0"])
def test_a_task_that_is_none_gets_an_error(text: str):
    with pytest.raises(ConfigError, match="not I/N"):
        parse_task(text)


def test_a_task_knows_its_place_in_a_slurm_array(monkeypatch):
    with pytest.raises(ConfigError, match="not a job of a Slurm array"):
        parse_task("slurm")
    for first in (0, 1):
        shares = []
        for number in range(first, first + 3):
            values = {"ID": number, "MIN": first, "COUNT": 3}
            for name, value in values.items():
                monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
            shares.append(parse_task("slurm"))
        dealt = [number for share in shares for number in share.of(range(10))]
        assert sorted(dealt) == list(range(10))
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "9")
    with pytest.raises(ConfigError, match="not I/N"):
        parse_task("slurm")


DASK = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
WORKER = [sys.executable, "-m", "distributed.cli.dask_worker"]


@contextmanager
def dask_cluster(folder: Path, *, workers: int) -> Iterator[list[subprocess.Popen]]:
    """The scheduler and workers of a cluster on loopback, and its file `scheduler.json`."""
    pytest.importorskip("distributed", reason="the extra cluster is not installed")
    file = folder / "scheduler.json"
    common = {"cwd": folder, "stderr": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    address = ["--host", "127.0.0.1", "--no-dashboard"]
    scheduler = [*DASK, "--port", "0", "--scheduler-file", str(file), *address]
    processes = [subprocess.Popen(scheduler, **common)]
    try:
        wait_for(file.exists)
        worker = [*WORKER, "--scheduler-file", str(file), "--nthreads", "1", *address]
        worker += ["--no-nanny", "--local-directory", str(folder)]
        processes += [subprocess.Popen(worker, **common) for _ in range(workers)]
        yield processes
    finally:
        for process in reversed(processes):
            process.kill()
            process.wait()


def test_a_dask_cluster_that_loses_a_worker_makes_the_same_shards(
    many: Path, whole: Path, tmp_path: Path
):
    output = tmp_path / "shards"
    with dask_cluster(tmp_path, workers=2) as processes:
        scheduler = f"--scheduler-file={tmp_path}/scheduler.json"
        process = start(many, output, "--engine=dask", scheduler)
        wait_for(lambda: finished(output) >= 5 or process.poll() is not None)
        processes[1].kill()
        at_kill = finished(output)
        _, stderr = process.communicate(timeout=240)
    assert process.returncode == 0, stderr
    assert at_kill < NUM_SHARDS, "killed too late to show anything"
    assert content(output) == content(whole)


def test_a_dask_scheduler_that_is_lost_is_one_error(many: Path, whole: Path, tmp_path: Path):
    output = tmp_path / "shards"
    with dask_cluster(tmp_path, workers=1) as processes:
        process = start(
            many, output, "--engine=dask", f"--scheduler-file={tmp_path}/scheduler.json"
        )
        wait_for(lambda: finished(output) >= 2 or process.poll() is not None)
        processes[0].kill()
        _, stderr = process.communicate(timeout=120)
    assert process.returncode == 2 and "the Dask scheduler was lost" in stderr, stderr
    build(many, output)
    assert content(output) == content(whole)


def test_a_dask_scheduler_that_does_not_answer_is_one_error(corpus: Path, tmp_path: Path):
    pytest.importorskip("distributed", reason="the extra cluster is not installed")
    output = tmp_path / "shards"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        done = build(corpus, output, "--engine=dask", f"--scheduler={address}", fails=True)
    assert_user_error(done, "does not answer", address)
    assert time.monotonic() - began < 60
    missing = f"--scheduler-file={tmp_path}/none.json"
    assert_user_error(
        build(corpus, output, "--engine=dask", missing, fails=True), "scheduler's address"
    )
    assert_user_error(
        build(corpus, output, "--engine=dask", fails=True), "needs exactly one scheduler"
    )


def test_without_the_package_the_command_that_installs_it_is_told(monkeypatch):
    from sharding.packing.dask_engine import run_dask

    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ConfigError, match=r"pip install 'psla-wds\[cluster\]'"):
        next(run_dask([], "tcp://127.0.0.1:1"))


def test_shards_are_dealt_evenly_over_tasks():
    sizes = [len(parse_task(f"{number}/7").of(range(100))) for number in range(7)]
    assert np.ptp(sizes) <= 1 and sum(sizes) == 100
