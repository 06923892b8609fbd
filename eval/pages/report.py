"""The report of a set of scores: as text, as metrics.json and as one HTML page."""

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval.pages.charts import Figure
from eval.pages.figures import class_ap_figure, positives_figure, training_figures
from eval.pages.page import MEANS, Bar, course_of, interval, json_text, render_page
from eval.run_settings import flatten, settings_of
from eval.scored_runs import Scored, predict_again
from psla_wds.evaluation.bootstrap import Intervals
from psla_wds.evaluation.metrics import Metrics
from psla_wds.evaluation.scores import Origin, Scores
from psla_wds.models.checkpoint import find_checkpoint
from psla_wds.text_table import decimal, text_table
from train.run.log import Run

NUM_ON_SCREEN, NUM_ON_PAGE = 5, 10
"""Best classes, and as many worst ones, that are listed."""


@dataclass(frozen=True)
class ClassResult:
    """A class's line in metrics.json and in the tables. NaN where a metric is not defined."""

    mid: str
    name: str
    AP: float
    AUC: float
    positives: int
    AP_low: float = math.nan
    """Ends of its 95 % interval."""
    AP_high: float = math.nan


@dataclass(frozen=True)
class Correlation:
    """How a class's average precision goes along with a quantity (PSLA table VII)."""

    pearson: float
    """NaN if fewer than two classes have both values, or one of the values is constant."""
    classes: int
    """Number of classes that have both values."""


@dataclass(frozen=True)
class Report:
    """Scores of a set of clips, and what is known of the run that gave them."""

    scores_path: Path
    sha256: str
    """Hash of the score file; for a folder, of its scores.npy."""
    output: Path
    metrics: Metrics
    accuracy: float | None
    """None where clips have several labels."""
    classes: tuple[ClassResult, ...]
    run: Run | None = None
    origins: tuple[Origin, ...] = ()
    """The checkpoints that gave the scores, as far as the score file says."""
    scored: Scored | None = None
    """Which weights of the run they are."""
    intervals: Intervals | None = None
    correlations: dict[str, Correlation] = field(default_factory=dict)
    """Correlation of the classes' average precision with each quantity, by its name."""
    left_out: tuple[str, ...] = ()
    """Classes of the data set that the model has no class for."""
    plan_figures: tuple[Figure, ...] = ()
    """What the run draws, where its training clips were found."""
    trained_on: int = 0
    """Clips among those scored that the run was trained on: a mistake, as a rule."""

    @property
    def without_positives(self) -> list[str]:
        """Names of the classes that are in no mean."""
        return [result.name for result in self.classes if not result.positives]


def class_results(
    scores: Scores, metrics: Metrics, intervals: Intervals | None
) -> tuple[ClassResult, ...]:
    columns = [metrics.average_precision, metrics.roc_auc, metrics.num_positives]
    columns += list(intervals.average_precision) if intervals else []
    rows = zip(scores.mids, scores.names, *(column.tolist() for column in columns), strict=True)
    return tuple(ClassResult(*row) for row in rows)


def best_and_worst(classes: Sequence[ClassResult], limit: int) -> dict[str, list[ClassResult]]:
    """Up to `limit` classes of highest AP and as many of lowest; no class is in both."""
    scored = sorted((c for c in classes if not math.isnan(c.AP)), key=lambda c: -c.AP)
    half = (len(scored) + 1) // 2
    return {"Best": scored[:half][:limit], "Worst": scored[half:][::-1][:limit]}


def to_json(report: Report) -> str:
    """metrics.json: null for what is not defined; what was not asked for is left out."""
    metrics, intervals = report.metrics, report.intervals
    record: dict[str, Any] = {name: getattr(metrics, name) for name in MEANS} | {
        "mean_prevalence": metrics.mean_prevalence,
        "clips": metrics.num_clips,
        "classes": metrics.num_classes,
        "classes_scored": metrics.num_classes_scored,
    }
    optional = {
        "origins": [str(origin) for origin in report.origins],
        "classes_left_out": report.left_out,
        "intervals_95": intervals and {name: getattr(intervals, name) for name in MEANS},
        "correlations": report.correlations,
    }
    record |= {name: value for name, value in optional.items() if value}
    record |= {"accuracy": report.accuracy} if report.accuracy is not None else {}
    without = set() if intervals else {"AP_low", "AP_high"}
    rows = [{k: v for k, v in vars(c).items() if k not in without} for c in report.classes]
    return json_text(record | {"per_class": rows})


