import errno
import os
from pathlib import Path

import pytest

from psla_wds.errors import ConfigError
from psla_wds.io.folders import entries, file_size, read_range, remove, remove_folder


def test_a_folder_lists_files_with_their_bytes_and_folders_without(tmp_path: Path):
    (tmp_path / "a.tar").write_bytes(b"12345")
    (tmp_path / ".hidden").touch()
    (tmp_path / "below").mkdir()
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "link.tar").symlink_to(tmp_path / "a.tar")
    assert entries(tmp_path) == {"a.tar": 5, ".hidden": 0, "below": None, "link.tar": 5}
    assert entries(tmp_path / "nowhere") == entries(tmp_path / "a.tar") == {}
    assert file_size(tmp_path / "a.tar") == 5 and file_size(tmp_path / "below") is None
    assert read_range(tmp_path / "a.tar", 3, 9) == b"45"


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refused(_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(ConfigError, match=r"cannot be read: Permission denied\n.*" + tmp_path.name):
        entries(tmp_path)


def test_what_is_not_there_is_deleted_without_complaint(tmp_path: Path):
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "file").touch()
    for _ in range(2):
        remove(tmp_path / "file")
        remove_folder(tmp_path / "below")
    assert not list(tmp_path.iterdir())
