"""Shares of a build: tasks of an array, each making some of the shards, without a coordinator."""

import re
from collections.abc import Sequence
from pathlib import Path

from psla_wds.errors import ShardError
from psla_wds.io.disk import disk_errors
from psla_wds.io.folders import entries, remove_folder
from psla_wds.io.locations import Location
from psla_wds.runtime.array_tasks import ArrayTask
from sharding.packing.plan import missing_shards
from sharding.packing.rejects import write_rejected

REPORTS = "tasks"
"""Folder of what the tasks of an array have refused; gone once the shards have an index."""
REPORT_NAME = re.compile(r"\d+-of-([1-9]\d*)\.jsonl")
MAX_SHOWN = 20


def report_task(task: ArrayTask, folder: Location, rejected: Sequence[dict[str, str]]) -> None:
    """Say that this share of a build is done, and what it refused."""
    reports = folder / REPORTS
    if isinstance(reports, Path):
        with disk_errors(reports, "make the folder"):
            reports.mkdir(exist_ok=True)
    write_rejected(reports / f"{task.number}-of-{task.count}.jsonl", rejected)


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
