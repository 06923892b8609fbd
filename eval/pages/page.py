"""Shared parts of pages: rendering, intervals and trainings in words, JSON, and writing of files.

A page is one HTML file, for screens, phones and paper.
"""

import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from eval.pages.charts import percent
from psla_wds.evaluation.bootstrap import Bounds
from psla_wds.io.atomic_files import atomic_open, disk_errors
from psla_wds.reading.read_tuner import verdict
from psla_wds.text_table import decimal, signed
from train.run.log import Run

MEANS = {"mAP": ("mAP", 4), "mAUC": ("mAUC", 4), "d_prime": ("d\N{PRIME}", 3)}
"""Name and digits of each mean over the classes, by its attribute."""


@dataclass(frozen=True)
class Bar:
    """A row of a list with bars."""

    name: str
    share: float
    """Length of its bar, from 0 to 1."""
    text: str
    loss: bool = False


@dataclass(frozen=True)
class Course:
    """Progress and speed of a run's training; rates are medians over its epochs."""

    progress: str
    epoch: int
    step: int
    hours: float
    clips_per_s: float
    data_wait: float
    verdict: str
    """Bound of the last epoch (step, reads or decoding), as in the training's log."""


def course_of(run: Run) -> Course | None:
    """The course of a run; None before the end of its first epoch."""
    if not run.epochs:
        return None
    last = run.epochs[-1]
    return Course(
        progress=run.progress(),
        epoch=last.epoch,
        step=last.step,
        hours=sum(record.duration_s for record in run.epochs) / 3600,
        clips_per_s=statistics.median(record.clips_per_s for record in run.epochs),
        data_wait=statistics.median(record.data_wait for record in run.epochs),
        verdict=verdict(last.data_wait, last.storage_wait),
    )


def interval(bounds: Bounds, digits: int, *, sign: bool = False) -> str:
    """A 95 % interval in words; intervals of differences have signs."""
    number = signed if sign else decimal
    return f"{number(bounds.low, digits)} to {number(bounds.high, digits)}"


def render_page(template: str, **values: object) -> str:
    """A page, by the name of its template; values are escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "decimal": decimal,
        "signed": signed,
        "thousands": "{:,}".format,
        "percent": percent,
        "interval": interval,
    }
    return environment.get_template(template).render(**values, means=MEANS)


def json_text(record: object) -> str:
    """Strict JSON of values, dataclasses and arrays: null for a number that is not finite."""
    return json.dumps(_plain(record), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if is_dataclass(value):
        value = vars(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_texts(texts: dict[Path, str], what: str) -> None:
    """Write each text whole or not at all; `what` names them in errors."""
    for path, text in texts.items():
        errors = disk_errors(path, f"write the {what}", then="run the command again")
        with errors, atomic_open(path, "w") as file:
            file.write(text)
