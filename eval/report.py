"""The report: one HTML page that shows a set of scores, and needs nothing but itself."""

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from eval.metrics import Metrics
from eval.run_log import Run
from eval.svg import (
    Point,
    Series,
    line_chart,
    linear_axis,
    log_axis,
    percent,
    scatter_chart,
    short_number,
)

NUM_EXTREMES = 10


@dataclass(frozen=True)
class ClassResult:
    """A class's line in metrics.json and in the tables. NaN where a metric is not defined."""

    mid: str
    name: str
    AP: float
    AUC: float
    positives: int


@dataclass(frozen=True)
class Report:
    """What the page is about."""

    scores_path: Path
    sha256: str
    """Of the score file."""
    output: Path
    metrics: Metrics
    accuracy: float | None
    classes: tuple[ClassResult, ...]
    run: Run | None


@dataclass(frozen=True)
class Figure:
    """A chart with its words: what it shows, what the lines are, what to see."""

    title: str
    chart: Markup
    note: str
    legend: tuple[Series, ...] = ()


def render(report: Report) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"decimal": decimal, "thousands": "{:,}".format, "percent": percent}
    best, worst = best_and_worst(report.classes, NUM_EXTREMES)
    ranked = sorted(report.classes, key=lambda c: -1.0 if math.isnan(c.AP) else c.AP, reverse=True)
    return environment.get_template("report.html").render(
        report=report,
        metrics=report.metrics,
        run=report.run,
        lift=report.metrics.mAP / report.metrics.mean_prevalence,
        figures=training_figures(report.run) if report.run else [],
        scatter=positives_figure(report.classes, report.metrics.num_clips),
        extremes=(("Best", best), ("Worst", worst)),
        ranked=ranked,
        settings=flatten(report.run.config) if report.run else [],
        commands=commands(report),
    )


def decimal(value: float, digits: int) -> str:
    """A number for people; a dash where there is none."""
    return "–" if math.isnan(value) else f"{value:.{digits}f}".replace("inf", "∞")


def best_and_worst(
    classes: Sequence[ClassResult], limit: int
) -> tuple[list[ClassResult], list[ClassResult]]:
    """Up to `limit` classes of highest AP and as many of lowest; no class is in both."""
    scored = sorted((c for c in classes if not math.isnan(c.AP)), key=lambda c: -c.AP)
    count = min(limit, len(scored) // 2)
    return scored[:count], scored[len(scored) - count :][::-1]


def training_figures(run: Run) -> list[Figure]:
    """Loss, ranking quality, learning rate and waiting for data, over the run so far."""
    figures = [loss_figure(run)] if run.steps or run.epochs else []
    if run.epochs:
        figures.append(quality_figure(run))
    if run.steps:
        steps = [record.step for record in run.steps]
        rates = [record.learning_rate for record in run.steps]
        waits = [record.data_wait for record in run.steps]
        figures.append(_step_figure("Learning rate", steps, rates, short_number))
        figures.append(_step_figure("Time spent waiting for data", steps, waits, percent))
    return figures


def loss_figure(run: Run) -> Figure:
    epoch_ends = [record.step for record in run.epochs]
    series = (
        Series("each step", [r.step for r in run.steps], [r.loss for r in run.steps], "faint"),
        Series("training", epoch_ends, [r.train_loss for r in run.epochs], "first"),
        Series("evaluation", epoch_ends, [r.eval_loss for r in run.epochs], "second"),
    )
    drawn = tuple(s for s in series if s.x)
    x_axis = linear_axis("step", [x for s in drawn for x in s.x])
    y_axis = log_axis("loss", [y for s in drawn for y in s.y])
    chart = line_chart("Loss against step, on a logarithmic scale", x_axis, y_axis, drawn)
    return Figure("Loss", chart, "Logarithmic scale.", drawn)


def quality_figure(run: Run) -> Figure:
    epochs, values = [r.epoch for r in run.epochs], [r.mAP for r in run.epochs]
    best = max(run.epochs, key=lambda r: -1.0 if math.isnan(r.mAP) else r.mAP)
    line = Series("mAP", epochs, values, "second")
    chart = line_chart(
        "Evaluation mAP against epoch", linear_axis("epoch", epochs), linear_axis("", values), [line]
    )
    return Figure("Evaluation mAP", chart, f"Best: {decimal(best.mAP, 4)}, epoch {best.epoch}.")


def positives_figure(classes: Sequence[ClassResult], num_clips: int) -> Figure:
    scored = [c for c in classes if not math.isnan(c.AP)]
    x_axis = log_axis("positives", [c.positives for c in scored])
    x = [x_axis.low * (x_axis.high / x_axis.low) ** (i / 60) for i in range(61)]
    x = [v for v in x if v <= num_clips]
    random_ranking = Series("random ranking", x, [v / num_clips for v in x], "dashed")
    chart = scatter_chart(
        "Average precision of every class against its number of positives",
        x_axis,
        linear_axis("AP", [0, 1]),
        [Point(c.positives, c.AP, f"{c.name}: AP {c.AP:.4f}, {c.positives:,}") for c in scored],
        random_ranking,
    )
    note = "A dot is a class. Dashed: what a random ranking gets, the share of positives."
    return Figure("Average precision by number of positives", chart, note)


def flatten(config: dict[str, object], prefix: str = "") -> list[tuple[str, str]]:
    """Settings under the dotted names of their flags, in the order of the file."""
    settings = []
    for key, value in config.items():
        if isinstance(value, dict) and value:
            settings += flatten(value, f"{prefix}{key}.")
        else:
            settings.append((f"{prefix}{key}", str(value)))
    return settings


def commands(report: Report) -> list[str]:
    """What makes this page again, from the configuration on."""
    scores, output = shlex.quote(str(report.scores_path)), shlex.quote(str(report.output))
    score = f"python -m eval.score {scores} --output {output}"
    if report.run is None:
        return [score]
    folder, config = (
        shlex.quote(str(path)) for path in (report.run.folder, report.run.folder / "config.json")
    )
    return [
        f"torchrun train/main.py {config} --run-dir NEW_RUN",
        f"python -m eval.predict {folder} --index SHARDS --output {scores}",
        f"{score} --run {folder}",
    ]


def _step_figure(title, steps, values, text) -> Figure:
    pass
