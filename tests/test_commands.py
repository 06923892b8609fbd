"""Every command explains itself, and the documents tell the truth about them."""

import ast
import json
import re
import runpy
import sys
from pathlib import Path

import pytest
from conftest import run

from benchmarks.tables import RESULTS, documents, with_tables

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("sharding", "train", "eval", "benchmarks")


def commands() -> list[str]:
    """Modules that are started with python -m."""
    return [
        f"{path.parent.name}.{path.stem}"
        for package in PACKAGES
        for path in sorted((ROOT / package).glob("*.py"))
        if 'if __name__ == "__main__":' in path.read_text()
    ] + ["train.study"]


@pytest.mark.parametrize("command", commands())
def test_help_says_what_a_command_does(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "argv", [command, "--help"])
    for module in (command, f"{command}.__main__"):  # other tests may have imported it
        monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(SystemExit) as end:  # in this process: importing torch takes seconds
        runpy.run_module(command, run_name="__main__", alter_sys=True)
    module = ROOT / f"{command.replace('.', '/')}.py"
    if not module.exists():
        module = module.with_suffix("") / "__main__.py"
    first_line = ast.get_docstring(ast.parse(module.read_text())).splitlines()[0]
    assert end.value.code == 0
    assert first_line in " ".join(capsys.readouterr().out.split())


def planned_demo(*settings: str) -> list[str]:
    """The commands that `make demo` would run, without running them."""
    command = ["make", "-n", "--no-print-directory", "demo", f"PYTHON={sys.executable}"]
    command += ["PROCESSES=2", *settings]  # else a process imports torch to count GPUs
    return run(command, cwd=ROOT).stdout.splitlines()


def test_the_demo_of_ones_own_clips_builds_them_first(tmp_path: Path):
    (tmp_path / "mine").mkdir()
    folder = planned_demo(f"DATA={tmp_path}/mine")
    (tmp_path / "clips.csv").touch()
    manifest = planned_demo(f"DATA={tmp_path}/clips.csv", "CLASS_LABELS=classes.csv")
    assert f"sharding.build folder '{tmp_path}/mine'" in folder[0]
    assert (
        f"sharding.build manifest '{tmp_path}/clips.csv' --class-labels 'classes.csv'"
        in manifest[0]
    )
    for commands, name in ((folder, "demo-mine"), (manifest, "demo-clips")):
        steps = ["sharding.build", "sharding.info", "train/main.py demo"]
        steps += [f"eval.predict runs/{name} ", "eval.score"]
        for step, line in zip(steps, commands, strict=True):
            assert step in line and name in line
        assert "--fit minutes" in commands[2]


def test_commands_in_the_documents_exist():
    text = "".join(path.read_text() for path in documents(ROOT))
    named = set(re.findall(r"python -m ((?:sharding|train|eval|benchmarks)\.\w+)", text))
    assert named and named <= set(commands())
    ours = {name for name in commands() if not name.startswith("benchmarks.")}
    assert ours - named == {"train.main"} and "torchrun train/main.py" in text


def test_tree_in_the_readme_names_every_folder():
    tree = (ROOT / "README.md").read_text().split("## Where things are")[1].split("##")[0]
    packages = ("psla_wds", "sharding", "train", "eval")
    folders = {p.parent.name for name in packages for p in (ROOT / name).rglob("__init__.py")}
    assert folders <= set(re.findall(r"(\w+)/", tree))


def test_tables_in_the_documents_are_those_of_the_results():
    for path in documents(ROOT):
        assert path.read_text() == with_tables(path.read_text(), RESULTS), path.name


def test_results_say_what_was_measured_and_on_what():
    for path in RESULTS.glob("bench_*.json"):
        content = json.loads(path.read_text())
        assert content["machine"]["commit"] and content["machine"]["versions"]["torch"]
        assert content["conditions"]["repeats"] >= 5
