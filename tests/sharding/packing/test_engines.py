"""Whoever makes the shards, and whatever kills them on the way: the same bytes."""

import errno
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from builds import build, content
from conftest import assert_user_error, manifest_arguments, write_corpus
from fuzz.tally import TALLY

from psla_wds.errors import ConfigError, PslaError
from psla_wds.io.atomic_files import atomic_open
from sharding.check import check
from sharding.packing import dask_engine
from sharding.packing.config import PackConfig
from sharding.packing.shard import ShardTask, pack_shard

NUM_CLIPS, NUM_SHARDS = 160, 40
SMALL = "--clips-per-shard=4"


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("many"), num_clips=NUM_CLIPS)


@pytest.fixture(scope="module")
def whole(many: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shards of a build that nothing disturbed."""
    output = tmp_path_factory.mktemp("whole") / "shards"
    build(many, output, SMALL)
    return output


def start(corpus: Path, output: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sharding.build", "manifest"]
    command += [*manifest_arguments(corpus, output), SMALL, *more]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for(condition, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def finished(output: Path) -> int:
    return len(list(output.glob("*.sidecar.json")))


@pytest.mark.parametrize(("codec", "extension"), [("opus", "opus"), ("vorbis", "ogg")])
def test_ogg_shards_do_not_depend_on_the_number_of_workers(
    tmp_path: Path, codec: str, extension: str
):
    corpus = write_corpus(tmp_path / "corpus", num_clips=8)
    for workers in (1, 2):
        words = [f"--codec={codec}", f"--workers={workers}", SMALL]
        build(corpus, tmp_path / str(workers), *words)
    one = content(tmp_path / "1")
    assert one == content(tmp_path / "2")
    assert f".{extension}".encode() in one["shard-000001.tar"]
    assert check(tmp_path / "1", deep=True) == []


SEEDS = [0, 1, *(pytest.param(n, marks=pytest.mark.slow) for n in range(2, 120))]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_build_killed_at_any_moment_goes_on(many: Path, whole: Path, tmp_path: Path, seed: int):
    """SIGKILL some time after so many shards stand, for the build with its workers or alone."""
    rng, output = random.Random(seed), tmp_path / "shards"
    num_shards = rng.randrange(NUM_SHARDS)
    process = start(many, output)
    wait_for(lambda: finished(output) >= num_shards or process.poll() is not None)
    time.sleep(rng.uniform(0, 0.05))
    (os.killpg if rng.random() < 0.5 else os.kill)(process.pid, signal.SIGKILL)
    process.communicate()
    TALLY["kills"] += 1
    build(many, output, SMALL)
    assert content(output) == content(whole)


def children(pid: int) -> list[int]:
    done = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    return [int(line) for line in done.stdout.split()]


def test_a_killed_worker_costs_its_shard_a_retry(many: Path, whole: Path, tmp_path: Path):
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


def test_a_disk_that_fills_up_during_a_sync_keeps_nothing(tmp_path: Path, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    task = ShardTask(0, tmp_path, (), (), PackConfig(output=tmp_path).encoding)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PslaError, match="No space left on device"):
        pack_shard(task)
    assert not list(tmp_path.iterdir())


@contextmanager
def dask_cluster(
    folder: Path, *, workers: int, nanny: str = "--no-nanny"
) -> Iterator[list[subprocess.Popen]]:
    """The scheduler and workers of a cluster on loopback, and its file `scheduler.json`.

    Args:
        nanny: `--nanny` replaces workers that die.
    """
    pytest.importorskip("distributed", reason="the extra cluster is not installed")
    file = folder / "scheduler.json"
    common = {"cwd": folder, "stderr": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    address = ["--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", str(file)]
    cli = [sys.executable, "-m", "distributed.cli.dask_"]
    scheduler = [*cli[:2], f"{cli[2]}scheduler", "--port", "0", *address]
    worker = [*cli[:2], f"{cli[2]}worker", "--nthreads", "1", *address]
    worker += [nanny, "--local-directory", str(folder)]
    processes = [subprocess.Popen(scheduler, **common)]
    try:
        wait_for(file.exists)
        processes += [subprocess.Popen(worker, **common) for _ in range(workers)]
        yield processes
    finally:
        for process in reversed(processes):
            process.kill()
            process.wait()


@pytest.mark.slow
def test_a_dask_cluster_that_loses_a_worker_makes_all_shards(
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


@pytest.mark.slow
def test_a_dask_scheduler_that_is_lost_is_one_error(many: Path, whole: Path, tmp_path: Path):
    output = tmp_path / "shards"
    with dask_cluster(tmp_path, workers=1) as processes:
        scheduler = f"--scheduler-file={tmp_path}/scheduler.json"
        process = start(many, output, "--engine=dask", scheduler)
        wait_for(lambda: finished(output) >= 2 or process.poll() is not None)
        processes[0].kill()
        _, stderr = process.communicate(timeout=120)
    assert process.returncode == 2 and "the Dask scheduler was lost" in stderr, stderr
    build(many, output, SMALL)
    assert content(output) == content(whole)


@pytest.mark.slow
def test_a_clip_that_kills_workers_of_dask_is_refused(
    many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    in_workers(tmp_path, monkeypatch, KILLER)
    output = tmp_path / "shards"
    with dask_cluster(tmp_path, workers=2, nanny="--nanny"):
        scheduler = f"--scheduler-file={tmp_path}/scheduler.json"
        process = start(many, output, "--engine=dask", scheduler, "--max-rejected=0.5")
        _, stderr = process.communicate(timeout=240)
    assert process.returncode == 0 and "Dask workers died" in stderr, stderr
    (refused,) = map(json.loads, (output / "rejected.jsonl").read_text().splitlines())
    assert (refused["clip_id"], refused["reason"]) == ("clip.001.flac", "fatal")


def test_a_dask_scheduler_that_does_not_answer_is_one_error(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("distributed", reason="the extra cluster is not installed")
    monkeypatch.setattr(dask_engine, "ANSWER_S", 1)
    output = tmp_path / "shards"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        words = ["--engine=dask", f"--scheduler={address}"]
        assert_user_error(build(corpus, output, *words, check=False), "does not answer", address)
    words = ["--engine=dask", f"--scheduler-file={tmp_path}/none.json"]
    assert_user_error(build(corpus, output, *words, check=False), "scheduler's address")


def test_without_dask_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ConfigError, match="pip install distributed"):
        next(dask_engine.run_dask([], "tcp://127.0.0.1:1"))


KILLER = """
import os, signal
from sharding.packing import shard
pack_clip = shard.pack_clip
def fatal(clip, *others):
    if clip.clip_id == "clip.001.flac":
        os.kill(os.getpid(), signal.SIGKILL)
    return pack_clip(clip, *others)
shard.pack_clip = fatal
"""


def in_workers(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Let workers run this code at their start."""
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(
        "import multiprocessing, sys\n"
        "if '--multiprocessing-fork' in sys.orig_argv:\n"
        f"    exec({code!r})\n"
    )
    paths = [str(folder / "site"), os.environ.get("PYTHONPATH", os.getcwd())]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))


