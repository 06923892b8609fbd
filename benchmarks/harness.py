"""What all benchmarks share: ways measured in turn, facts of the machine, records."""

import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import torch
from tqdm import tqdm

from psla_wds.config import BATCH_SIZE, Within
from psla_wds.runtime.environment import environment, version

RESULTS = Path(__file__).parent / "results"
PEERS = ("webdataset", "mosaicml-streaming", "litdata", "spdl", "torchcodec")
PACKAGES = ("torch", "torchaudio", "nvidia-dali-cuda130", "numpy", "soundfile", "psla-wds", *PEERS)
WARMUP_BATCHES = 12
"""Batches before the clock starts: more than any loader here reads ahead."""

Rate = Callable[[], float]
"""Measures once, and returns clips per second."""
Open = Callable[[], AbstractContextManager[Iterator[Any]]]
"""Opens endless batches; whatever it started ends with the context."""
Row = dict[str, Any]

Clips: TypeAlias = Annotated[int, Within(1, 10**8)]
Classes: TypeAlias = Annotated[int, Within(2, 2**16)]
BatchSize: TypeAlias = Annotated[int, BATCH_SIZE]
Repeats: TypeAlias = Annotated[int, Within(1, 1000)]
Seconds: TypeAlias = Annotated[float, Within(0, 3600, without=(0,))]


@dataclass(frozen=True)
class Column:
    """A column of a record's table."""

    name: str
    key: str
    """Where a row has the value."""
    form: str = "{}"
    """Format for `str.format`; only columns of text have the default."""
    spread: str = ""
    """Where a row has the spread of this value; empty if the value does not vary."""


RATES = (
    Column("clips/s", "clips_per_s", "{:,.0f}", "spread"),
    Column("speed-up", "speed_up", "{:.2f}x", "speed_up_spread"),
    Column("spread", "spread", "{:.0%}"),
)


def compare(ways: dict[str, Rate], *, warmup: int = 1, repeats: int = 5) -> list[Row]:
    """Measure the ways in turn, round after round, so that a drift of the machine affects them all.

    A row has the median of a way's clips per second, and of its speed-up over the first way in the
    same round, each with its spread. A way must not leave work pending, which would slow the next.
    """
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for number in tqdm(range(warmup + repeats), desc="rounds", leave=False):
        for name, rate in ways.items():
            clips_per_s = rate()
            if number >= warmup:
                rates[name].append(clips_per_s)
    first = next(iter(rates.values()))
    rows = []
    for name, values in rates.items():
        clips_per_s, spread = median_and_spread(values)
        ratios = [value / base for value, base in zip(values, first, strict=True)]
        speed_up, speed_up_spread = median_and_spread(ratios)
        rows.append(
            {"name": name, "clips_per_s": clips_per_s, "spread": spread}
            | {"speed_up": speed_up, "speed_up_spread": speed_up_spread}
        )
    return rows


def median_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """The median, and (largest - smallest) / median."""
    median = statistics.median(values)
    return median, (max(values) - min(values)) / median


def timed(body: Callable[[], int]) -> Rate:
    """The clips per second of a body that returns how many clips it processed."""

    def rate() -> float:
        started = time.perf_counter()
        clips = body()
        synchronize()
        return clips / (time.perf_counter() - started)

    return rate


def steady(opened: Open, *, batch_size: int, seconds: float) -> Rate:
    """The clips per second of batches, once those that were read ahead are used up.

    A loader is open only while it is measured: if it read ahead during the measurement of another
    one, it would gain what the other loses.
    """

    def rate() -> float:
        with opened() as batches:
            for _ in itertools.islice(batches, WARMUP_BATCHES):
                pass
            synchronize()
            started, taken = time.perf_counter(), 0
            for _ in batches:
                taken += 1
                if time.perf_counter() - started > seconds:
                    break
            synchronize()
            return taken * batch_size / (time.perf_counter() - started)

    return rate


def endless(epochs: Iterable[Any]) -> Iterator[Any]:
    """The batches of a loader's epochs, one epoch after another; each iteration is an epoch."""
    return itertools.chain.from_iterable(itertools.repeat(epochs))


def synchronize() -> None:
    """Wait for the GPU, if there is one: its work ends after the call that starts it."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def run_module(module: str, *words: object) -> None:
    """Run a command of this project in its own process; its stdout is dropped."""
    command = [sys.executable, "-m", module, *map(str, words)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def table(columns: Sequence[Column], rows: list[Row]) -> dict[str, Any]:
    """A table of a record; rows may hold more than the columns show."""
    return {"columns": [asdict(column) for column in columns], "rows": rows}


def record(
    title: str, tables: list[dict[str, Any]], args: Any = None, *, notes: Sequence[str] = ()
) -> dict[str, Any]:
    """The content of a results file; `args` are the arguments of the benchmark, if it has some."""
    given = asdict(args) if args else {}
    conditions = {k: v for k, v in given.items() if not isinstance(v, Path)}
    return {
        "title": title,
        "conditions": conditions,
        "machine": machine(),
        "notes": list(notes),
        "tables": tables,
    }


def machine() -> dict[str, Any]:
    """The facts that the numbers depend on."""
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


def write(content: dict[str, Any], output: Path) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
