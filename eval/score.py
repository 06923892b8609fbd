"""Score a file of scores: the metrics for people, for programs and as a page.

    python -m eval.score P.npz --output DIR --run RUN

A model that was made for other classes: python -m eval.predict MODEL --index ESC50 --other-classes
--output P.npz, then python -m eval.score P.npz --index ESC50 --mapping esc50 --output DIR.
"""

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from tyro.conf import Positional, UseAppendAction, arg

from eval.charts import Figure
from eval.class_charts import class_results
from eval.confusions import companions, confusions
from eval.correlations import Correlation, correlate, read_quality
from eval.data_audit import DataAudit, audit, find_training_set
from eval.draw_counts import plan_figures
from eval.page import decimal, without_nan
from eval.report import Report, best_and_worst, render
from eval.scored_runs import Scored, scored_of_run
from psla_wds import cli
from psla_wds.errors import ConfigError, ScoreError
from psla_wds.evaluation.bootstrap import Intervals, bootstrap
from psla_wds.evaluation.mapping import Mapping, Several, map_scores, read_mapping, with_targets
from psla_wds.evaluation.metrics import Metrics, accuracy, evaluate
from psla_wds.evaluation.scores import Scores
from psla_wds.io.atomic_files import atomic_open, disk_errors, sha256_of
from psla_wds.shards.index import ShardIndex
from psla_wds.shards.index_files import open_indexes
from psla_wds.shards.overlay import apply_overlay
from train.run.log import Run, read_run

logger = logging.getLogger("score")

NUM_EXTREMES = 5
NUM_PAIRS = 15
Shards = Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="SHARDS[:SPLIT,...]")]


@dataclass(frozen=True)
class Args:
    scores: Positional[Path]
    """Score file (.npz) or folder, from eval.predict or eval.ensemble."""
    output: Path
    """Folder for metrics.json and report.html; made if it is not there."""
    run: Path | None = None
    """Run folder whose training curves and configuration the report shows."""
    index: Shards = ()
    """Shards of the clips scored, whose labels count instead of the targets in the file."""
    labels: Path | None = None
    """Label overlay of --index, by eval.enhance: score against its labels (PSLA table IX)."""
    mapping: str | None = None
    """esc50, fsd50k or a CSV: the model's classes that stand for those of --index."""
    several: Several = "first"
    """Of several classes that stand for one: the first one's score, or the highest."""
    bootstrap: int = 0
    """Resamples of the clips for confidence intervals, such as 1000; none unless set."""
    train_index: Shards = ()
    """Training shards: say how the AP of a class goes along with its number of clips there. With
    --run they are those of the run, if these are no longer where it had them."""
    train_labels: Path | None = None
    """Label overlay of --train-index."""
    quality: Path | None = None
    """AudioSet's qa_true_counts.csv: say how AP goes along with the quality of annotations."""

    def __post_init__(self) -> None:
        for option, needed in (
            ("labels", "index"),
            ("mapping", "index"),
            ("train_labels", "train_index"),
        ):
            if getattr(self, option) and not getattr(self, needed):
                raise ConfigError(
                    f"{option} belongs to shards",
                    where=f"--{option.replace('_', '-')}",
                    fix=f"set --{needed.replace('_', '-')} as well",
                )
        if self.bootstrap and self.bootstrap < 20:
            raise ConfigError(
                "so few resamples say nothing", where="--bootstrap", fix="set it to 1000"
            )


def main() -> None:
    score(cli.parse(Args, __doc__, prog="python -m eval.score"))


def score(args: Args) -> None:
    run = read_run(args.run) if args.run else None
    if run and run.cut:
        logger.warning("%s ends in the middle of a line: left out", run.folder / "log.jsonl")
    mapping = read_mapping(args.mapping) if args.mapping else None
    scores = _what_to_score(args, mapping)
    if not scores.targets.any():
        raise ScoreError(
            "no clip has a positive class, so there is nothing to score",
            where=args.scores,
            fix="give the labels by --index SHARDS, and --mapping if its classes are others",
        )
    report = _report(args, scores, run, mapping.left_out if mapping else ())
    _write(args.output, {"metrics.json": to_json(report), "report.html": render(report)})
    print(to_text(report))
    page = args.output / "report.html"
    print(f"wrote {args.output / 'metrics.json'} and {page}; next: open {page}")


def _report(args: Args, scores: Scores, run: Run | None, left_out: tuple[str, ...]) -> Report:
    metrics = evaluate(scores.scores, scores.targets)
    found, figures = _data(args, scores, run)
    return Report(
        scores_path=args.scores,
        sha256=sha256_of(args.scores / "scores.npy" if args.scores.is_dir() else args.scores),
        origins=scores.origins,
        output=args.output,
        metrics=metrics,
        accuracy=accuracy(scores.scores, scores.targets),
        classes=class_results(scores, metrics),
        run=run,
        scored=_scored(args, scores, run),
        intervals=_intervals(args, scores),
        correlations=_correlations(args, scores, metrics),
        left_out=left_out,
        confusions=tuple(confusions(scores, NUM_PAIRS)),
        companions=tuple(companions(scores, NUM_PAIRS)),
        audit=found,
        plan_figures=figures,
    )


def _scored(args: Args, scores: Scores, run: Run | None) -> Scored | None:
    """Which weights of the run; those that are not its last are told. An average may lie
    elsewhere, and score and run are both named by hand."""
    found = scored_of_run(scores.origins, run.folder, where=args.scores) if run else None
    if found and not found.is_current:
        logger.warning("%s: these are scores of %s", args.scores, found)
    return found


