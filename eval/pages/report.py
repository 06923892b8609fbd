"""The report of a set of scores: as text, as metrics.json and as one HTML page."""

import logging
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from eval.pages.charts import Figure
from eval.pages.figures import class_ap_figure, plan_figures, positives_figure, training_figures
from eval.pages.page import MEANS, Bar, course_of, interval, json_text, render_page
from eval.pages.runs import Scored, find_training_set, predict_again, scored_of_run, settings_of
from psla_wds.errors import ScoreError
from psla_wds.evaluation.bootstrap import Intervals, bootstrap
from psla_wds.evaluation.metrics import Metrics, accuracy, evaluate
from psla_wds.evaluation.mistakes import Mistakes, find_mistakes
from psla_wds.evaluation.scores import Origin, Scores
from psla_wds.evaluation.thresholds import Decisions, decide
from psla_wds.io.atomic_files import sha256_of
from psla_wds.io.locations import is_url
from psla_wds.models.epochs import find_checkpoint
from psla_wds.printable import typed
from psla_wds.shards.clip_ids import NOT_THERE, ClipIds
from psla_wds.text_table import decimal, text_table
from train.config import TrainConfig
from train.run.log import LOG, Run

NUM_ON_SCREEN, NUM_ON_PAGE = 5, 10
"""Number of best classes listed, and of worst ones."""
MOST_IN_MATRIX, MOST_CONFUSIONS, MOST_WRONG = 30, 30, 20
"""Classes of a confusion matrix, where more have a list of pairs; pairs in it; clips listed."""

logger = logging.getLogger("score")


@dataclass(frozen=True)
class ClassResult:
    """A class's row in metrics.json and in the tables. NaN where a metric is undefined."""

    mid: str
    name: str
    AP: float
    AUC: float
    positives: int
    AP_low: float = math.nan
    """Ends of its 95 % interval."""
    AP_high: float = math.nan
    threshold: float = math.nan
    """Score from which the class is present, and what it gives."""
    precision: float = math.nan
    recall: float = math.nan
    F1: float = math.nan


@dataclass(frozen=True)
class WrongClip:
    """A clip in which another class scores higher than its own."""

    clip_id: str
    name: str
    """Its class."""
    score: float
    taken_for: str
    higher: float
    """Score of the class that it is taken for."""


@dataclass(frozen=True)
class Report:
    """Scores of a set of clips, and what is known of the run that gave them."""

    scores_path: Path
    sha256: str
    """Hash of the score file; for a folder, of its scores.npy."""
    origins: tuple[Origin, ...]
    metrics: Metrics
    accuracy: float | None
    """None where clips have several labels."""
    intervals: Intervals | None
    """None without resamples."""
    classes: tuple[ClassResult, ...]
    left_out: tuple[str, ...] = ()
    """Classes of the data set that the model lacks."""
    mistakes: Mistakes | None = None
    """None where clips have several labels."""
    wrong: tuple[WrongClip, ...] = ()
    """The clips that are most wrong."""
    run: Run | None = None
    scored: Scored | None = None
    """The run's weights that gave the scores."""
    plan_figures: tuple[Figure, ...] = ()
    """Draws of the run, where its training clips were found."""
    decisions: Decisions | None = None
    """Clips at or over thresholds; None without thresholds."""
    trained_on: int = 0
    """Number of scored clips that the run was trained on: usually a mistake."""

    @property
    def without_positives(self) -> list[str]:
        """Names of the classes that are in no mean."""
        return [result.name for result in self.classes if not result.positives]


