"""Parts run one after another, each within its bound, whatever becomes of those before."""

import json
import sys
import time
from pathlib import Path

import pytest
from conftest import run_command

from benchmarks.gpu_check import Args, Part, check, count_tests, junit_report, parts_of
from psla_wds.errors import PslaError


@pytest.fixture
def part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A part that runs some lines of Python."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def make(name: str, lines: str, bound_s: float = 60) -> Part:
        (tmp_path / f"part_{name}.py").write_text(lines)
        return Part(name, [f"part_{name}"], bound_s)

    return make


def test_those_after_a_failure_are_run_and_the_failed_ones_named(part, tmp_path: Path):
    left = tmp_path / "left"
    parts = [
        part("breaks", "raise SystemExit(3)"),
        part("hangs", "import time; time.sleep(60)", bound_s=0.5),
        part("works", f"open({str(left)!r}, 'w')"),
    ]
    started = time.monotonic()
    with pytest.raises(PslaError) as caught:
        check(parts, tmp_path)
    assert time.monotonic() - started < 30
    message = str(caught.value)
    assert "2 of 3 parts failed: breaks ended with status 3; hangs took longer than" in message
    assert left.exists()
    outcomes = json.loads((tmp_path / "gpu_check.json").read_text())["parts"]
    assert [(o["name"], bool(o["problem"])) for o in outcomes] == [
        ("breaks", True),
        ("hangs", True),
        ("works", False),
    ]


def test_what_a_part_started_ends_with_it(part, tmp_path: Path):
    alive = tmp_path / "alive"
    child = f"import time; time.sleep(2); open({str(alive)!r}, 'w')"
    lines = (
        "import subprocess, sys, time\n"
        f"subprocess.Popen([sys.executable, '-c', {child!r}])\ntime.sleep(60)"
    )
    with pytest.raises(PslaError, match="took longer"):
        check([part("parent", lines, bound_s=1)], tmp_path)
    time.sleep(2.5)
    assert not alive.exists()


def test_failed_tests_stand_in_the_record_by_name(tmp_path: Path):
    (tmp_path / "test_some.py").write_text("def test_a(): pass\ndef test_b(): assert 0\n")
    report = junit_report(tmp_path)
    words = ["pytest", str(tmp_path), f"--rootdir={tmp_path}", f"--junitxml={report}"]
    with pytest.raises(PslaError):
        check([Part("tests", words, 60)], tmp_path)
    record = json.loads((tmp_path / "gpu_check.json").read_text())
    assert record["tests"] == {"ran": 2, "failed": ["test_b"]}
    assert count_tests(report) == {}


def test_a_dry_run_lists_commands_that_exist():
    done = run_command("benchmarks.gpu_check", "--dry-run")
    lines = done.stdout.splitlines()
    assert [line.split(",")[0] for line in lines[:-1]] == ["tests", "features", "step", "loader"]
    assert lines[-1].startswith("wrote nothing; next: ")


@pytest.mark.parametrize("name", ["features", "step", "loader"])
def test_the_arguments_of_a_benchmark_are_its_own(name: str, monkeypatch: pytest.MonkeyPatch):
    (part,) = parts_of(Args(parts=(name,)))
    module = __import__(part.words[0], fromlist=["Args"])
    measured = []
    monkeypatch.setattr(module, "measure", lambda args: measured.append(args) or sys.exit(0))
    monkeypatch.setattr(sys, "argv", part.words)
    with pytest.raises(SystemExit):
        module.main()
    assert measured[0].clips == 1000 and measured[0].output.name == f"gpu_{name}.json"
