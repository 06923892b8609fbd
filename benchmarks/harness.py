"""One harness for every benchmark: times, reports, and records the machine."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from psla_wds.runtime.environment import environment, version

RESULTS = Path(__file__).parent / "results"
PEERS = ("webdataset", "mosaicml-streaming", "litdata")
PACKAGES = ("torch", "torchaudio", "nvidia-dali-cuda130", "numpy", "soundfile", "psla-wds", *PEERS)
MAX_SPREAD = 0.1


@dataclass(frozen=True)
class Result:
    """What one of the things compared reached."""

    name: str
    clips_per_s: float
    """Median over the repeats."""
    spread: float
    """(fastest - slowest) / median; above 0.1 the machine was busy: measure again."""
    speed_up: float
    """Over the first of the things compared."""


def compare(
    ways: dict[str, Callable[[], float]], *, warmup: int = 1, repeats: int = 5
) -> list[Result]:
    """Measure the ways in turn, round after round, so that a drift of the machine meets them all.

    A way gives its clips per second. It leaves no work pending, which would slow down the next.
    """
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in tqdm(range(warmup + repeats), desc="rounds", leave=False):
        for name, rate in ways.items():
            clips_per_s = rate()
            if round_ >= warmup:
                rates[name].append(clips_per_s)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    baseline = next(iter(medians.values()))
    return [
        Result(
            name,
            medians[name],
            (max(values) - min(values)) / medians[name],
            medians[name] / baseline,
        )
        for name, values in rates.items()
    ]


def timed(body: Callable[[], int]) -> Callable[[], float]:
    """The clips per second of a body that processes as many clips as it returns."""

    def rate() -> float:
        started = time.perf_counter()
        clips = body()
        synchronize()
        return clips / (time.perf_counter() - started)

    return rate


def synchronize() -> None:
    """Wait for the GPU, if there is one: its work is done later than it is asked for."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def record(title: str, results: list[Result], **conditions: object) -> dict[str, Any]:
    """What is written to the results folder; `conditions` say what was measured, and how."""
    return {
        "title": title,
        "conditions": conditions,
        "machine": machine(),
        "results": [asdict(result) for result in results],
    }


def show(content: dict[str, Any]) -> None:
    """Print a record as a table, with a note on what should be measured again."""
    print(content["title"])
    print(f"{'':<44}{'clips/s':>10}{'speed-up':>10}{'spread':>8}")
    for before, r in zip([{}, *content["results"]], content["results"], strict=False):
        if r.get("level") != before.get("level"):
            print(f"{r['level']}:")
        rates = f"{r['clips_per_s']:>10,.0f}{r['speed_up']:>9.2f}x{r['spread']:>8.0%}"
        print(f"{r['name']:<44}{rates}")
    for r in content["results"]:
        if r["spread"] > MAX_SPREAD:
            print(f"note: {r['name']} varied by {r['spread']:.0%}: measure again, machine idle")


def write(content: object, output: Path) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {output}; next: python -m benchmarks.tables")


def machine() -> dict[str, Any]:
    """What the numbers depend on."""
    return environment() | {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "versions": {name: version(name) for name in PACKAGES},
        "date": time.strftime("%Y-%m-%d"),
    }


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
