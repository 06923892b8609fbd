"""The end of a build is compared with its plan: no clip is lost or doubled without a word."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builds import build, content
from conftest import assert_user_error, run_command

from psla_wds.shards import merge
from psla_wds.shards.tar import read_sidecar, sidecar_path
from sharding.packing import pack_all, plan

pytestmark = pytest.mark.usefixtures("one_process")


@pytest.fixture
def copy(shards: Path, tmp_path: Path) -> Path:
    return shutil.copytree(shards, tmp_path / "shards")


@pytest.fixture
def other(corpus: Path, tmp_path: Path) -> Path:
    """Shards of the same clips in another order."""
    build(corpus, tmp_path / "other", "--seed=1")
    return tmp_path / "other"


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def take_shard(copy: Path, other: Path, name: str = "shard-000001") -> None:
    for suffix in (".tar", ".sidecar.json"):
        shutil.copy(other / (name + suffix), copy / (name + suffix))


def test_of_two_builds_at_once_exactly_one_begins(
    corpus: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Another build makes its plan after this one found the folder empty."""
    folder, untouched, asked = tmp_path / "both", plan._is_untouched, []

    def meanwhile(*arguments: Any) -> bool:
        is_untouched = untouched(*arguments)
        asked.append(is_untouched)
        if len(asked) == 1:
            build(corpus, folder)
        return is_untouched

    monkeypatch.setattr(plan, "_is_untouched", meanwhile)
    done = build(corpus, folder, "--seed=1", check=False)
    assert asked == [True, True]
    assert_user_error(done, "the output folder holds another build")
    assert content(folder) == content(shards)