def make_report(
    scores: Scores,
    path: Path,
    *,
    run: Run | None = None,
    train_index: Sequence[str] = (),
    resamples: int | None = None,
    left_out: tuple[str, ...] = (),
) -> Report:
    """Evaluate scores.

    Args:
        path: the score file or folder that they come from.
        train_index: the run's training shards, if they are no longer where the run had them.
        resamples: resamples of the clips for 95 % intervals; None for no intervals.
    """
    if not scores.targets.any():
        raise ScoreError(
            "no clip has a positive class, so there is nothing to score",
            where=path,
            fix="give the labels by --index SHARDS, and --mapping if its classes are others",
        )
    metrics = evaluate(scores.scores, scores.targets)
    mistakes = find_mistakes(scores.scores, scores.targets, most=MOST_WRONG)
    intervals = bootstrap(scores.scores, scores.targets, resamples=resamples) if resamples else None
    return Report(
        scores_path=path,
        sha256=sha256_of(path / "scores.npy" if path.is_dir() else path),
        origins=scores.origins,
        metrics=metrics,
        accuracy=accuracy(scores.scores, scores.targets),
        intervals=intervals,
        classes=_class_results(scores, metrics, intervals),
        left_out=left_out,
        mistakes=mistakes,
        wrong=_wrong_clips(scores, mistakes) if mistakes else (),
        **(_about(run, scores, path, train_index) if run else {}),
    )


def _class_results(
    scores: Scores, metrics: Metrics, intervals: Intervals | None
) -> tuple[ClassResult, ...]:
    columns = [metrics.average_precision, metrics.roc_auc, metrics.num_positives]
    columns += list(intervals.average_precision) if intervals else []
    rows = zip(scores.mids, scores.names, *(column.tolist() for column in columns), strict=True)
    return tuple(ClassResult(*row) for row in rows)


def _wrong_clips(scores: Scores, mistakes: Mistakes) -> tuple[WrongClip, ...]:
    rows = mistakes.worst
    labels, found = scores.targets[rows].argmax(axis=1), mistakes.taken_for
    return tuple(
        WrongClip(
            clip_id=scores.clip_ids[row],
            name=scores.names[label],
            score=float(scores.scores[row, label]),
            taken_for=scores.names[other],
            higher=float(scores.scores[row, other]),
        )
        for row, label, other in zip(rows, labels, found, strict=True)
    )


def with_thresholds(
    report: Report, scores: Scores, thresholds: Float32[np.ndarray, " classes"]
) -> Report:
    """The report with precision, recall and F1 at thresholds."""
    found = decide(scores.scores, scores.targets, thresholds)
    columns = (thresholds, found.precision, found.recall, found.f1)
    rows = zip(report.classes, *(column.tolist() for column in columns), strict=True)
    classes = tuple(
        replace(c, threshold=threshold, precision=precision, recall=recall, F1=f1)
        for c, threshold, precision, recall, f1 in rows
    )
    return replace(report, classes=classes, decisions=found)


def _about(run: Run, scores: Scores, path: Path, train_index: Sequence[str]) -> dict[str, Any]:
    """The fields of a report that say something about the run."""
    if run.cut:
        logger.warning("%s ends in the middle of a line: left out", run.folder / LOG)
    scored = scored_of_run(scores.origins, run.folder, where=path)
    if not scored.is_current:  # no error: the user named both scores and run
        logger.warning("%s: these are scores from %s", path, scored)
    found = {"run": run, "scored": scored}
    data = find_training_set(run, train_index)
    if data is None:
        return found
    rows = data.index.clip_ids.rows_of(ClipIds.of(scores.clip_ids))
    trained_on = int(np.count_nonzero(rows != NOT_THERE))
    return found | {"plan_figures": tuple(plan_figures(data)), "trained_on": trained_on}


def best_and_worst(classes: Sequence[ClassResult], limit: int) -> dict[str, list[ClassResult]]:
    """Up to `limit` classes with the highest AP, and with the lowest; no class is in both."""
    scored = sorted((c for c in classes if not math.isnan(c.AP)), key=lambda c: -c.AP)
    half = (len(scored) + 1) // 2
    return {"Best": scored[:half][:limit], "Worst": scored[half:][::-1][:limit]}


def to_json(report: Report) -> str:
    """Content of metrics.json: null for an undefined value; what was not asked for is left out."""
    metrics, intervals, found = report.metrics, report.intervals, report.decisions
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
        "at_thresholds": found and {"micro": found.micro, "macro": found.macro},
    }
    record |= {name: value for name, value in optional.items() if value}
    record |= {"accuracy": report.accuracy} if report.accuracy is not None else {}
    without = set() if intervals else {"AP_low", "AP_high"}
    without |= set() if found else {"threshold", "precision", "recall", "F1"}
    rows = [{k: v for k, v in vars(c).items() if k not in without} for c in report.classes]
    return json_text(record | {"per_class": rows})


