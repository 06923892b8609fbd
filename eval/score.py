"""Score a file of scores: the metrics for people, for programs and as a page.

python -m eval.score P.npz --output DIR --run RUN
"""

import hashlib
import json
import logging
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import tyro

from eval.metrics import Metrics, accuracy, evaluate
from eval.report import ClassResult, Report, best_and_worst, decimal, render
from eval.run_log import read_run
from eval.scores import Scores
from psla_wds import cli
from psla_wds.errors import ScoreError
from psla_wds.files import atomic_open

logger = logging.getLogger("score")

NUM_EXTREMES = 5


@dataclass(frozen=True)
class Args:
    scores: tyro.conf.Positional[Path]
    """Score file (.npz), from eval.predict or eval.ensemble."""
    output: Path
    """Folder for metrics.json and report.html; made if it is not there."""
    run: Path | None = None
    """Run folder whose training curves and configuration the report shows."""


def main() -> None:
    score(tyro.cli(Args, description=__doc__))


def score(args: Args) -> None:
    run = read_run(args.run) if args.run else None
    if run and run.cut:
        logger.warning("%s ends in the middle of a line: left out", run.folder / "log.jsonl")
    scores = Scores.load(args.scores)
    metrics = evaluate(scores.scores, scores.targets)
    report = Report(
        scores_path=args.scores,
        sha256=_sha256(args.scores),
        output=args.output,
        metrics=metrics,
        accuracy=accuracy(scores.scores, scores.targets),
        classes=class_results(scores, metrics),
        run=run,
    )
    _write(args.output, {"metrics.json": to_json(report), "report.html": render(report)})
    print(to_text(report))
    page = args.output / "report.html"
    print(f"wrote {args.output / 'metrics.json'} and {page}; next: open {page}")


def class_results(scores: Scores, metrics: Metrics) -> tuple[ClassResult, ...]:
    columns = (metrics.average_precision, metrics.roc_auc, metrics.num_positives)
    rows = zip(scores.mids, scores.names, *(column.tolist() for column in columns), strict=True)
    return tuple(ClassResult(*row) for row in rows)


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
    if report.accuracy is not None:
        record["accuracy"] = report.accuracy
    per_class = [_without_nan(asdict(result)) for result in report.classes]
    strict = {**_without_nan(record), "per_class": per_class}
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
    if left_out:
        lines[-1] += f"  and {left_out:,} without a positive clip, left out of the means"
    for title, results in zip(
        ("best", "worst"), best_and_worst(report.classes, NUM_EXTREMES), strict=True
    ):
        lines += ["", f"{title:<40}{'AP':>8}{'AUC':>8}{'positives':>11}"]
        lines += [
            f"{r.name[:38]:<40}{decimal(r.AP, 4):>8}{decimal(r.AUC, 4):>8}{r.positives:>11,}"
            for r in results
        ]
    return "\n".join(lines) + "\n"


def _without_nan(record: dict[str, object]) -> dict[str, object]:
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in record.items()
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(folder: Path, texts: dict[str, str]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            with atomic_open(folder / name, "w") as file:
                file.write(text)
    except OSError as error:
        raise ScoreError(
            f"the results cannot be written: {error.strerror}",
            where=folder,
            fix="--output names a folder that can be written",
        ) from None


if __name__ == "__main__":
    cli.run(main)
