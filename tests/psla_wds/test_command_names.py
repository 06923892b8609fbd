"""The command psla-wds: what it lists, how it starts, and whose packages it takes."""

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import run

from psla_wds.commands import GROUPS, MODULES, ROOT

SHADOW = "raise SystemExit('this is not psla-wds')"


def started(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return run([sys.executable, *words], check=False, cwd=cwd)


def test_the_list_has_every_command_in_its_group(tmp_path: Path):
    done = started("-m", "psla_wds", "--help", cwd=tmp_path)
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and max(map(len, lines)) <= 80
    assert [line[:-1] for line in lines if line.endswith(":")] == list(GROUPS)
    assert [line.split()[0] for line in lines if line.startswith("  ")] == list(MODULES)
    assert all(len(line.split(maxsplit=1)) == 2 for line in lines if line.startswith("  "))


def test_the_list_needs_no_other_packages(tmp_path: Path):
    program = (
        "import sys; sys.argv[1:] = ['--help']; from psla_wds.__main__ import main; main(); "
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    loaded = set(started("-c", program, cwd=tmp_path).stdout.splitlines()[-1].split())
    assert "psla_wds" in loaded
    assert not loaded & {"numpy", "torch", "tyro", "train", "eval", "sharding"}


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("trian", "train"), ("tags", "tag"), ("x", "--help"), ("version", "--version")],
)
def test_a_misspelt_command_names_the_nearest(typed: str, meant: str, tmp_path: Path):
    done = started("-m", "psla_wds", typed, cwd=tmp_path)
    assert done.returncode == 2 and f"no command {typed}" in done.stderr
    assert f"psla-wds {meant}" in done.stderr and len(done.stderr.splitlines()) == 3


@pytest.mark.parametrize(
    ("command", "usage"),
    [
        (("-m", "psla_wds", "train"), "psla-wds train"),
        (("-m", "train.main"), "python -m train.main"),
        ((str(ROOT / "train" / "main.py"),), "python train/main.py"),
    ],
    ids=" ".join,
)
def test_usage_names_the_command_as_it_was_typed(
    command: tuple[str, ...], usage: str, tmp_path: Path
):
    assert f"usage: {usage} RECIPE" in started(*command, "--help", cwd=tmp_path).stdout
    assert f"where: {usage}\n" in started(*command, cwd=tmp_path).stderr


@pytest.fixture
def shadowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a train.py of its own."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "train.py").write_text(SHADOW)
    return tmp_path


def test_files_in_the_current_folder_do_not_run(shadowed: Path):
    done = started("-m", "psla_wds", "train", "demo", "--dry-run", cwd=shadowed)
    assert done.returncode == 2 and "not psla-wds" not in done.stderr
    assert "index" in done.stderr


def test_a_file_in_place_of_a_package_is_named(
    shadowed: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
):
    others = tmp_path_factory.mktemp("others")
    (others / "train").mkdir()
    (others / "train" / "__init__.py").write_text(SHADOW)
    by_python = started("-m", "eval.score", "--help", cwd=shadowed)
    monkeypatch.setenv("PYTHONPATH", f"{others}:{ROOT}")
    by_path = started("-m", "psla_wds", "score", "--help", cwd=shadowed)
    for done, where in (
        (by_python, shadowed / "train.py"),
        (by_path, others / "train/__init__.py"),
    ):
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 3
        assert f"where: {where}" in done.stderr and "fix:   " in done.stderr
