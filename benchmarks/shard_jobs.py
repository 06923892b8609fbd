"""What bench_shard_scale measures, each job in a process of its own.

    python -m benchmarks.shard_jobs build|merge|load FOLDER

Apart from the benchmark, which loads torch: packing and indexing do not, and their memory is told.
"""

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Literal

from tyro.conf import Positional

from psla_wds import cli
from psla_wds.shards.index_files import read_index
from psla_wds.shards.merge import merge_sidecars
from sharding.build import build
from sharding.packing.config import PackConfig
from sharding.sources import ManifestSource

LOOK_EVERY_S = 0.05


@dataclass
class Cost:
    """What a job took."""

    elapsed_s: float = 0.0
    main_mib: float = 0.0
    """Most memory of the process."""
    worker_mib: float = 0.0
    """Most memory of any worker."""


def _build(folder: Path) -> None:
    source = ManifestSource(file=folder / "clips.csv", class_labels=folder / "classes.csv")
    output = Path(tempfile.mkdtemp(dir=folder))
    build(source, PackConfig(output=output, min_clip_s=0))


JOBS: dict[str, Callable[[Path], object]] = {
    "build": _build,
    "merge": merge_sidecars,
    "load": read_index,
}


def peak_mib(process: str) -> float:
    """Most memory that a process had since it runs its program; 0 if it has ended, or not begun.

    Not by getrusage: what it tells of a process begins with the memory of the one that started it.
    """
    try:
        if process != "self" and _command(process) == _command("self"):
            return 0.0  # for a moment it shares the memory of this one
        status = Path("/proc", process, "status").read_text()
    except OSError:
        return 0.0
    found = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(found[0]) / 1024 if found else 0.0


def _command(process: str) -> bytes:
    return Path("/proc", process, "cmdline").read_bytes()


@contextmanager
def _watching_workers(cost: Cost) -> Iterator[None]:
    """Looks at this process's children now and then: what a worker had is not told when it ends."""
    end = Event()

    def watch() -> None:
        while not end.wait(LOOK_EVERY_S):
            for children in Path("/proc/self/task").glob("*/children"):
                peaks = map(peak_mib, children.read_text().split())
                cost.worker_mib = max([cost.worker_mib, *peaks])

    thread = Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def do(job: str, folder: Path) -> Cost:
    cost = Cost()
    with _watching_workers(cost):
        started = time.perf_counter()
        JOBS[job](folder)
        cost.elapsed_s = time.perf_counter() - started
    cost.main_mib = peak_mib("self")
    return cost


@dataclass(frozen=True)
class Args:
    job: Positional[Literal["build", "merge", "load"]]
    folder: Positional[Path]
    """Of clips.csv and classes.csv to build; of shards to merge or load."""


def main() -> None:
    args = cli.parse(Args, __doc__, prog="python -m benchmarks.shard_jobs")
    print(json.dumps(asdict(do(args.job, args.folder))))


if __name__ == "__main__":
    cli.run(main)
