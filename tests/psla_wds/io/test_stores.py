"""Files and folders on a disk and in a store: one set of methods, and the same answers."""

import errno
import os
import sys
from collections.abc import Iterator
from mmap import mmap
from pathlib import Path

import fsspec
import numpy as np
import pytest

from psla_wds.errors import ConfigError, PslaError, ShardError
from psla_wds.io import stores
from psla_wds.io.columns import map_column, save_column
from psla_wds.io.locations import Location, parse_location, split_spec
from psla_wds.io.stores import at, sizes_of


@pytest.fixture(params=["disk", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Location]:
    """Where a folder may be made."""
    if request.param == "disk":
        yield tmp_path / "top"
        return
    yield parse_location("memory://top")
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("psla_wds.io.remote.RETRY_PAUSES_S", (0.0, 0.0))


def write(location: Location, content: bytes = b"12345") -> Location:
    with at(location).write() as file:
        file.write(content)
    return location


def test_a_folder_lists_files_and_folders(folder: Location):
    assert at(folder).entries() == {} and not at(folder).is_folder()
    files = [write(folder / "a.tar"), write(folder / "below" / "b")]
    write(folder / ".hidden", b"")
    assert at(folder).entries() == {"a.tar": 5, "below": None, ".hidden": 0}
    assert sorted(at(folder).names_below()) == [".hidden", "a.tar", "below/b"]
    assert at(folder).sizes(["a.tar", "gone", "below"]) == [5, None, None]
    assert at(folder).is_folder() and at(folder).size() is None
    assert not at(folder / "a.tar").is_folder() and at(folder / "a.tar").entries() == {}
    assert sizes_of([*files, folder / "gone", files[0]]) == [5, 5, None, 5]


def test_a_file_is_read_whole_and_in_parts(folder: Location):
    file = at(write(folder / "a.bin"))
    assert file.read() == b"12345" and file.view()[:] == b"12345" and file.size() == 5
    assert file.read_range(1, 3) == b"234" and file.read_range(1, 0) == b""
    with file.local_copy() as copy:
        assert copy.suffix == ".bin" and copy.read_bytes() == b"12345"
    buffer = bytearray(4)
    assert [file.read_into(start, memoryview(buffer)) for start in (0, 3)] == [4, 2]
    assert buffer == b"4534"
    file.close()
    with pytest.raises(FileNotFoundError):
        at(folder / "gone").read()
    with pytest.raises(ShardError, match=r"[Nn]o such"):
        at(folder / "gone").read_into(0, memoryview(buffer))


def test_a_file_is_whole_or_as_it_was(folder: Location):
    path = folder / "new" / "a.txt"
    for before in (None, "grüße".encode()):
        with pytest.raises(RuntimeError), at(path).write("w") as file:
            file.write("half")
            raise RuntimeError
        assert at(path).size() == (before and len(before))
        with at(path).write("w", shared=True) as file, at(path).write("w", shared=True) as other:
            other.write("another")
            file.write("grüße")
        assert at(path).read().decode() == "grüße" and list(at(path.parent).entries()) == ["a.txt"]


def test_a_folder_of_files_is_replaced_at_once(folder: Location):
    for number in range(2):
        with at(folder / "index").write_folder(last="meta") as temporary:
            (temporary / "column").write_text(str(number))
            (temporary / "meta").touch()
    with pytest.raises(RuntimeError), at(folder / "index").write_folder(last="meta") as temporary:
        (temporary / "column").write_text("half")
        raise RuntimeError
    assert at(folder).entries() == {"index": None}
    assert at(folder / "index").entries() == {"column": 1, "meta": 0}
    assert at(folder / "index" / "column").read() == b"1"


def test_files_are_deleted_if_they_are_there(folder: Location):
    write(folder / "a")
    for _ in range(2):
        at(folder / "a").remove()
        at(folder).sweep()
        assert at(folder / "a").size() is None


def test_a_disk_lists_links_and_loses_what_was_killed(tmp_path: Path):
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "link.tar").symlink_to(write(tmp_path / "a.tar"))
    (tmp_path / "a.tar.1234.tmp").touch()
    at(tmp_path).sweep()
    assert at(tmp_path).entries() == {"a.tar": 5, "link.tar": 5}


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refused(_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "scandir", refused)
    for listing in (at(tmp_path).entries, lambda: list(at(tmp_path).names_below())):
        with pytest.raises(ConfigError, match=f"Permission denied\n.*{tmp_path.name}"):
            listing()


