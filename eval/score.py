"""Evaluate scores: print and write the metrics, and a report page.

    psla-wds score P.npz --output DIR --run RUN

A model with other classes than the data set's is scored with a mapping between them:

    psla-wds predict MODEL --index ESC50 --other-classes --output P.npz
    psla-wds score P.npz --index ESC50 --mapping esc50 --output DIR
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional

from psla_wds import cli
from psla_wds.config import Within, check_ranges
from psla_wds.errors import ConfigError
from psla_wds.printable import typed

METRICS, PAGE = "metrics.json", "report.html"


@dataclass(frozen=True)
class Args(cli.Overwrite):
    scores: Positional[Path]
    """Score file (.npz) or folder, from psla-wds predict or ensemble."""
    output: Annotated[Path, cli.New((METRICS, PAGE))]
    """Folder for metrics.json and report.html; made if it does not exist."""
    run: Path | None = None
    """Run folder whose training curves and configuration the report shows."""
    index: cli.Shards = ()
    """Shards of the scored clips; their labels replace the targets in the score file."""
    labels: Path | None = None
    """Label overlay for --index, of psla-wds enhance or overlay (PSLA table IX)."""
    mapping: str | None = None
    """Mapping from the model's classes to those of --index: esc50, fsd50k, or a CSV file."""
    several: Literal["first", "max"] = "first"
    """Score of a class to which several of the model's classes map: the first one's, or the
    highest."""
    bootstrap: Annotated[int | None, Within(20, 10_000)] = None
    """Resamples of the clips for 95 % intervals, such as 1000. Default: no intervals."""
    thresholds: Path | None = None
    """Thresholds per class, of psla-wds thresholds on other clips, for precision, recall and F1."""
    train_index: cli.Shards = ()
    """Training shards of --run, if they are no longer where the run had them."""

    def __post_init__(self) -> None:
        check_ranges(self)
        for option, needed in {"labels": "index", "mapping": "index", "train_index": "run"}.items():
            if getattr(self, option) and not getattr(self, needed):
                raise ConfigError(
                    f"--{option.replace('_', '-')} has no effect without --{needed}",
                    where=f"--{option.replace('_', '-')}",
                    fix=f"set --{needed} as well",
                )


def main() -> None:
    score(cli.parse(Args, __doc__, prog="score"), sys.argv[1:])


def score(args: Args, words: Sequence[str] = ()) -> None:
    """Write and print the report; `words` are the command line's, which the page repeats."""
    # Imported here, since they take seconds.
    from eval.pages.page import write_texts
    from eval.pages.report import make_report, render, to_json, to_text, with_thresholds
    from psla_wds.evaluation.mapping import map_scores, read_mapping, with_targets
    from psla_wds.evaluation.scores import Scores
    from psla_wds.evaluation.thresholds import read_thresholds
    from psla_wds.shards.index_files import open_indexes
    from psla_wds.shards.overlay import apply_overlay
    from train.run.log import read_run

    run = read_run(args.run) if args.run else None
    mapping = read_mapping(args.mapping) if args.mapping else None
    scores = Scores.load(args.scores)
    scores.warn_if_alike()
    limits = read_thresholds(args.thresholds) if args.thresholds else None
    if args.index:
        index = open_indexes(args.index)
        index = apply_overlay(index, args.labels) if args.labels else index
        if mapping:
            scores = map_scores(scores, index, mapping, args.several)
        else:
            scores = with_targets(scores, index, where=args.scores)
    # Before the metrics, since thresholds for other classes are an error.
    thresholds = limits.of(scores.mids, where=args.thresholds) if limits else None
    report = make_report(
        scores,
        args.scores,
        run=run,
        train_index=args.train_index,
        resamples=args.bootstrap,
        left_out=mapping.left_out if mapping else (),
    )
    if thresholds is not None:
        report = with_thresholds(report, scores, thresholds)
    page, metrics = args.output / PAGE, args.output / METRICS
    write_texts({metrics: to_json(report), page: render(report, words)}, "results")
    print(to_text(report))
    print(f"wrote {metrics} and {page}; next: open {typed(page)} in a browser")


if __name__ == "__main__":
    cli.run(main)
