"""What processes tell one another: two of them, for real."""

import sys
from pathlib import Path

from conftest import run

PROGRAM = """
import numpy as np
from psla_wds import cli
from psla_wds.distributed import join_world
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
