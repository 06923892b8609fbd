"""The page of a comparison: what differs between the runs, in settings and in results."""

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eval.charts import Figure
from eval.class_charts import changes_figure
from eval.comparison import MEANS, Change, Comparison, Model
from eval.page import decimal, render_page, signed_decimal
from eval.report import Ranked
from eval.run_charts import data_verdict, runs_figures
from train.config import is_method
from train.run.log import Run

NUM_EXTREMES = 10


@dataclass(frozen=True)
class Cell:
    """A number, and below it how sure it is."""

    text: str
    bounds: str = ""
    doubt: str = ""


@dataclass(frozen=True)
class Line:
    """A model's line in the table of results."""

    name: str
    clips: int
    means: tuple[Cell, ...]
    changes: tuple[Cell, ...]
    """From the first model; none in its own line."""


@dataclass(frozen=True)
class Course:
    """How a run's training went."""

    name: str
    progress: str
    hours: float
    clips_per_s: float
    data_wait: float
    verdict: str
    log_is_cut: bool


@dataclass(frozen=True)
class Shift:
    """What changes from the first model to another, class by class."""

    name: str
    figure: Figure
    gains: list[Ranked]
    losses: list[Ranked]


def render(found: Comparison, arguments: Sequence[str]) -> str:
    """The page; `arguments` are the paths that were compared, for the command that repeats it."""
    first, *others = found.models
    learned = {name: v for name, v in found.settings.items() if is_method(name)}
    return render_page(
        "comparison.html",
        found=found,
        lines=[_line(first, None), *map(_line, others, found.changes)],
        curves=runs_figures(found.runs),
        courses=[_course(name, run) for name, run in found.runs],
        shifts=[
            _shift(model, change, found)
            for model, change in zip(others, found.changes, strict=True)
        ],
        settings=learned,
        other_settings={n: v for n, v in found.settings.items() if n not in learned},
        classes=_classes(found),
        command=f"python -m eval.compare {shlex.join(arguments)} --page COMPARISON.html",
    )


def _line(model: Model, change: Change | None) -> Line:
    means, changes = [], []
    for name in MEANS:
        interval = getattr(model.intervals, name) if model.intervals else None
        ends = f"{decimal(interval.low, 4)} to {decimal(interval.high, 4)}" if interval else ""
        means.append(Cell(decimal(getattr(model.metrics, name), 4), ends))
    for name in MEANS if change else ():
        changes.append(_change_cell(change, name))
    return Line(model.candidate.name, model.clips, tuple(means), tuple(changes))


def _change_cell(change: Change, name: str) -> Cell:
    text = signed_decimal(change.means[name], 4)
    if name not in change.bounds:
        return Cell(text)
    ends = change.bounds[name]
    doubt = "" if change.is_clear(name) else "may be chance"
    return Cell(text, f"{signed_decimal(ends.low, 4)} to {signed_decimal(ends.high, 4)}", doubt)


def _course(name: str, run: Run) -> Course:
    hours = sum(record.duration_s for record in run.epochs) / 3600
    rates = [record.clips_per_s for record in run.epochs] or [math.nan]
    waits = [record.data_wait for record in run.epochs] or [math.nan]
    medians = [float(np.median(values)) for values in (rates, waits)]
    return Course(name, run.progress(), hours, *medians, data_verdict(run), run.cut)


def _shift(model: Model, change: Change, found: Comparison) -> Shift:
    values = change.class_AP
    order = np.argsort(-values, kind="stable")
    order = order[np.isfinite(values[order])]
    most = float(np.abs(values[order]).max()) if len(order) else 1.0

    def ranked(rows: np.ndarray) -> list[Ranked]:
        return [
            Ranked(
                found.names[k],
                round(abs(values[k]) / (most or 1.0), 3),
                signed_decimal(values[k], 3),
                loss=bool(values[k] < 0),
            )
            for k in rows[:NUM_EXTREMES].tolist()
        ]

    name = model.candidate.name
    figure = changes_figure(values, *change.class_bounds, name)
    gains, losses = order[values[order] > 0], order[::-1][values[order[::-1]] < 0]
    return Shift(name, figure, ranked(gains), ranked(losses))


def _classes(found: Comparison) -> list[dict[str, object]]:
    """The lines of the table of classes, the largest change first."""
    changes = np.stack([change.class_AP for change in found.changes])
    largest = np.nan_to_num(np.abs(changes), nan=-1).max(axis=0)
    positives = found.models[0].metrics.num_positives
    return [
        {
            "name": found.names[k],
            "mid": found.mids[k],
            "positives": int(positives[k]),
            "AP": [float(model.metrics.average_precision[k]) for model in found.models],
            "changes": [
                (float(change.class_AP[k]), *change.class_bounds[:, k].tolist())
                for change in found.changes
            ],
        }
        for k in np.argsort(-largest, kind="stable").tolist()
    ]
