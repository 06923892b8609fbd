"""Score folders: one process begins, and with room on the disk for all scores."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from psla_wds.errors import PslaError
from psla_wds.evaluation.score_folder import ScoreFolder
from psla_wds.labels.class_list import ClassList
from psla_wds.shards.clip_ids import ClipIds

CLASSES = ClassList(("/t/0", "/t/1"), ("low", "high"))


def ids(number: int) -> ClipIds:
    return ClipIds.of([f"clip {row}" for row in range(number)])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def test_a_disk_without_room_for_all_scores_is_refused_at_once(small_disk: Path):
    mids = tuple(f"/t/{number}" for number in range(40))
    many = ClassList(mids, mids)
    with pytest.raises(PslaError, match="No space left on device"):
        ScoreFolder(small_disk / "scores", many).begin(ids(500))
    ScoreFolder(small_disk / "scores", many).begin(ids(50))


def test_of_two_that_write_one_folder_the_first_wins(tmp_path: Path):
    first = ScoreFolder(tmp_path / "scores", CLASSES)
    first.begin(ids(3))
    with pytest.raises(PslaError, match="another process writes these scores"):
        ScoreFolder(tmp_path / "scores", CLASSES).begin(ids(3))
    first.open("targets")[:] = 1
    first.finish()
    with pytest.raises(PslaError, match="exists already"):
        ScoreFolder(tmp_path / "scores", CLASSES).begin(ids(3))


def test_a_folder_of_a_killed_process_is_begun_anew(tmp_path: Path):
    ScoreFolder(tmp_path / "scores", CLASSES).begin(ids(5))  # its lock goes with it
    again = ScoreFolder(tmp_path / "scores", CLASSES)
    again.begin(ids(3))
    again.finish()
    assert not (tmp_path / "scores.tmp").exists() and (tmp_path / "scores").is_dir()
