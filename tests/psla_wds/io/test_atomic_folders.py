"""Folders that several processes write at once: each result is whole, and one wins."""

from pathlib import Path

import pytest

from psla_wds.errors import PslaError
from psla_wds.io.atomic_files import atomic_folder


def test_the_first_that_ends_wins_whole(tmp_path: Path):
    taken = pytest.raises(PslaError, match="another process has written this folder")
    with taken, atomic_folder(tmp_path / "out") as slow:
        (slow / "slow").touch()
        with atomic_folder(tmp_path / "out") as fast:
            (fast / "fast").touch()
        assert [path.name for path in slow.iterdir()] == ["slow"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["fast"]


def test_what_a_killed_one_left_is_deleted_and_nothing_else(tmp_path: Path):
    for name in ("out.0badf00d.tmp", "out.txt", "other.0badf00d.tmp"):
        (tmp_path / name).mkdir()
    with atomic_folder(tmp_path / "out"):
        assert not (tmp_path / "out.0badf00d.tmp").exists()
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["other.0badf00d.tmp", "out", "out.txt"]