@pytest.mark.parametrize("column", [np.arange(6), np.ones((3, 2), order="F"), np.zeros(0)])
def test_a_column_is_mapped_as_it_was_saved(folder: Location, column: np.ndarray):
    with at(folder / "a.npy").write() as file:
        np.save(file, column)
    mapped = map_column(folder / "a.npy", column.dtype.type, ndim=column.ndim)
    assert np.array_equal(mapped, column) and not mapped.flags.writeable
    with pytest.raises(ValueError, match="dimensions"):
        map_column(folder / "a.npy", np.float32, ndim=column.ndim)


def test_a_column_emptied_in_place_kills_nobody(tmp_path: Path):
    """A mapped one would: its reader dies of SIGBUS, without a message."""
    np.save(tmp_path / "a.npy", np.arange(2**20))
    column = map_column(tmp_path / "a.npy", np.int64)
    os.truncate(tmp_path / "a.npy", 0)
    assert column.sum() == 2**19 * (2**20 - 1)


def test_a_large_column_is_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stores, "MAPPED_BYTES", 100)
    np.save(tmp_path / "a.npy", np.arange(6))
    assert isinstance(map_column(tmp_path / "a.npy", np.int64).base.base.obj, mmap)


@pytest.mark.parametrize("column", [np.arange(6), np.arange(6)[::2], np.zeros(0, np.uint8)])
def test_a_column_is_saved_as_numpy_does(tmp_path: Path, column: np.ndarray):
    np.save(tmp_path / "a.npy", column)
    save_column(tmp_path / "b.npy", column)
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()


@pytest.mark.parametrize("damage", ["empty", "short", "long", "garbage", "pickled", "version"])
def test_a_damaged_column_is_refused(folder: Location, tmp_path: Path, damage: str):
    np.save(tmp_path / "a.npy", np.arange(6))
    content = (tmp_path / "a.npy").read_bytes()
    np.save(tmp_path / "b.npy", np.array([object()]), allow_pickle=True)
    damaged = {
        "empty": b"",
        "short": content[:-8],
        "long": content + bytes(8),
        "garbage": content[:6] + b"garbage" * 30,
        "pickled": (tmp_path / "b.npy").read_bytes(),
        "version": content[:6] + b"\2\0" + content[8:],
    }
    write(folder / "a.npy", damaged[damage])
    with pytest.raises(ValueError, match=r"a\.npy|empty"):
        map_column(folder / "a.npy", np.int64)


def test_a_file_behind_a_url_may_not_be_larger_than_expected():
    column = parse_location("memory://top/a.npy")
    with at(column).write() as file:
        np.save(file, np.arange(6))
    with pytest.raises(ValueError, match="has 176 bytes; at most 100 are read"):
        map_column(column, np.int64, max_bytes=100)


@pytest.mark.parametrize(
    ("spec", "folder", "splits"),
    [
        ("shards", "shards", None),
        ("shards:train,eval", "shards", ["train", "eval"]),
        ("s3://bucket/shards", "s3://bucket/shards", None),
        ("memory://shards:train", "memory://shards", ["train"]),
        ("http://host:80", "http://host:80", None),
        ("http://host:80/shards", "http://host:80/shards", None),
        ("http://host:80/shards:1", "http://host:80/shards", ["1"]),
        ("file:///some/shards:train", "/some/shards", ["train"]),
    ],
)
def test_splits_stand_behind_the_last_colon(spec: str, folder: str, splits: list[str] | None):
    location, found = split_spec(spec)
    assert str(location).rstrip("/") == folder and found == splits


def test_urls_that_cannot_be_used_are_reported(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ConfigError, match="kind of URL is not read"):
        parse_location("nothing://bucket/shards")
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(PslaError, match="pip install gcsfs"):
        parse_location("gs://bucket/shards")


@pytest.mark.parametrize(
    "text",
    [
        *("zip://x", "simplecache::http://127.0.0.1:9/x", "ftp://127.0.0.1:9/x", "reference://x"),
        *("github://a:b@c/x", "http://[::1/x", "hdfs://127.0.0.1:9/x"),
    ],
)
def test_urls_of_other_kinds_are_three_lines(text: str):
    with pytest.raises(ConfigError, match=r"where: (.|\n)*fix: "):
        parse_location(text)
