"""SIGKILL before each file that is made, synced, renamed or deleted: the end is the same."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from builds import build, content
from conftest import manifest_arguments, write_corpus
from fuzz.tally import TALLY
from training_runs import arguments, logged_losses, same_weights

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
PARTS = 5
"""Tests among which the events are dealt out, so that each ends within minutes."""

KILLER = """
import os, sys

folder, number = os.environ["KILL_IN"], int(os.environ["KILL_AT"])
MARK = os.environ.get("KILL_ONCE")
EVENTS = ("open", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate")
fsync, count = os.fsync, 0

def hook(event, arguments):
    if event not in EVENTS or not str(arguments[0]).startswith(folder):
        return
    if event != "open" or arguments[2] & (os.O_WRONLY | os.O_RDWR):
        happens()

def happens(*arguments):
    global count
    count += 1
    if count == number and not (MARK and os.path.exists(MARK)):
        if MARK:
            os.mkdir(MARK)
        os.kill(os.getpid(), 9)

def synced(descriptor):
    happens()
    fsync(descriptor)

if os.environ.get("KILL_WORKERS", "") == str(int("--multiprocessing-fork" in sys.orig_argv)):
    os.fsync = synced
    sys.addaudithook(hook)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    site = tmp_path_factory.mktemp("site")
    (site / "sitecustomize.py").write_text(KILLER)
    return site


def end(words: list[str], site: Path, folder: Path, number: int, **more: str) -> int:
    """Exit status of a command that is killed before that event in a folder."""
    environment = os.environ | {"KILL_IN": str(folder), "KILL_AT": str(number)} | more
    paths = [str(site), os.environ.get("PYTHONPATH", os.getcwd())]
    environment |= {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *words]
    return subprocess.run(command, capture_output=True, env=environment, check=False).returncode


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("few"), num_clips=8)


@pytest.fixture(scope="module")
def whole(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("whole") / "shards"
    build(few, output, "--clips-per-shard=4")
    return output


@pytest.mark.parametrize("first", range(1, PARTS + 1))
@pytest.mark.parametrize("workers", ["0", "1"], ids=["main", "a worker"])
def test_a_build_goes_on_after_a_kill_at_any_event(
    few: Path, whole: Path, site: Path, tmp_path: Path, workers: str, first: int
):
    """A killed worker is replaced; a killed build is run again."""
    output, mark = tmp_path / "shards", tmp_path / "killed"
    words = ["sharding.build", "manifest", *manifest_arguments(few, output), "--workers=1"]
    words.append("--clips-per-shard=4")
    for number in range(first, 200, PARTS):
        more = {"KILL_WORKERS": workers, "KILL_ONCE": str(mark)}
        status = end(words, site, output, number, **more)
        if not mark.exists():  # it has fewer events
            break
        mark.rmdir()
        TALLY["kills"] += 1
        assert status == (0 if workers == "1" else -signal.SIGKILL), number
        if status:
            build(few, output, "--clips-per-shard=4")
        assert content(output) == content(whole), number
        shutil.rmtree(output)
    assert number > (10 if workers == "1" else 25)


EVENTS_OF_A_START = 25
"""Until the second state of a run is on the disk."""


MORE = ["--epochs=1", "--resume"]


@pytest.fixture(scope="module")
def left_alone(shards: Path, site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("alone") / "run"
    assert end(["train.main", *arguments(shards, run, *MORE)], site, run, 0) == 0
    return run


@pytest.mark.parametrize("first", range(1, PARTS + 1))
def test_a_training_goes_on_after_a_kill_at_any_event(
    shards: Path, site: Path, tmp_path: Path, left_alone: Path, first: int
):
    killed = tmp_path / "killed"
    for number in range(first, EVENTS_OF_A_START + 1, PARTS):
        words = ["train.main", *arguments(shards, killed, *MORE)]
        assert end(words, site, killed, number, KILL_WORKERS="0") == -signal.SIGKILL, number
        TALLY["kills"] += 1
        assert end(words, site, killed, 0) == 0, number
        assert logged_losses(killed) == logged_losses(left_alone), number
        assert same_weights(killed, left_alone), number
        shutil.rmtree(killed)
