"""What only a GPU can show: tests/gpu, then the two benchmarks; one JSON for the record.

    python -m benchmarks.gpu_check

Takes less than eight minutes. Without a GPU it is an error, not a pass.
"""

import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import bench_features, bench_loader
from benchmarks.harness import RESULTS, machine, show, write
from psla_wds import cli
from psla_wds.errors import ConfigError, PslaError

ROOT = Path(__file__).resolve().parents[1]
TESTS_TIMEOUT_S = 240


@dataclass(frozen=True)
class Args:
    clips: int = 1000
    """Clips of ten seconds for the benchmarks."""
    output: Path = RESULTS / "gpu_check.json"


def check(args: Args) -> dict[str, Any]:
    """Run everything; the record holds the outcome of the tests whether they pass or not."""
    if not torch.cuda.is_available():
        raise ConfigError("there is no GPU", where="gpu-check", fix="run it on a GPU machine")
    outcome = run_tests()
    with tempfile.TemporaryDirectory() as folder:
        features = bench_features.measure(
            bench_features.Args(clips=args.clips, batch_size=100, corpus=Path(folder))
        )
        show(features)
        loader = bench_loader.measure(
            bench_loader.Args(clips=args.clips, batch_size=100, corpus=Path(folder))
        )
        show(loader)
    return {
        "machine": machine(),
        "tests": outcome,
        "bench_features": features,
        "bench_loader": loader,
    }


def run_tests() -> dict[str, Any]:
    """Passed and failed tests of tests/gpu, with the names of those that failed."""
    command = [sys.executable, "-m", "pytest", "tests/gpu", "--require-gpu", "-rfE", "-q"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=TESTS_TIMEOUT_S, check=False
    )
    print(done.stdout[-6000:], file=sys.stderr)
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    return {"status": done.returncode, "failed": failed, "counts": _counts(done.stdout)}


def _counts(output: str) -> dict[str, int]:
    last_line = output.strip().splitlines()[-1] if output.strip() else ""
    return {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|errors?)", last_line)}


def main() -> None:
    args = cli.parse(Args, __doc__, prog="python -m benchmarks.gpu_check")
    content = check(args)
    write(content, args.output)
    if content["tests"]["status"]:
        raise PslaError(
            f"tests failed on the GPU: {', '.join(content['tests']['failed'])}",
            where=args.output,
            fix="python -m pytest tests/gpu --require-gpu",
        )


if __name__ == "__main__":
    cli.run(main)
