"""Shares of a build: tasks of an array, each making some of the shards, without a coordinator."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from psla_wds.disk import disk_errors
from psla_wds.errors import ConfigError, ShardError
from psla_wds.folders import entries, remove_folder
from psla_wds.locations import Location
from sharding.plan import missing_shards
from sharding.rejects import write_rejected

T = TypeVar("T")

REPORTS = "tasks"
"""Folder of what the tasks of an array have refused; gone once the shards have an index."""
REPORT_NAME = re.compile(r"\d+-of-([1-9]\d*)\.jsonl")
SLURM_VARIABLES = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_COUNT")
MAX_SHOWN = 20


@dataclass(frozen=True)
class Share:
    """Task `number` of an array of `count`; numbers begin at 0."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def of(self, tasks: Sequence[T]) -> Sequence[T]:
        """Every `count`th."""
        return tasks[self.number :: self.count]

    def report(self, folder: Location, rejected: Sequence[dict[str, str]]) -> None:
        """Say that this share is done, and what it refused."""
        reports = folder / REPORTS
        if isinstance(reports, Path):
            with disk_errors(reports, "make the folder"):
                reports.mkdir(exist_ok=True)
        write_rejected(reports / f"{self.number}-of-{self.count}.jsonl", rejected)


def parse_share(text: str) -> Share:
    """`I/N`, or `slurm` for the place in the array that Slurm tells its jobs."""
    match = re.fullmatch(r"(\d+)/(\d+)", _slurm_share() if text == "slurm" else text)
    share = Share(int(match[1]), int(match[2])) if match else None
    if share is None or share.number >= share.count:
        raise ConfigError(
            f"task {text!r} is not I/N with I from 0 to N - 1, and not slurm",
            where="--task",
            fix="--task 0/8 to --task 7/8 are the eight tasks of an array",
        )
    return share


def _slurm_share() -> str:
    """By MIN, since arrays often begin at 1. Steps other than 1 are refused, as out of range."""
    values = [os.environ.get(name, "") for name in SLURM_VARIABLES]
    if not all(value.isdecimal() for value in values):
        raise ConfigError(
            f"this is no job of a Slurm array: {', '.join(SLURM_VARIABLES)} are not set",
            where="--task slurm",
            fix="start it by sbatch --array=0-7, or set --task I/N",
        )
    number, first, count = map(int, values)
    return f"{number - first}/{count}"


def check_complete(folder: Location) -> None:
    """`ShardError` if shards of the build in this folder are missing; it says of which tasks."""
    missing = missing_shards(folder)
    if not missing:
        return
    tasks = [
        f"\n  of tasks {_listed(sorted({n % count for n in missing}))} of {count}"
        for count in reported_arrays(folder)
    ]
    raise ShardError(
        f"{len(missing):,} shards are not made yet: {_listed(missing)}{''.join(tasks)}",
        where=folder,
        fix="run these tasks again, or the same sharding.build without --task: "
        "it makes what is missing",
    )


def reported_arrays(folder: Location) -> list[int]:
    """Number of tasks of each array of which a task has reported."""
    names = map(REPORT_NAME.fullmatch, entries(folder / REPORTS))
    return sorted({int(name[1]) for name in names if name})


def forget_reports(folder: Location) -> None:
    """Delete what the tasks reported, once it stands in the list of all."""
    remove_folder(folder / REPORTS)


def _listed(numbers: Sequence[int]) -> str:
    more = f" (+{len(numbers) - MAX_SHOWN:,} more)" if len(numbers) > MAX_SHOWN else ""
    return ", ".join(map(str, numbers[:MAX_SHOWN])) + more
