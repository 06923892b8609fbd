"""Every command explains itself, and the documents tell the truth about them."""

import ast
import dataclasses
import io
import json
import math
import pkgutil
import re
import runpy
import sys
import typing
from collections.abc import Iterator
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path

import pytest
from conftest import run

from benchmarks.tables import RESULTS, documents, with_tables
from psla_wds.__main__ import main
from psla_wds.commands import MODULES, source_of
from psla_wds.config import Within
from sharding.build import SOURCES
from train.recipes import DEMO, RECIPES

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = [
    f"benchmarks.{path.stem}"
    for path in sorted((ROOT / "benchmarks").glob("*.py"))
    if 'if __name__ == "__main__":' in path.read_text()
]
WORDS = [
    *((name,) for name in MODULES),
    *(("build", source) for source in SOURCES),
    *(("train", recipe) for recipe in RECIPES),
]
"""Beginnings of commands that have a help of their own."""


def help_of(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, columns: int) -> str:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys, "argv", ["psla-wds", *words, "--help"])
    shown = io.StringIO()
    with redirect_stdout(shown), pytest.raises(SystemExit) as end:
        main()  # in this process: importing torch takes seconds
    assert end.value.code == 0
    return shown.getvalue()


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_help_reads_well(words: tuple[str, ...], columns: int, monkeypatch: pytest.MonkeyPatch):
    text = help_of(words, monkeypatch, columns)
    assert text.startswith(f"usage: psla-wds {' '.join(words)} ")
    assert not re.search(r"\{None\}|default: (None|False)?\)|--no-dry-run", text)
    lines = text.splitlines()
    assert max(len(line) for line in lines if not line.startswith("    psla-wds")) <= columns
    if len(words) == 1:
        documented = ast.get_docstring(
            ast.parse(source_of(MODULES[words[0]]).read_text()), clean=False
        )
        examples = re.findall(
            rf"^ *psla-wds {words[0]} .*(?:[A-Z]{{3}}|--).*$", documented, re.MULTILINE
        )
        assert examples and {*examples} <= {*lines}  # each on a line of its own


@pytest.mark.parametrize("module", [*MODULES.values(), *BENCHMARKS])
def test_help_says_what_a_command_does(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    for name in (module, f"{module}.__main__"):  # other tests may have imported it
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(SystemExit) as end:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    first_line = ast.get_docstring(ast.parse(source_of(module).read_text())).splitlines()[0]
    shown = capsys.readouterr().out
    assert end.value.code == 0 and first_line in " ".join(shown.split())
    assert shown.startswith(f"usage: python -m {module} ")


def test_every_option_has_a_text(monkeypatch: pytest.MonkeyPatch):
    """More than whether it is required, and its default."""
    silent = []
    for words in WORDS:
        text = help_of(words, monkeypatch, 100).partition("\n\n")[2]  # below the usage
        entries = re.split(r"\n(?=  ?\S|\n)", text)
        for entry in (entry for entry in entries if re.match("  [-[A-Z]", entry)):
            name, *text = re.split(r"\s{2,}", entry.strip(), maxsplit=1)
            if not re.sub(r"\((required|repeatable|default)[^)]*\)", "", "".join(text)).strip():
                silent.append((*words, name))
    assert not silent


def settings_types() -> Iterator[type]:
    """Arguments of all commands, and configurations."""
    for package in ("psla_wds", "sharding", "train", "eval", "benchmarks"):
        for found in pkgutil.walk_packages([str(ROOT / package)], f"{package}."):
            module = import_module(found.name)
            yield from (
                kind
                for name, kind in vars(module).items()
                if name.endswith(("Args", "Config", "Options", "Source"))
                and dataclasses.is_dataclass(kind)
                and kind.__module__ == module.__name__
            )


def is_number(hint: object) -> bool:
    """Whether values of this type are numbers, or have numbers in them."""
    return hint in (int, float) or any(map(is_number, typing.get_args(hint)))


def test_every_number_among_the_settings_has_bounds():
    unbounded, num_settings = [], 0
    for kind in settings_types():
        for name, hint in typing.get_type_hints(kind, include_extras=True).items():
            ranges = [mark for mark in typing.get_args(hint) if isinstance(mark, Within)]
            num_settings += is_number(hint)
            if is_number(hint) and not any(math.isfinite(r.high - r.low) for r in ranges):
                unbounded.append(f"{kind.__module__}.{kind.__name__}.{name}")
    assert num_settings > 80 and not unbounded


def planned_demo(*settings: str) -> list[str]:
    """The commands that `make demo` would run, without running them."""
    command = ["make", "-n", "--no-print-directory", "demo", f"PYTHON={sys.executable}"]
    command += ["PROCESSES=2", *settings]  # else a process imports torch to count GPUs
    return run(command, cwd=ROOT).stdout.splitlines()


def test_the_page_has_the_flags_to_go_on_from_a_demo():
    (line,) = re.findall("^SMALLER := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    page = " ".join((ROOT / "docs" / "own_data.md").read_text().split())
    given = dict(re.findall(r"(--\S+) (\S+)", line)) | {"--model.head": DEMO.model.head}
    assert len(given) == 4 and all(f"{name} {value}" in page for name, value in given.items())


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
    named = set(re.findall(r"(?:^ +|`|-m )psla[-_]wds ([a-z]\w*)", text, re.MULTILINE))
    assert named == set(MODULES)
    started = set(re.findall(r"python -m ((?:sharding|train|eval|benchmarks)\.\w+)", text))
    assert started <= {*MODULES.values(), *BENCHMARKS} and "sharding.build" in started
    assert "train/main.py audioset-balanced" in text
    commands = {
        path for folder in ("sharding", "eval") for path in (ROOT / folder).glob("[a-z]*.py")
    }
    assert commands <= {source_of(module) for module in MODULES.values()}


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