def _data(
    args: Args, scores: Scores, run: Run | None
) -> tuple[DataAudit | None, tuple[Figure, ...]]:
    """What there is to say of the run's training clips; nothing where they are not to be found."""
    data = find_training_set(run, args.train_index) if run else None
    if run is None or data is None:
        return None, ()
    return audit(data, scores, run, args.train_index), tuple(plan_figures(data))


def _what_to_score(args: Args, mapping: Mapping | None) -> Scores:
    scores = Scores.load(args.scores)
    if not args.index:
        return scores
    index = _labelled(args.index, args.labels)
    if mapping:
        return map_scores(scores, index, mapping, args.several)
    return with_targets(scores, index, where=args.scores)


def _labelled(specs: tuple[str, ...], labels: Path | None) -> ShardIndex:
    index = open_indexes(specs)
    return apply_overlay(index, labels) if labels else index


def _intervals(args: Args, scores: Scores) -> Intervals | None:
    if not args.bootstrap:
        return None
    return bootstrap(scores.scores, scores.targets, resamples=args.bootstrap)


def _correlations(args: Args, scores: Scores, metrics: Metrics) -> dict[str, Correlation]:
    """Of AP with what was asked for, over the classes that have both."""
    found = {}
    if args.train_index:
        index = _labelled(args.train_index, args.train_labels)
        counts = dict(zip(index.classes.mids, index.class_counts().tolist(), strict=True))
        by_class = np.array([counts.get(mid, np.nan) for mid in scores.mids], np.float64)
        found["training clips"] = correlate(metrics.average_precision, by_class)
    if args.quality:
        quality = read_quality(args.quality, scores.mids)
        found["annotation quality"] = correlate(metrics.average_precision, quality)
    return found


def to_json(report: Report) -> str:
    """metrics.json: what is not defined is null, and accuracy is there for single labels only."""
    metrics = report.metrics
    record = {
        "mAP": metrics.mAP,
        "mAUC": metrics.mAUC,
        "d_prime": metrics.d_prime,
        "mean_prevalence": metrics.mean_prevalence,
        "clips": metrics.num_clips,
        "classes": metrics.num_classes,
        "classes_scored": metrics.num_classes_scored,
    }
    if report.origins:
        record["origins"] = [str(origin) for origin in report.origins]
    if report.accuracy is not None:
        record["accuracy"] = report.accuracy
    if report.left_out:
        record["classes_left_out"] = report.left_out
    if report.intervals:
        record["intervals_95"] = {
            name: without_nan(asdict(getattr(report.intervals, name)))
            for name in ("mAP", "mAUC", "d_prime")
        }
    if report.correlations:
        record["correlations"] = {n: without_nan(asdict(c)) for n, c in report.correlations.items()}
    per_class = [without_nan(asdict(result)) for result in report.classes]
    if report.intervals:
        ends = report.intervals.average_precision.T.tolist()
        for row, (low, high) in zip(per_class, ends, strict=True):
            row |= without_nan({"AP_low": low, "AP_high": high})
    strict = {**without_nan(record), "per_class": per_class}
    return json.dumps(strict, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def to_text(report: Report) -> str:
    """The table on the screen: the means, then the classes at both ends."""
    metrics = report.metrics
    left_out = metrics.num_classes - metrics.num_classes_scored
    headline = {
        "mAP": decimal(metrics.mAP, 4),
        "mAUC": decimal(metrics.mAUC, 4),
        "d'": decimal(metrics.d_prime, 4),
    }
    if report.accuracy is not None:
        headline["accuracy"] = decimal(report.accuracy, 4)
    headline["clips"] = f"{metrics.num_clips:,}"
    headline["classes"] = f"{metrics.num_classes_scored:,}"
    lines = [f"{name:<10}{value:>10}" for name, value in headline.items()]
    if report.intervals:
        for i, name in enumerate(("mAP", "mAUC", "d_prime")):
            interval = getattr(report.intervals, name)
            lines[i] += f"  95 %: {decimal(interval.low, 4)} to {decimal(interval.high, 4)}"
    if left_out:
        lines[-1] += f"  and {left_out:,} without a positive clip, left out of the means"
    if report.left_out:
        lines.append(f"{len(report.left_out)} classes left out: {', '.join(report.left_out)}")
    lines += [
        f"AP and {name}: correlation {decimal(c.pearson, 4)}, of ranks {decimal(c.spearman, 4)}, "
        f"{c.classes} classes"
        for name, c in report.correlations.items()
    ]
    for title, results in zip(
        ("best", "worst"), best_and_worst(report.classes, NUM_EXTREMES), strict=True
    ):
        lines += ["", f"{title:<40}{'AP':>8}{'AUC':>8}{'positives':>11}"]
        lines += [
            f"{r.name[:38]:<40}{decimal(r.AP, 4):>8}{decimal(r.AUC, 4):>8}{r.positives:>11,}"
            for r in results
        ]
    return "\n".join(lines) + "\n"


def _write(folder: Path, texts: dict[str, str]) -> None:
    with disk_errors(folder, "write the results", then="run the command again"):
        for name, text in texts.items():
            with atomic_open(folder / name, "w") as file:
                file.write(text)


if __name__ == "__main__":
    cli.run(main)
