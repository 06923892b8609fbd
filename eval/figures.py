"""Figures of a run, or of runs that differ by their seed, as SVG and PNG files.

    python -m eval.figures RUN [RUN ...] --output DIR
    python -m eval.figures RUN --index SHARDS --output DIR

learning-curve: mean and spread over the runs (PSLA figure 9). loss, learning-rate and data-wait, of
the first run, as in its report; class-counts, class-draws and unseen, by the plans of its epochs
(figures 4 to 6), where its training shards are found, and not with --no-plans; class-ap, where it
has scores.npz (figure 7).
With --index every epoch is scored, then the mean weights, and the mean scores, of each epoch to the
last: averaging (figure 8), with averaging.json and the scores of each epoch, for eval.ensemble.
figures.json has the numbers of all. PNG files need: pip install 'psla-wds[report]'.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, UseAppendAction, arg

from eval.averaging import Evaluation, averaging_curves, averaging_figure, best_start, check_run
from eval.chart_files import why_no_png, write_figures
from eval.charts import Figure
from eval.class_charts import class_ap_figure, class_results
from eval.comparison import SCORES_OF_A_RUN
from eval.data_audit import find_training_set
from eval.draw_counts import plan_figures
from eval.run_charts import seeds_figure, training_figures
from eval.run_settings import differing_settings
from eval.scored_runs import current_scored
from psla_wds import cli
from psla_wds.errors import ConfigError, ScoreError
from psla_wds.evaluation.metrics import evaluate
from psla_wds.evaluation.scores import Scores
from psla_wds.io.atomic_files import atomic_folder, disk_errors
from psla_wds.reading.config import ReaderConfig
from psla_wds.runtime.distributed import join_world
from psla_wds.shards.index_files import open_indexes
from train.config import is_method
from train.run.log import Run, read_run

Shards = Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="SHARDS[:SPLIT,...]")]

logger = logging.getLogger("figures")


@dataclass(frozen=True)
class Args:
    runs: Positional[tuple[Path, ...]]
    """Folders of runs; several are runs that differ by their seed alone."""
    output: Path
    """Folder to write; it must not exist."""
    index: Shards = ()
    """Shards to evaluate every epoch of the first run on, for the averages."""
    train_index: Shards = ()
    """The first run's training shards, if they are no longer where it had them."""
    plans: bool = True
    """Draw what the plans of its epochs show: about a second an epoch of two million clips."""
    batch_size: int = 32
    reader: ReaderConfig = field(default_factory=ReaderConfig)

    def __post_init__(self) -> None:
        if not self.runs:
            raise ConfigError("there is no run", where="RUN", fix="name the folder of a run")
        if self.output.exists():
            raise ConfigError(
                "something is there already", where=self.output, fix="choose another --output"
            )


def log_figures(runs: Sequence[Run]) -> list[Figure]:
    """What the logs show: the learning curve of all runs, and the training of the first."""
    check_seeds(runs)
    figures = [f for f in training_figures(runs[0]) if f.name != "quality"]
    silent = [str(run.folder) for run in runs if not run.evaluated]
    if silent and len(runs) > 1:
        raise ConfigError(
            "there is no mean over runs of which one was not evaluated while it trained",
            where=" ".join(silent),
            fix="leave it out, or train it with --eval-index",
        )
    if silent:
        logger.warning("no learning-curve: %s was not evaluated while it trained", silent[0])
        return figures
    return [_marked(seeds_figure(runs), runs), *figures]


def _marked(figure: Figure, runs: Sequence[Run]) -> Figure:
    """The figure, with a word on runs that are not done."""
    halves = [f"{run.folder.name}: epoch {run.progress()}" for run in runs if not run.is_done]
    return (
        replace(figure, note=f"{figure.note} Not done: {'; '.join(halves)}.") if halves else figure
    )


def check_seeds(runs: Sequence[Run]) -> None:
    """Raise unless the runs differ by their seed alone, among what they learn from."""
    found = {n: v for n, v in differing_settings(runs).items() if is_method(n)}
    found.pop("seed", None)
    if found:
        differences = "; ".join(f"{name}: {', '.join(values)}" for name, values in found.items())
        raise ConfigError(
            f"these runs differ by more than their seed: {differences}",
            where=" ".join(str(run.folder) for run in runs),
            fix="python -m eval.compare compares runs of other settings",
        )


def data_figures(run: Run, train_index: tuple[str, ...]) -> list[Figure]:
    """What the plans of the run show; nothing where its training shards are not found."""
    data = find_training_set(run, train_index)
    return plan_figures(data) if data else []


def score_figures(run: Run) -> list[Figure]:
    """What its scores show; nothing where it has none, or those of other weights."""
    path = run.folder / SCORES_OF_A_RUN
    if not path.exists():
        logger.warning(
            "no class-ap: python -m eval.predict %s --index SHARDS --output %s", run.folder, path
        )
        return []
    scores = Scores.load(path)
    try:
        current_scored(scores.origins, run.folder, where=path)
    except ScoreError as error:
        logger.warning("no class-ap: %s", error)
        return []
    return [class_ap_figure(class_results(scores, evaluate(scores.scores, scores.targets)))]


def averages(args: Args, folder: Path) -> tuple[list[Figure], str]:
    """Figure 8, and what to say of it."""
    if not args.index:
        return [], ""
    index = open_indexes(args.index)
    check_run(args.runs[0], index)
    with join_world() as world:
        evaluation = Evaluation(index, world, args.batch_size, args.reader)
        starts = averaging_curves(args.runs[0], evaluation, folder)
    best = best_start(starts)
    return [averaging_figure(starts)], (
        f"; the best average begins at epoch {best.epoch} (mAP {best.weight_average:.4f}); next: "
        f"python -m eval.ensemble {args.output}/epoch-*.npz --output E.npz"
    )


def _logged_runs(args: Args) -> list[Run]:
    """The runs with their logs. Averages need the checkpoints of one alone."""
    alone = args.index and len(args.runs) == 1
    if alone and not (args.runs[0] / "config.json").exists():
        return []
    return [read_run(path) for path in args.runs]


def main() -> None:
    args = cli.parse(Args, __doc__, prog="python -m eval.figures")
    runs = _logged_runs(args)
    figures = log_figures(runs) if runs else []
    told = disk_errors(args.output, "write the figures", then="run the command again")
    with told, atomic_folder(args.output) as folder:
        for run in runs[:1]:
            figures += data_figures(run, args.train_index) if args.plans else []
            figures += score_figures(run)
        averaged, words = averages(args, folder)
        figures += averaged
        if not figures:
            raise ConfigError(
                "there is nothing to draw: the log is empty",
                where=args.runs[0],
                fix="train the run, or give --index SHARDS",
            )
        write_figures(figures, folder)
    reason = why_no_png()
    kinds = "SVG" if reason else "SVG and PNG"
    print(f"wrote {args.output}: {', '.join(f.name for f in figures)} ({kinds}){words}")
    if reason:
        logger.warning("%s", reason)


if __name__ == "__main__":
    cli.run(main)
