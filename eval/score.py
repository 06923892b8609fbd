"""Score a file of scores: the metrics for people, for programs and as a page.

    python -m eval.score P.npz --output DIR --run RUN

A model that was made for other classes: python -m eval.predict MODEL --index ESC50 --other-classes
--output P.npz, then python -m eval.score P.npz --index ESC50 --mapping esc50 --output DIR.
"""

import csv
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from jaxtyping import Float64
from tyro.conf import Positional, UseAppendAction, arg

from eval.pages.figures import plan_figures
from eval.pages.page import check_resamples, write_texts
from eval.pages.report import Correlation, Report, class_results, render, to_json, to_text
from eval.run_settings import find_training_set
from eval.scored_runs import Scored, scored_of_run
from psla_wds import cli
from psla_wds.config import Within, check_ranges
from psla_wds.errors import ConfigError, ScoreError
from psla_wds.evaluation.bootstrap import bootstrap
from psla_wds.evaluation.mapping import Mapping, Several, map_scores, read_mapping, with_targets
from psla_wds.evaluation.metrics import Metrics, accuracy, evaluate
from psla_wds.evaluation.scores import Scores
from psla_wds.io.files import sha256_of
from psla_wds.shards.clip_ids import NOT_THERE, ClipIds
from psla_wds.shards.index import ShardIndex
from psla_wds.shards.index_files import open_indexes
from psla_wds.shards.overlay import apply_overlay
from train.run.log import Run, read_run

logger = logging.getLogger("score")

QUALITY_COLUMNS = ("label_id", "num_rated", "num_true")
NEEDED = {"labels": "index", "mapping": "index", "train_labels": "train_index"}
"""Options that say something about shards, and the option that names these."""
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
    bootstrap: Annotated[int, Within(0)] = 0
    """Resamples of the clips for confidence intervals, such as 1000. Default: no intervals."""
    train_index: Shards = ()
    """Training shards: correlate the AP of the classes with their number of clips there (PSLA table
    VII). With --run, its training shards, if they are no longer where the run had them."""
    train_labels: Path | None = None
    """Label overlay of --train-index."""
    quality: Path | None = None
    """AudioSet's qa_true_counts.csv: correlate AP with the quality of annotations (table VII)."""

    def __post_init__(self) -> None:
        check_ranges(self)
        check_resamples(self.bootstrap)
        for option, needed in NEEDED.items():
            if getattr(self, option) and not getattr(self, needed):
                raise ConfigError(
                    f"{option} belongs to shards",
                    where=f"--{option.replace('_', '-')}",
                    fix=f"set --{needed.replace('_', '-')} as well",
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
    page, metrics = args.output / "report.html", args.output / "metrics.json"
    write_texts({metrics: to_json(report), page: render(report)}, "results")
    print(to_text(report))
    print(f"wrote {metrics} and {page}; next: open {page}")


def _report(args: Args, scores: Scores, run: Run | None, left_out: tuple[str, ...]) -> Report:
    metrics, resamples = evaluate(scores.scores, scores.targets), args.bootstrap
    intervals = (
        resamples and bootstrap(scores.scores, scores.targets, resamples=resamples)
    ) or None
    return Report(
        scores_path=args.scores,
        sha256=sha256_of(args.scores / "scores.npy" if args.scores.is_dir() else args.scores),
        origins=scores.origins,
        output=args.output,
        metrics=metrics,
        accuracy=accuracy(scores.scores, scores.targets),
        classes=class_results(scores, metrics, intervals),
        run=run,
        scored=_scored(args, scores, run) if run else None,
        intervals=intervals,
        correlations=_correlations(args, scores, metrics),
        left_out=left_out,
        **(_data(args, scores, run) if run else {}),
    )


def _scored(args: Args, scores: Scores, run: Run) -> Scored:
    """Which weights of the run; a warning if they are not its last. An average may lie elsewhere,
    and score and run are both named by hand."""
    found = scored_of_run(scores.origins, run.folder, where=args.scores)
    if not found.is_current:
        logger.warning("%s: these are scores of %s", args.scores, found)
    return found


def _data(args: Args, scores: Scores, run: Run) -> dict[str, Any]:
    """What there is to say of the run's training clips; nothing where they are not found."""
    data = find_training_set(run, args.train_index)
    if data is None:
        return {}
    rows = data.index.clip_ids.rows_of(ClipIds.of(scores.clip_ids))
    trained_on = int(np.count_nonzero(rows != NOT_THERE))
    return {"plan_figures": tuple(plan_figures(data)), "trained_on": trained_on}


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


def _correlations(args: Args, scores: Scores, metrics: Metrics) -> dict[str, Correlation]:
    """Correlation of AP with what was asked for (PSLA table VII)."""
    found = {}
    if args.train_index:
        index = _labelled(args.train_index, args.train_labels)
        counts = dict(zip(index.classes.mids, index.class_counts().tolist(), strict=True))
        found["training clips"] = counts
    if args.quality:
        found["annotation quality"] = read_quality(args.quality)
    return {
        name: correlate(
            metrics.average_precision, np.array([values.get(mid, np.nan) for mid in scores.mids])
        )
        for name, values in found.items()
    }


def correlate(
    first: Float64[np.ndarray, " classes"], second: Float64[np.ndarray, " classes"]
) -> Correlation:
    """Pearson's correlation over the classes for which both are defined."""
    both = ~np.isnan(first) & ~np.isnan(second)
    x, y = first[both], second[both]
    defined = len(x) > 1 and np.ptp(x) > 0 and np.ptp(y) > 0
    return Correlation(float(np.corrcoef(x, y)[0, 1]) if defined else float("nan"), len(x))


def read_quality(path: Path) -> dict[str, float]:
    """Share of the rated clips of each class that raters found right, by mid.

    The file is AudioSet's qa_true_counts.csv: `label_id,num_rated,num_true`.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [[row[name] for name in QUALITY_COLUMNS] for row in csv.DictReader(file)]
        return {mid: int(true) / int(rated) for mid, rated, true in rows if int(rated)}
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise ScoreError(
            f"the ratings cannot be read: {error!r}",
            where=path,
            fix=f"--quality names a CSV with the columns {','.join(QUALITY_COLUMNS)}",
        ) from None


if __name__ == "__main__":
    cli.run(main)
