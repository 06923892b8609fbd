"""What only a GPU can show: tests on it, then the benchmarks, each within a bound of time.

    python -m benchmarks.gpu_check [--parts tests features] [--dry-run]

In this order: tests/gpu (the graph's numbers, training), the front end, the step with data on the
device and with the loader, the loader. A part that fails does not stop those after it; which failed
is said at the end. Results are gpu_*.json; those of the CPU stay as they are. All parts take up to
20 minutes. Without a GPU it is an error, not a pass.
"""

import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args
from xml.etree import ElementTree

import torch

from benchmarks.harness import RESULTS, machine, write
from psla_wds import cli
from psla_wds.errors import ConfigError, PslaError

ROOT = Path(__file__).resolve().parents[1]

Name = Literal["tests", "features", "step", "loader"]


@dataclass(frozen=True)
class Args:
    parts: tuple[Name, ...] = get_args(Name)
    """Which are run."""
    dry_run: bool = False
    """List the commands, and run none."""
    clips: int = 1000
    """Clips of ten seconds for the benchmarks."""
    corpus: Path = Path("data/bench")
    """Folder of the clips; made if it is not there."""
    output: Path = RESULTS
    """Folder for the results."""


@dataclass(frozen=True)
class Part:
    """One command, and how long it may take."""

    name: str
    words: list[str]
    """Module and arguments."""
    bound_s: float


@dataclass(frozen=True)
class Outcome:
    """How a part ended."""

    name: str
    problem: str
    """Empty where there was none."""
    took_s: float


def parts_of(args: Args) -> list[Part]:
    """The parts that were asked for."""
    output = args.output.resolve()
    data = [f"--clips={args.clips}", f"--corpus={args.corpus}"]

    def benchmark(name: str, bound_s: float, *more: str) -> Part:
        result = f"--output={output / f'gpu_{name}.json'}"
        return Part(name, [f"benchmarks.bench_{name}", *data, *more, result], bound_s)

    report = f"--junitxml={junit_report(output)}"
    every = [
        Part("tests", ["pytest", "tests/gpu", "--require-gpu", "-rfE", report], 300),
        benchmark("features", 240, "--batch-size=100"),
        benchmark("step", 540, "--batch-size=100", "--seconds=2"),
        benchmark("loader", 180, "--batch-size=100", "--levels", "features"),
    ]
    return [part for part in every if part.name in args.parts]


def junit_report(output: Path) -> Path:
    return output / "gpu_tests.xml"


def run_part(part: Part) -> Outcome:
    """Its output goes to stderr as it comes; past its bound all its processes are ended."""
    started = time.monotonic()
    command = [sys.executable, "-m", *part.words]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=sys.stderr.fileno(), start_new_session=True
    )
    try:
        status = process.wait(part.bound_s)
        problem = f"ended with status {status}" if status else ""
    except subprocess.TimeoutExpired:
        problem = f"took longer than {part.bound_s:g} s"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return Outcome(part.name, problem, time.monotonic() - started)


def count_tests(report: Path) -> dict[str, Any]:
    """Tests that ran, and the names of those that did not pass; nothing if pytest did not end."""
    if not report.exists():
        return {}
    cases = list(ElementTree.parse(report).iter("testcase"))
    failed = [c.get("name") for c in cases if {"failure", "error"} & {part.tag for part in c}]
    return {"ran": len(cases), "failed": failed}


def main() -> None:
    args = cli.parse(Args, __doc__, prog="python -m benchmarks.gpu_check")
    parts = parts_of(args)
    if args.dry_run:
        for part in parts:
            print(f"{part.name}, at most {part.bound_s:g} s: python -m {' '.join(part.words)}")
        print("wrote nothing; next: python -m benchmarks.gpu_check")
        return
    if not torch.cuda.is_available():
        raise ConfigError("there is no GPU", where="gpu-check", fix="run it on a GPU machine")
    check(parts, args.output)


def check(parts: list[Part], output: Path) -> None:
    """Run all parts, write how they ended, and raise if one failed."""
    report = junit_report(output)
    report.unlink(missing_ok=True)
    outcomes = []
    for number, part in enumerate(parts, start=1):
        print(f"part {number} of {len(parts)}: {part.name}", file=sys.stderr, flush=True)
        outcomes.append(run_part(part))
    content = {
        "machine": machine(),
        "parts": [asdict(outcome) for outcome in outcomes],
        "tests": count_tests(report),
    }
    report.unlink(missing_ok=True)
    write(content, output / "gpu_check.json")
    failed = [f"{outcome.name} {outcome.problem}" for outcome in outcomes if outcome.problem]
    if failed:
        raise PslaError(
            f"{len(failed)} of {len(outcomes)} parts failed: {'; '.join(failed)}",
            where=output / "gpu_check.json",
            fix="read what it wrote above, then run --parts with those that failed",
        )


if __name__ == "__main__":
    cli.run(main)
