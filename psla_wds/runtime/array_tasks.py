"""Tasks of an array, such as Slurm's: each does its share of the work, without a coordinator."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from psla_wds.errors import ConfigError

Work = TypeVar("Work", bound=Sequence[Any])
"""A sequence whose slices have the same type."""

SLURM_VARIABLES = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_COUNT")


@dataclass(frozen=True)
class ArrayTask:
    """Task `number` of an array of `count`; numbers begin at 0."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def of(self, work: Work) -> Work:
        """Every `count`th item, beginning with item `number`."""
        return work[self.number :: self.count]  # type: ignore[return-value]


def parse_task(text: str) -> ArrayTask:
    """Parse `I/N`, or `slurm` for the task that Slurm's environment variables name."""
    match = re.fullmatch(r"(\d+)/(\d+)", _slurm_task() if text == "slurm" else text)
    task = ArrayTask(int(match[1]), int(match[2])) if match else None
    if task is None or task.number >= task.count:
        raise ConfigError(
            f"task {text!r} is not I/N with I from 0 to N - 1, and not slurm",
            where="--task",
            fix="--task 0/8 to --task 7/8 are the eight tasks of an array",
        )
    return task


def _slurm_task() -> str:
    """Count from SLURM_ARRAY_TASK_MIN, since arrays often begin at 1. A step other than 1 is
    refused as out of range."""
    values = [os.environ.get(name, "") for name in SLURM_VARIABLES]
    if not all(value.isdecimal() for value in values):
        raise ConfigError(
            f"this is not a job of a Slurm array: {', '.join(SLURM_VARIABLES)} are not set",
            where="--task slurm",
            fix="start it by sbatch --array=0-7, or set --task I/N",
        )
    number, first, count = map(int, values)
    return f"{number - first}/{count}"
