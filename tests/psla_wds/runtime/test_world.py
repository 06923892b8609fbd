"""What processes tell one another: two of them, for real."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import run

from psla_wds.errors import ConfigError
from psla_wds.runtime.distributed import TIMEOUT_VARIABLE, join_world

PROGRAM = """
import os, time
import numpy as np
from psla_wds import cli
from psla_wds.runtime.distributed import join_world
from psla_wds.errors import ConfigError

def fail_on_the_second(world):
    if world.rank == 1:
        raise ConfigError("no disk", where="/data", fix="mount it")
    return "fine"

def main():
    with join_world() as world:
        assert world.size == 2
        assert world.mean([float(world.rank), 3.0]) == [0.5, 3.0]
        assert world.any(world.rank == 1) and not world.any(False)
        parts = world.gather(np.full((world.rank + 1, 2), world.rank, np.float32))
        assert (parts is None) == (world.rank == 1)
        if world.is_main:
            assert [part.tolist() for part in parts] == [[[0, 0]], [[1, 1], [1, 1]]]
        assert world.together(lambda: world.rank) == world.rank
        world.agree("same", "plans")
        MISTAKE

cli.run(main)
"""


def start(folder: Path, mistake: str) -> str:
    (folder / "program.py").write_text(PROGRAM.replace("MISTAKE", mistake))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = run([*command, "--nproc-per-node=2", str(folder / "program.py")], check=False)
    assert done.returncode == 1
    return done.stderr


def test_a_mistake_that_one_rank_sees_ends_both_with_one_message(tmp_path: Path):
    stderr = start(tmp_path, "world.together(lambda: fail_on_the_second(world))")
    assert stderr.count("error: on rank 1: no disk\n  where: /data\n  fix:   mount it") == 1
    assert "AssertionError" not in stderr


def test_ranks_that_differ_end_with_what_each_has(tmp_path: Path):
    stderr = start(tmp_path, 'world.agree(f"plan {world.rank}", "plans of epoch 1")')
    assert stderr.count("error: the ranks have different plans of epoch 1") == 1
    assert "rank 0: plan 0, rank 1: plan 1" in stderr


def start_two(folder: Path, mistake: str, timeout_s: int) -> list[tuple[int, str]]:
    """Exit status and stderr of each rank; no launcher ends one for the other's failure."""
    (folder / "program.py").write_text(PROGRAM.replace("MISTAKE", mistake))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(folder / "program.py")],
            env=os.environ | world | {"RANK": str(rank), TIMEOUT_VARIABLE: str(timeout_s)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    texts = [rank.communicate(timeout=120)[1] for rank in ranks]
    return [(rank.returncode, text) for rank, text in zip(ranks, texts, strict=True)]


def test_a_rank_that_is_killed_ends_the_other_with_a_message(tmp_path: Path):
    killed = "world.rank == 1 and os.kill(os.getpid(), 9); world.gather(np.zeros(3))"
    (status, text), (killed_status, _) = start_two(tmp_path, killed, timeout_s=60)
    assert (status, killed_status) == (2, -9)
    assert "error: rank 0 has lost another of the 2 processes" in text
    assert TIMEOUT_VARIABLE in text and "Traceback" not in text


def test_a_rank_that_hangs_ends_the_other_after_the_timeout(tmp_path: Path):
    hangs = "world.rank == 1 and time.sleep(20); world.mean([1.0])"
    begun = time.monotonic()
    (status, text), _ = start_two(tmp_path, hangs, timeout_s=5)
    assert status == 2 and "error: rank 0 has lost another" in text
    assert time.monotonic() - begun < 60


def test_a_bug_keeps_its_traceback(tmp_path: Path):
    (status, text), _ = start_two(tmp_path, "raise RuntimeError('a bug')", timeout_s=60)
    assert status == 1 and "RuntimeError: a bug" in text and "Traceback" in text


@pytest.mark.parametrize("given", ["soon", "0", "-5", "nan", "inf"])
def test_a_timeout_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, given: str):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv(TIMEOUT_VARIABLE, given)
    with pytest.raises(ConfigError, match="no time to wait"), join_world():
        pass
