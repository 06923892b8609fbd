"""Charts of runs, from their logs: one run by step and epoch, or several by epoch."""

import math
import statistics
from collections.abc import Sequence

from eval.axes import linear_axis, log_axis, percent, short_number
from eval.charts import COLOURS, Band, Chart, Figure, Mark, Series
from psla_wds.reading.read_tuner import bound_by
from train.run.log import Run

ADVICE = {
    "step": "The step, not the data, sets the pace.",
    "storage": "Reads set the pace: --stage DIR copies the shards to a faster disk.",
    "decoding": "Decoding sets the pace: more --reader.decode-threads and cores, or shards built "
    "with --codec wav.",
    "data": "Data set the pace: the log of the training says whether reads or decoding.",
}


def training_figures(run: Run) -> list[Figure]:
    """Loss, evaluation mAP, learning rate and waiting for data, over the run so far."""
    figures = []
    if run.steps or run.epochs:
        figures.append(loss_figure(run))
    if run.evaluated:
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
    return Figure("loss", "Loss", Chart("Loss by step", x_axis, y_axis, drawn), "Log scale.")


def quality_figure(run: Run) -> Figure:
    epochs, values = [r.epoch for r in run.epochs], [r.mAP for r in run.epochs]
    best = max(run.epochs, key=lambda r: -1.0 if math.isnan(r.mAP) else r.mAP)
    x_axis = linear_axis("epoch", epochs, smallest_step=1)
    line = Series("mAP", epochs, values, "second")
    chart = Chart("Evaluation mAP by epoch", x_axis, linear_axis("mAP", values), (line,))
    return Figure("quality", "Evaluation mAP", chart, f"Best {best.mAP:.4f}, epoch {best.epoch}.")


def learning_rate_figure(run: Run) -> Figure:
    steps, rates = [r.step for r in run.steps], [r.learning_rate for r in run.steps]
    x_axis = linear_axis("step", steps, smallest_step=1)
    y_axis = linear_axis("learning rate", [0, *rates])
    line = Series("learning rate", steps, rates, "first")
    chart = Chart("Learning rate by step", x_axis, y_axis, (line,))
    return Figure("learning-rate", "Learning rate", chart, f"Highest {short_number(max(rates))}.")


def data_wait_figure(run: Run) -> Figure:
    steps, waits = [r.step for r in run.steps], [r.data_wait for r in run.steps]
    x_axis = linear_axis("step", steps, smallest_step=1)
    y_axis = linear_axis("share of time", [0, *waits], text=percent)
    line = Series("waiting", steps, waits, "first")
    chart = Chart("Share of time spent waiting for data, by step", x_axis, y_axis, (line,))
    note = f"Median {percent(statistics.median(waits))} of the time."
    return Figure("data-wait", "Waiting for data", chart, note)


def data_verdict(run: Run) -> str:
    """What the last epoch was bounded by, in the words of the training; empty before its end."""
    if not run.epochs:
        return ""
    last = run.epochs[-1]
    bound: str = bound_by(last.data_wait, last.storage_wait)
    if bound != "step" and math.isnan(last.storage_wait):
        bound = "data"
    share = percent(last.data_wait)
    return f"{share} of epoch {last.epoch} went to waiting for data. {ADVICE[bound]}"


def seeds_figure(runs: Sequence[Run]) -> Figure:
    """mAP by epoch of runs that differ by their seed: mean and spread (PSLA figure 9).

    A mean is drawn where all runs have been evaluated, so that it is of the same runs throughout.
    """
    by_run = [{r.epoch: r.mAP for r in run.evaluated if math.isfinite(r.mAP)} for run in runs]
    epochs = sorted(set.union(*map(set, by_run)))
    values = [[of_run.get(epoch, math.nan) for of_run in by_run] for epoch in epochs]
    whole = [[math.nan] if any(map(math.isnan, v)) else v for v in values]
    low, mean, high = ([f(v) for v in whole] for f in (min, statistics.fmean, max))
    marks: tuple[Mark, ...] = (Series("", epochs, mean, "first"),)
    if len(runs) > 1:
        each = [Series("", epochs, [v[i] for v in values], "faint") for i in range(len(runs))]
        average = Series(f"mean of {len(runs)} runs", epochs, mean, "first")
        marks = (Band("lowest to highest", epochs, low, high, "first"), *each, average)
    x_axis = linear_axis("epoch", epochs, smallest_step=1)
    y_axis = linear_axis("mAP", [y for v in values for y in v])
    chart = Chart("Evaluation mAP by epoch", x_axis, y_axis, marks)
    return Figure("learning-curve", "Learning curve", chart, _spread_at_the_end(epochs, whole))


def _spread_at_the_end(epochs: Sequence[int], values: Sequence[Sequence[float]]) -> str:
    common = [(e, v) for e, v in zip(epochs, values, strict=True) if not math.isnan(v[0])]
    if not common:
        return "No epoch was evaluated in all runs."
    epoch, last = common[-1]
    mean = f"{statistics.fmean(last):.4f}"
    if len(last) == 1:
        return f"mAP {mean} after epoch {epoch}."
    return (
        f"mAP {mean} after epoch {epoch}, standard deviation {statistics.stdev(last):.4f} "
        f"over {len(last)} runs."
    )


def runs_figures(runs: Sequence[tuple[str, Run]]) -> list[Figure]:
    """Evaluation mAP and training loss by epoch of several runs, by name.

    A run that was not evaluated is told; without any epoch there is no figure.
    """
    if not any(run.epochs for _, run in runs):
        return []
    missing = [name for name, run in runs if not run.evaluated]
    note = f"Not evaluated while it trained: {', '.join(missing)}." if missing else ""
    maps, losses = (_lines(runs, value) for value in ("mAP", "train_loss"))
    x_axis = linear_axis("epoch", [x for s in losses for x in s.x], smallest_step=1)
    y_axes = (
        linear_axis("mAP", [y for s in maps for y in s.y]),
        log_axis("training loss", [y for s in losses for y in s.y]),
    )
    curves = Chart("Evaluation mAP by epoch of each run", x_axis, y_axes[0], maps)
    return [
        Figure("curves", "Evaluation mAP", curves, note),
        Figure(
            "losses",
            "Training loss",
            Chart("Training loss by epoch of each run", x_axis, y_axes[1], losses),
            "Log scale.",
        ),
    ]


def _lines(runs: Sequence[tuple[str, Run]], value: str) -> tuple[Series, ...]:
    """A line a run, in colours that go round where there are more runs than colours."""
    return tuple(
        Series(
            name,
            [record.epoch for record in run.epochs],
            [getattr(record, value) for record in run.epochs],
            COLOURS[i % len(COLOURS)],
        )
        for i, (name, run) in enumerate(runs)
    )