def to_text(report: Report) -> str:
    """The report for the screen: the means, then the best and the worst classes."""
    metrics, intervals = report.metrics, report.intervals
    rows = [["", "", "95 % interval"]] if intervals else []
    for name, (shown, _) in MEANS.items():
        ends = [interval(getattr(intervals, name), 4)] if intervals else []
        rows.append([shown, decimal(getattr(metrics, name), 4), *ends])
    if report.accuracy is not None:
        rows.append(["accuracy", decimal(report.accuracy, 4)])
    rows.append(["clips", f"{metrics.num_clips:,}"])
    rows.append(["classes", f"{metrics.num_classes_scored:,}"])
    if report.decisions:
        for name in ("micro", "macro"):
            quality = getattr(report.decisions, name)
            rows.append([f"F1 at thresholds, {name}", decimal(quality.f1, 4)])
    lines = [text_table(rows, "<><")]
    if report.without_positives:
        lines.append(f"classes left out, without a positive: {len(report.without_positives):,}")
    if report.left_out:
        lines.append(f"classes left out by the mapping: {', '.join(report.left_out)}")
    for title, results in best_and_worst(report.classes, NUM_ON_SCREEN).items():
        table = [[title, "AP", "AUC", "positives"]]
        table += [
            [c.name, decimal(c.AP, 4), decimal(c.AUC, 4), f"{c.positives:,}"] for c in results
        ]
        lines += ["", text_table(table)]
    return "\n".join(lines) + "\n"


def render(report: Report, words: Sequence[str]) -> str:
    """The page; `words` are the arguments of the command that makes it."""
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
        by_f1=sorted(report.classes, key=lambda c: 1.0 if math.isnan(c.F1) else -c.F1),
        infinity=math.inf,
        names=names,
        matrix=_matrix(report.mistakes) if report.mistakes else [],
        confusions=report.mistakes.confusions(MOST_CONFUSIONS) if report.mistakes else [],
        settings=settings_of(run) if run else {},
        commands=[*_commands_before(report), f"psla-wds score {shlex.join(words)}"],
    )


def _matrix(mistakes: Mistakes) -> list[int]:
    """Classes of the confusion matrix; none where they are too many for one."""
    counts = mistakes.counts
    used = np.flatnonzero(counts.sum(axis=0) + counts.sum(axis=1))
    return used.tolist() if len(used) <= MOST_IN_MATRIX else []


def _commands_before(report: Report) -> list[str]:
    """The commands that train the run again, and score it."""
    if report.run is None:
        return []
    run, files = report.run.folder, report.scored.files if report.scored else ()
    index = report.run.config.eval_index or ("SHARDS",)
    train = ["psla-wds", "train", str(run / "config.json"), "--run-dir", "NEW_RUN"]
    train += _url_flags(report.run.config)
    if len(files) > 1:
        epoch = predict_again(run / "checkpoints" / "EPOCH.pt", Path("EPOCH.npz"), index)
        mean = f"psla-wds ensemble EPOCH.npz ... --output {typed(report.scores_path)}"
        return [shlex.join(train), epoch, mean]
    model = run if not files or files[0] == find_checkpoint(run) else files[0]
    commands = [shlex.join(train)]
    if model.parent == run:  # an average
        (origin,) = report.origins
        ends = [str(origin.first_epoch or "FIRST"), str(origin.epoch)]
        words = ["average", str(run), "--epochs", *ends, "--output", str(model)]
        commands.append(f"psla-wds {shlex.join(words)}")
    return [*commands, predict_again(model, report.scores_path, index)]


def _url_flags(config: TrainConfig) -> list[str]:
    """Flags for shards behind URLs, which a configuration alone does not open."""
    places = {"--index": config.index, "--eval-index": config.eval_index}
    urls = {option for option, specs in places.items() if any(map(is_url, specs))}
    return [word for option in places for spec in places[option] if option in urls
            for word in (option, spec)]  # fmt: skip