def to_text(report: Report) -> str:
    """What stands on the screen: the means, then the classes at both ends."""
    metrics, intervals = report.metrics, report.intervals
    rows = [["", "", "95 % interval"]] if intervals else []
    for name, (shown, _) in MEANS.items():
        ends = [interval(getattr(intervals, name), 4)] if intervals else []
        rows.append([shown, decimal(getattr(metrics, name), 4), *ends])
    if report.accuracy is not None:
        rows.append(["accuracy", decimal(report.accuracy, 4)])
    rows.append(["clips", f"{metrics.num_clips:,}"])
    rows.append(["classes", f"{metrics.num_classes_scored:,}"])
    lines = [text_table(rows, "<><")]
    if report.without_positives:
        lines.append(f"{len(report.without_positives):,} classes without a positive are left out")
    if report.left_out:
        lines.append(f"{len(report.left_out)} classes left out: {', '.join(report.left_out)}")
    lines += [
        f"AP and {name}: correlation {decimal(found.pearson, 4)}, {found.classes} classes"
        for name, found in report.correlations.items()
    ]
    for title, results in best_and_worst(report.classes, NUM_ON_SCREEN).items():
        table = [[title, "AP", "AUC", "positives"]]
        table += [
            [c.name, decimal(c.AP, 4), decimal(c.AUC, 4), f"{c.positives:,}"] for c in results
        ]
        lines += ["", text_table(table)]
    return "\n".join(lines) + "\n"


def render(report: Report) -> str:
    """The page."""
    run, metrics = report.run, report.metrics
    names = [result.name for result in report.classes]
    extremes = best_and_worst(report.classes, NUM_ON_PAGE)
    return render_page(
        "report.html",
        report=report,
        metrics=metrics,
        run=run,
        course=course_of(run) if run else None,
        not_evaluated=[r.epoch for r in run.epochs if not r.evaluated] if run else [],
        figures=training_figures(run) if run else [],
        class_figures=[positives_figure(metrics, names), class_ap_figure(metrics, names)],
        extremes={
            title: [Bar(c.name, round(c.AP, 3), decimal(c.AP, 3)) for c in found]
            for title, found in extremes.items()
        },
        ranked=sorted(report.classes, key=lambda c: 1.0 if math.isnan(c.AP) else -c.AP),
        settings=flatten(settings_of(run)) if run else [],
        commands=commands(report),
    )


def commands(report: Report) -> list[str]:
    """What makes this page again, from the configuration on."""
    score = ["python", "-m", "eval.score", report.scores_path, "--output", report.output]
    if report.run is None:
        return [_command(*score)]
    run, files = report.run.folder, report.scored.files if report.scored else ()
    return [
        _command("torchrun", "train/main.py", run / "config.json", "--run-dir", "NEW_RUN"),
        *_predictions(run, files, report.scores_path),
        _command(*score, "--run", run),
    ]


def _predictions(run: Path, files: tuple[Path, ...], scores: Path) -> list[str]:
    """What makes the scores of a run's weights."""
    if len(files) > 1:
        ensemble = ["python", "-m", "eval.ensemble", "EPOCH.npz", "...", "--output", scores]
        each = predict_again(run / "checkpoints" / "EPOCH.pt", Path("EPOCH.npz"))
        return [each, _command(*ensemble)]
    model = run if not files or files[0] == find_checkpoint(run) else files[0]
    average = ["python", "-m", "eval.average", run, "--epochs", "FIRST", "LAST", "--output", model]
    is_average = model.parent == run
    return [_command(*average)] * is_average + [predict_again(model, scores)]


def _command(*words: object) -> str:
    return shlex.join(map(str, words))