def test_a_plan_is_written_where_disks_have_no_links(
    corpus: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    build(corpus, tmp_path / "out")
    assert content(tmp_path / "out") == content(shards)


def test_a_shard_of_another_build_is_not_published(
    corpus: Path, shards: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As a worker leaves it that outlives its build; the next run makes it again."""
    folder, finished = tmp_path / "out", pack_all._finished

    def late(*arguments: Any) -> Any:
        yield from finished(*arguments)
        take_shard(folder, other)

    with monkeypatch.context() as patch:
        patch.setattr(pack_all, "_finished", late)
        done = build(corpus, folder, check=False)
    assert_user_error(done, "this is not the shard that the build made", "shard-000001.tar")
    assert not (folder / "index" / "meta.json").exists()
    build(corpus, folder)
    assert content(folder) == content(shards)


def test_a_foreign_shard_is_found_without_the_source(copy: Path, other: Path):
    take_shard(copy, other)
    for command in ("index", "check"):
        done = run_command(f"sharding.{command}", copy, check=False)
        assert_user_error(done, "are not those that build.json was made for")
    copied = copy / "mine.tar"
    shutil.copy(copy / "shard-000000.tar", copied)
    shutil.copy(sidecar_path(copy / "shard-000000.tar"), sidecar_path(copied))
    edit(sidecar_path(copied), shard="mine.tar")
    done = run_command("sharding.index", copy, check=False)
    assert_user_error(done, "the tar is not one of this build", "mine.tar")


def test_a_shard_beyond_the_plan_has_only_clips_it_refused(copy: Path, other: Path):
    """A shard of a retry follows the others; another build's clips there would be doubles."""
    tar = copy / "shard-000004.tar"
    shutil.copy(other / "shard-000000.tar", tar)
    shutil.copy(other / "shard-000000.sidecar.json", sidecar_path(tar))
    edit(sidecar_path(tar), shard=tar.name)
    done = run_command("sharding.index", copy, check=False)
    assert_user_error(done, "a clip that this build never refused", tar.name)


@pytest.mark.parametrize("source", ["folder", "tars"])
def test_shards_are_not_written_into_their_source(
    tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch
):
    """Also by another way to the folder; one beside it, with a longer name, is no part of it."""
    folder = tmp_path / "clips"
    (folder / "a").mkdir(parents=True)
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.setattr(Path, "open", lambda *_: pytest.fail("something is read"))
    for output in (folder / "shards", tmp_path / "link" / "a" / "shards", folder):
        done = run_command("sharding.build", source, folder, f"--output={output}", check=False)
        assert_user_error(done, "the output is in the folder of the source", str(output))
    assert [path.name for path in folder.rglob("*")] == ["a"]
    monkeypatch.undo()
    beside = f"--output={tmp_path / 'clips-shards'}"
    done = run_command("sharding.build", source, folder, beside, check=False)
    assert "in the folder of the source" not in done.stderr


def rename_a_class(folder: Path) -> None:
    path = folder / "class_labels_indices.csv"
    path.write_text(path.read_text().replace("noise", "hiss"))


def lose_a_class(folder: Path) -> None:
    path = folder / "class_labels_indices.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


@pytest.mark.parametrize("change", [rename_a_class, lose_a_class])
def test_another_class_list_in_the_output_is_noticed(
    corpus: Path, copy: Path, change: Callable[[Path], None]
):
    change(copy)
    done = build(corpus, copy, check=False)
    assert_user_error(done, "packed with another class list", "class_labels_indices.csv")
    assert_user_error(run_command("sharding.index", copy, check=False))
    done = run_command("sharding.check", copy, check=False)
    assert_user_error(done, "the first of 2 problems")
    assert "build.json" in done.stdout


@pytest.mark.parametrize(
    "changes",
    [
        {"num_shards": "x"}, {"num_shards": None}, {"num_shards": 1.5}, {"num_shards": 2**32},
        {"num_shards": 3}, {"num_shards": -1}, {"num_clips": 2**40, "num_shards": 2**36},
        {"num_clips": 47}, {"layout": 5}, {"layout": {}}, {"encoding": []}, {"fingerprint": 1},
        {"layout": {"clips_per_shard": 0, "shard_mib": None, "refuse_duplicates": False}},
    ],
    ids=lambda changes: " ".join(f"{name} {value}" for name, value in changes.items())[:30],
)  # fmt: skip
def test_a_changed_plan_is_refused(copy: Path, corpus: Path, changes: dict[str, Any]):
    edit(copy / "build.json", **changes)
    assert_user_error(run_command("sharding.index", copy, check=False), "build.json")
    assert_user_error(run_command("sharding.check", copy, check=False), "build.json")
    assert_user_error(build(corpus, copy, "--shard-mib=1", check=False))


@pytest.mark.parametrize(
    "name", ["pipe:touch x.tar", "a\nb.tar", "\x1b[2J.tar", "x" * 600 + ".tar"]
)
def test_the_shard_that_a_sidecar_names_is_its_tar(copy: Path, name: str):
    sidecar = sidecar_path(copy / "shard-000002.tar")
    edit(sidecar, shard=name)
    done = run_command("sharding.index", copy, check=False)
    assert_user_error(done, "the sidecar is that of another shard", "shard-000002.tar")
    assert "\x1b" not in done.stderr and len(done.stderr[done.stderr.index("error") :]) < 600


def test_ids_are_unique_in_the_index_and_in_check(copy: Path, monkeypatch: pytest.MonkeyPatch):
    """Also where no plan is left that would show it, and in an index of earlier versions."""
    (copy / "build.json").unlink()
    first, second = (copy / f"shard-00000{n}.tar" for n in (0, 1))
    ids = [*read_sidecar(second).clips.clip_id]
    sidecar = json.loads(sidecar_path(first).read_text())
    sidecar["clips"]["clip_id"][0] = ids[3]
    sidecar_path(first).write_text(json.dumps(sidecar))
    done = run_command("sharding.index", copy, check=False)
    assert_user_error(done, f"1 clips are in the shards twice, such as '{ids[3]}'", second.name)
    monkeypatch.setattr(merge._Table, "check_ids", lambda *_: None)
    run_command("sharding.index", copy)
    done = run_command("sharding.check", copy, check=False)
    assert_user_error(done, f"1 clips are there twice, such as '{ids[3]}'")