@pytest.mark.parametrize("deaths", [2, 1000])
def test_workers_that_die_before_they_work_are_replaced(
    many: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deaths: int
):
    (tmp_path / "left").write_text("x" * deaths)
    code = f"import os; left = os.path.getsize({str(tmp_path / 'left')!r})\n"
    code += f"if left: os.truncate({str(tmp_path / 'left')!r}, left - 1); os.kill(os.getpid(), 9)"
    in_workers(tmp_path, monkeypatch, code)
    process = start(many, tmp_path / "shards", "--workers=1")
    _, stderr = process.communicate(timeout=120)
    if deaths == 2:
        assert process.returncode == 0 and content(tmp_path / "shards") == content(whole), stderr
    else:
        assert process.returncode == 2 and "died 3 times" in stderr, stderr


SCRIPT = """
import sys
from pathlib import Path
from sharding.build import SOURCES, build
from sharding.packing.config import PackConfig
corpus, output = map(Path, sys.argv[1:])
{guard}
source = SOURCES["manifest"](file=corpus / "clips.jsonl", class_labels=corpus / "classes.csv")
build(source, PackConfig(output=output, workers=2))
"""


@pytest.mark.parametrize("guard", ["", "if __name__ != '__main__': import not_installed"])
@pytest.mark.parametrize("stdin", [False, True], ids=["file", "stdin"])
def test_workers_that_cannot_begin_are_one_error(
    corpus: Path, tmp_path: Path, guard: str, stdin: bool
):
    """As in a script without `if __name__ == "__main__":`, which each worker imports."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(guard=guard))
    words = ["-" if stdin else str(script), str(corpus), str(tmp_path / "shards")]
    done = subprocess.run(
        [sys.executable, *words], input=script.read_text(), capture_output=True,
        text=True, check=False, timeout=60,
        env=os.environ | {"PYTHONPATH": os.environ.get("PYTHONPATH", os.getcwd())},
    )  # fmt: skip
    assert done.returncode == 1
    last = done.stderr[done.stderr.rindex("psla_wds.errors.ConfigError") :].splitlines()
    assert len(last) == 3 and "end before they begin" in last[0]
    assert words[0] in last[1] and 'if __name__ == "__main__":' in last[2]
    assert "RuntimeError" not in done.stderr and "died 3 times" not in done.stderr


RAISER = """
from sharding.packing import shard
decode = shard.decode
def raising(clip, **settings):
    if clip.clip_id == "clip.001.flac":
        raise {error}
    return decode(clip, **settings)
shard.decode = raising
"""


@pytest.mark.parametrize("error", ["MemoryError('20 GiB')", "ZeroDivisionError('a bug')"])
def test_a_lack_of_memory_refuses_a_clip_and_a_bug_does_not(
    many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str
):
    in_workers(tmp_path, monkeypatch, RAISER.format(error=error))
    process = start(many, tmp_path / "shards", "--max-rejected=0.5")
    _, stderr = process.communicate(timeout=120)
    if "Memory" in error:
        assert process.returncode == 0, stderr
        (refused,) = map(json.loads, (tmp_path / "shards" / "rejected.jsonl").open())
        assert (refused["reason"], refused["detail"]) == ("no-memory", "20 GiB")
    else:
        assert process.returncode == 1 and "ZeroDivisionError: a bug" in stderr


def test_workers_end_when_the_build_is_killed(many: Path, tmp_path: Path):
    process = start(many, tmp_path / "shards", "--workers=2")
    wait_for(lambda: finished(tmp_path / "shards") >= 3)
    workers = [pid for pid in children(process.pid) if b"spawn_main" in _command_line(pid)]
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    wait_for(lambda: not any(b"spawn_main" in _command_line(pid) for pid in workers), seconds=20)


def test_a_clip_that_kills_its_process_is_refused(
    many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As a crash of a decoder does."""
    in_workers(tmp_path, monkeypatch, KILLER)
    process = start(many, tmp_path / "shards", "--max-rejected=0.5")
    assert process.wait(120) == 0
    (refused,) = map(json.loads, (tmp_path / "shards" / "rejected.jsonl").read_text().splitlines())
    assert (refused["clip_id"], refused["reason"]) == ("clip.001.flac", "fatal")
    assert "twice" in refused["detail"]
