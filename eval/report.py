"""The report: one HTML page that shows a set of scores, and needs nothing but itself."""

import math
import shlex
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from eval.charts import Figure
from eval.class_charts import ClassResult, class_ap_figure, positives_figure
from eval.confusions import Companions, Confusion
from eval.correlations import Correlation
from eval.data_audit import DataAudit
from eval.page import decimal, render_page
from eval.run_charts import data_verdict, training_figures
from eval.run_settings import flatten, settings_of
from eval.scored_runs import Scored, predict_again
from psla_wds.evaluation.bootstrap import Intervals
from psla_wds.evaluation.metrics import Metrics
from psla_wds.evaluation.scores import Origin
from psla_wds.models.checkpoint import find_checkpoint
from train.run.log import Run

NUM_EXTREMES = 10


@dataclass(frozen=True)
class Report:
    """What the page is about."""

    scores_path: Path
    sha256: str
    """Of the score file; of a folder, of its scores.npy."""
    output: Path
    metrics: Metrics
    accuracy: float | None
    classes: tuple[ClassResult, ...]
    run: Run | None
    origins: tuple[Origin, ...] = ()
    """The checkpoints that gave the scores, as far as the score file says."""
    scored: Scored | None = None
    """Which weights of the run they are."""
    intervals: Intervals | None = None
    """Of the metrics; resampling takes its time, and is done when it is asked for."""
    correlations: dict[str, Correlation] = field(default_factory=dict)
    """Of the classes' average precision with what is named."""
    left_out: tuple[str, ...] = ()
    """Classes of the data set that the model has no class for."""
    confusions: tuple[Confusion, ...] = ()
    companions: tuple[Companions, ...] = ()
    audit: DataAudit | None = None
    """Of the training clips, where they could be found."""
    plan_figures: tuple[Figure, ...] = ()
    """What the run draws of them."""


@dataclass(frozen=True)
class Ranked:
    """A line of a list with bars."""

    name: str
    share: float
    """Length of its bar, from 0 to 1."""
    text: str
    loss: bool = False


def render(report: Report) -> str:
    run, metrics = report.run, report.metrics
    ranked = sorted(report.classes, key=lambda c: -1.0 if math.isnan(c.AP) else c.AP, reverse=True)
    extremes = zip(("Best", "Worst"), best_and_worst(report.classes, NUM_EXTREMES), strict=True)
    return render_page(
        "report.html",
        report=report,
        metrics=metrics,
        run=run,
        lift=metrics.mAP / metrics.mean_prevalence,
        figures=training_figures(run) if run else [],
        scatter=positives_figure(report.classes, metrics.num_clips),
        class_ap=class_ap_figure(report.classes),
        extremes=[
            (title, [Ranked(c.name, round(c.AP, 3), decimal(c.AP, 3)) for c in found])
            for title, found in extremes
        ],
        ranked=ranked,
        training=training_summary(run) if run else "",
        verdict=data_verdict(run) if run else "",
        settings=flatten(settings_of(run)) if run else [],
        commands=commands(report),
        bounds=_bounds_of(report),
        class_bounds=_bounds_of_classes(report),
        without_positives=[c.name for c in report.classes if not c.positives],
    )


def _bounds_of(report: Report) -> dict[str, str]:
    """The 95 % interval of each mean, in words; empty where there was no resampling."""
    if report.intervals is None:
        return {}
    found = {}
    for name, digits in (("mAP", 4), ("mAUC", 4), ("d_prime", 3)):
        ends = getattr(report.intervals, name)
        found[name] = f"95 %: {decimal(ends.low, digits)} to {decimal(ends.high, digits)}"
    return found


def _bounds_of_classes(report: Report) -> dict[str, str]:
    if report.intervals is None:
        return {}
    ends = report.intervals.average_precision.T.tolist()
    return {
        result.mid: f"{decimal(low, 3)}\N{EN DASH}{decimal(high, 3)}"
        for result, (low, high) in zip(report.classes, ends, strict=True)
        if not math.isnan(low)
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
    step = run.epochs[-1].step
    return f"Epoch {run.progress()}, step {step:,}; {hours:,.2f} hours, {rate:,.0f} clips/s.{gap}"


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
        *_predictions(report.run.folder, report.scored, report.scores_path),
        f"{score} --run {folder}",
    ]


def _predictions(run: Path, scored: Scored | None, scores: Path) -> list[str]:
    """What makes the scores of a run's weights."""
    files = scored.files if scored else ()
    if len(files) > 1:
        each = f"python -m eval.predict {shlex.quote(str(run))}/checkpoints/EPOCH.pt --index SHARDS"
        output = f"--output {shlex.quote(str(scores))}"
        return [f"{each} --output EPOCH.npz", f"python -m eval.ensemble EPOCH.npz ... {output}"]
    if not files or files[0] == find_checkpoint(run):
        return [predict_again(run, scores)]
    average = f"python -m eval.average {shlex.quote(str(run))} --epochs FIRST LAST --output "
    is_average = files[0].parent == run
    made = [average + shlex.quote(str(files[0]))] if is_average else []
    return [*made, predict_again(files[0], scores)]
