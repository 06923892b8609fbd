"""The report: one HTML page that shows a set of scores, and needs nothing but itself."""

import math
import shlex
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from eval.bootstrap import Intervals
from eval.correlations import Correlation
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
    intervals: Intervals | None = None
    """Of the metrics; resampling takes its time, and is done when it is asked for."""
    correlations: dict[str, Correlation] = field(default_factory=dict)
    """Of the classes' average precision with what is named."""
    left_out: tuple[str, ...] = ()
    """Classes of the data set that the model has no class for."""


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
        training=training_summary(report.run) if report.run else "",
        settings=flatten(report.run.config) if report.run else [],
        commands=commands(report),
        bounds=_bounds_of(report),
        class_bounds=_bounds_of_classes(report),
        without_positives=[c.name for c in report.classes if not c.positives],
    )


def _bounds_of(report: Report) -> dict[str, str]:
    """The 95 % interval of each mean, in words; empty where there was no resampling."""
    if report.intervals is None:
        return {}
    found = {name: getattr(report.intervals, name) for name in ("mAP", "mAUC", "d_prime")}
    return {name: f"95 %: {decimal(b.low, 4)} to {decimal(b.high, 4)}" for name, b in found.items()}


def _bounds_of_classes(report: Report) -> dict[str, str]:
    if report.intervals is None:
        return {}
    ends = report.intervals.average_precision.T.tolist()
    return {
        result.mid: f"95 %: {decimal(low, 4)} to {decimal(high, 4)}"
        for result, (low, high) in zip(report.classes, ends, strict=True)
    }


def decimal(value: float, digits: int) -> str:
    """A number for people; a dash where there is none."""
    return "\N{EN DASH}" if math.isnan(value) else f"{value:.{digits}f}".replace("inf", "∞")


def without_nan(record: dict[str, object]) -> dict[str, object]:
    """Strict JSON has no NaN: null in its place."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in record.items()
    }


def best_and_worst(
    classes: Sequence[ClassResult], limit: int
) -> tuple[list[ClassResult], list[ClassResult]]:
    """Up to `limit` classes of highest AP and as many of lowest; no class is in both."""
    scored = sorted((c for c in classes if not math.isnan(c.AP)), key=lambda c: -c.AP)
    half = (len(scored) + 1) // 2
    return scored[:half][:limit], scored[half:][::-1][:limit]


def training_summary(run: Run) -> str:
    """How far training came, and how fast."""
    if not run.epochs:
        return "No epoch is finished yet."
    without = [str(record.epoch) for record in run.epochs if not record.evaluated]
    gap = f" Not evaluated: epoch {', '.join(without)}." if without else ""
    hours = sum(record.duration_s for record in run.epochs) / 3600
    rate = statistics.median(record.clips_per_s for record in run.epochs)
    last = run.epochs[-1]
    return f"Epoch {last.epoch}, step {last.step:,}; {hours:,.2f} hours, {rate:,.0f} clips/s.{gap}"


def training_figures(run: Run) -> list[Figure]:
    """Loss, evaluation mAP, learning rate and waiting for data, over the run so far."""
    figures = []
    if run.steps or run.epochs:
        figures.append(loss_figure(run))
    if any(record.evaluated for record in run.epochs):
        figures.append(quality_figure(run))
    if run.steps:
        figures += [learning_rate_figure(run), data_wait_figure(run)]
    return figures


def loss_figure(run: Run) -> Figure:
    epoch_ends = [record.step for record in run.epochs]
    series = (
        Series("each step", [r.step for r in run.steps], [r.loss for r in run.steps], "faint"),
        Series("training", epoch_ends, [r.train_loss for r in run.epochs], "first"),
        Series("evaluation", epoch_ends, [r.eval_loss for r in run.epochs], "second"),
    )
    drawn = tuple(s for s in series if not all(map(math.isnan, s.y)))
    x_axis = linear_axis("step", [x for s in drawn for x in s.x], smallest_step=1)
    y_axis = log_axis("loss", [y for s in drawn for y in s.y])
    return Figure("Loss", line_chart("Loss by step", x_axis, y_axis, drawn), "Log scale.", drawn)


def quality_figure(run: Run) -> Figure:
    epochs, values = [r.epoch for r in run.epochs], [r.mAP for r in run.epochs]
    best = max(run.epochs, key=lambda r: -1.0 if math.isnan(r.mAP) else r.mAP)
    x_axis = linear_axis("epoch", epochs, smallest_step=1)
    line = Series("mAP", epochs, values, "second")
    chart = line_chart("Evaluation mAP by epoch", x_axis, linear_axis("mAP", values), [line])
    return Figure("Evaluation mAP", chart, f"Best {decimal(best.mAP, 4)}, epoch {best.epoch}.")


def learning_rate_figure(run: Run) -> Figure:
    steps, rates = [r.step for r in run.steps], [r.learning_rate for r in run.steps]
    x_axis = linear_axis("step", steps, smallest_step=1)
    y_axis = linear_axis("learning rate", [0, *rates])
    line = Series("learning rate", steps, rates, "first")
    chart = line_chart("Learning rate by step", x_axis, y_axis, [line])
    return Figure("Learning rate", chart, f"Highest {short_number(max(rates))}.")


def data_wait_figure(run: Run) -> Figure:
    steps, waits = [r.step for r in run.steps], [r.data_wait for r in run.steps]
    x_axis = linear_axis("step", steps, smallest_step=1)
    y_axis = linear_axis("share of time", [0, *waits], text=percent)
    line = Series("waiting", steps, waits, "first")
    chart = line_chart("Share of time spent waiting for data, by step", x_axis, y_axis, [line])
    note = f"Median {percent(statistics.median(waits))} of the time."
    return Figure("Waiting for data", chart, note)


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
    return Figure("Average precision by positives", chart, note)


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
