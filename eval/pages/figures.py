"""Figures of runs and of classes: from logs, from the plans of epochs, and from scores."""

import logging
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int64

from eval.pages.charts import (
    COLOURS,
    Axis,
    Band,
    Dots,
    Figure,
    Line,
    Mark,
    Number,
    linear_axis,
    log_axis,
    percent,
    short_number,
    signed_number,
)
from eval.pages.runs import (
    SCORES_OF_A_RUN,
    TrainingSet,
    check_seeds,
    current_scored,
    predict_again,
)
from psla_wds.errors import ConfigError, ScoreError
from psla_wds.evaluation.metrics import Metrics, evaluate
from psla_wds.evaluation.scores import Scores
from train.run.log import Run

NUM_NAMED = 8
"""Number of classes named in a chart."""

logger = logging.getLogger("figures")


def log_figures(runs: Sequence[Run]) -> list[Figure]:
    """The learning curve of runs that differ only by their seed, and the first run's training."""
    check_seeds(runs)
    silent = [str(run.folder) for run in runs if not run.evaluated]
    if silent and len(runs) > 1:
        raise ConfigError(
            "a mean over runs needs runs that were evaluated while they trained",
            where=" ".join(silent),
            fix="leave these out, or train them with --eval-index",
        )
    figures = [f for f in training_figures(runs[0]) if f.name != "learning-curve"]
    if silent:
        logger.warning("no learning-curve: %s was not evaluated while it trained", silent[0])
        return figures
    curve = learning_curve(runs)
    halves = [f"{run.folder.name}: epoch {run.progress()}" for run in runs if not run.is_done]
    note = f"{curve.note} Not done: {'; '.join(halves)}." if halves else curve.note
    return [replace(curve, title="Learning curve", note=note), *figures]


def score_figures(run: Run) -> list[Figure]:
    """Average precision of each class; nothing, with a warning, without scores of the run."""
    path = run.folder / SCORES_OF_A_RUN
    if not path.exists():
        logger.warning("no class-ap: %s", predict_again(run.folder, path))
        return []
    scores = Scores.load(path)
    try:
        current_scored(scores.origins, run.folder, where=path)
    except ScoreError as error:
        logger.warning("no class-ap: %s", error)
        return []
    return [class_ap_figure(evaluate(scores.scores, scores.targets), scores.names)]


def training_figures(run: Run) -> list[Figure]:
    """Loss, evaluation mAP, learning rate and waiting for data, if the log has several of them."""
    figures = [loss_figure(run)] if run.steps or run.epochs else []
    figures += [learning_curve([run])] if run.evaluated else []
    figures += step_figures(run) if run.steps else []
    return [figure for figure in figures if figure.most_points > 1]  # one dot shows no course


def loss_figure(run: Run) -> Figure:
    epoch_ends = [record.step for record in run.epochs]
    lines = (
        Line("each step", [r.step for r in run.steps], [r.loss for r in run.steps], "faint"),
        Line("training", epoch_ends, [r.train_loss for r in run.epochs], "first"),
        Line("evaluation", epoch_ends, [r.eval_loss for r in run.epochs], "second"),
    )
    drawn = tuple(line for line in lines if not all(map(math.isnan, line.y)))
    x_axis = linear_axis("step", [x for line in drawn for x in line.x], smallest_step=1)
    y_axis = log_axis("loss", [y for line in drawn for y in line.y])
    return Figure("loss", "Loss", x_axis, y_axis, drawn, "Log scale.")


def step_figures(run: Run) -> list[Figure]:
    """Learning rate and waiting for data, by step."""
    steps = [record.step for record in run.steps]
    rates = [record.learning_rate for record in run.steps]
    waits = [record.data_wait for record in run.steps]
    x_axis = linear_axis("step", steps, smallest_step=1)
    rate_axis = linear_axis("learning rate", [0, *rates])
    wait_axis = linear_axis("share of time", [0, *waits], text=percent)
    rate_line, wait_line = (Line("", steps, values, "first") for values in (rates, waits))
    note = f"Median {percent(statistics.median(waits))} of the time."
    highest = f"Highest {short_number(max(rates))}."
    return [
        Figure("learning-rate", "Learning rate", x_axis, rate_axis, (rate_line,), highest),
        Figure("data-wait", "Waiting for data", x_axis, wait_axis, (wait_line,), note),
    ]


def learning_curve(runs: Sequence[Run]) -> Figure:
    """mAP by epoch of a run, or of runs that differ by their seed: mean and spread (PSLA figure 9).

    A mean is drawn where all runs were evaluated, so that it is over the same runs throughout.
    """
    by_run = [{r.epoch: r.mAP for r in run.evaluated if math.isfinite(r.mAP)} for run in runs]
    epochs = sorted(set().union(*by_run))
    values = [[of_run.get(epoch, math.nan) for of_run in by_run] for epoch in epochs]
    whole = [[math.nan] if any(map(math.isnan, v)) else v for v in values]
    low, mean, high = ([f(v) for v in whole] for f in (min, statistics.fmean, max))
    marks: tuple[Mark, ...] = (Line("", epochs, mean, "second"),)
    if len(runs) > 1:
        each = [Line("", epochs, [v[i] for v in values], "faint") for i in range(len(runs))]
        average = Line(f"mean of {len(runs)} runs", epochs, mean, "second")
        marks = (Band("lowest to highest", epochs, low, high, "second"), *each, average)
    x_axis = linear_axis("epoch", epochs, smallest_step=1)
    y_axis = linear_axis("mAP", [y for v in values for y in v])
    note = _at_the_end({e: v for e, v in zip(epochs, whole, strict=True) if not math.isnan(v[0])})
    return Figure("learning-curve", "Evaluation mAP", x_axis, y_axis, marks, note)


def _at_the_end(values: dict[int, list[float]]) -> str:
    """Result of the last epoch that all runs have, in words."""
    if not values:
        return "No epoch was evaluated in all runs."
    epoch, last = max(values), values[max(values)]
    if len(last) > 1:
        return (
            f"mAP {statistics.fmean(last):.4f} after epoch {epoch}, standard deviation "
            f"{statistics.stdev(last):.4f} over {len(last)} runs."
        )
    best = max(values, key=lambda epoch: values[epoch])
    return f"mAP {last[0]:.4f} after epoch {epoch}" + (
        f", best {values[best][0]:.4f} after epoch {best}." if best != epoch else "."
    )


def runs_figures(runs: Sequence[tuple[str, Run]]) -> list[Figure]:
    """Evaluation mAP and training loss by epoch, a line for each run; none without epochs."""
    if not any(run.epochs for _, run in runs):
        return []
    maps, losses = (_lines(runs, value) for value in ("mAP", "train_loss"))
    x_axis = linear_axis("epoch", [x for line in losses for x in line.x], smallest_step=1)
    map_axis = linear_axis("mAP", [y for line in maps for y in line.y])
    loss_axis = log_axis("training loss", [y for line in losses for y in line.y])
    return [
        Figure("curves", "Evaluation mAP", x_axis, map_axis, maps),
        Figure("losses", "Training loss", x_axis, loss_axis, losses, "Log scale."),
    ]


def _lines(runs: Sequence[tuple[str, Run]], value: str) -> tuple[Line, ...]:
    """A line for each run; the colours repeat where there are more runs."""
    return tuple(
        Line(
            name,
            [record.epoch for record in run.epochs],
            [getattr(record, value) for record in run.epochs],
            COLOURS[i % len(COLOURS)],
        )
        for i, (name, run) in enumerate(runs)
    )


def positives_figure(metrics: Metrics, names: Sequence[str]) -> Figure:
    """Average precision of every class against its number of positives."""
    scored = np.flatnonzero(metrics.num_positives)
    counts, values = metrics.num_positives[scored].tolist(), metrics.average_precision[scored]
    x_axis = log_axis("positives, log scale", counts)
    x = np.geomspace(x_axis.low, min(x_axis.high, metrics.num_clips), 61).tolist()
    random_ranking = Line("random ranking", x, [v / metrics.num_clips for v in x], "dashed")
    titles = [
        f"{names[k]}: AP {value:.4f}, {count:,}"
        for k, value, count in zip(scored.tolist(), values.tolist(), counts, strict=True)
    ]
    marks = (random_ranking, Dots(counts, values.tolist(), titles))
    note = "A dot is a class. Dashed: a random ranking, whose AP is the share of positives."
    title = "Average precision by positives"
    return Figure("positives", title, x_axis, linear_axis("AP", [0, 1]), marks, note)


def class_ap_figure(metrics: Metrics, names: Sequence[str]) -> Figure:
    """Average precision of every class, the best first (PSLA figure 7)."""
    order = np.argsort(-metrics.average_precision, kind="stable")[: metrics.num_classes_scored]
    values, mean = metrics.average_precision[order].tolist(), metrics.mAP
    x_axis = _rank_axis("classes, the best first", len(order))
    marks = (
        _columns(values),
        Line("mean", [0, len(order)], [mean, mean], "dashed"),
        _some_names([names[k] for k in order], values),
    )
    note = f"{len(order)} classes; dashed: their mean, the mAP, {mean:.4f}."
    title = "Average precision of every class"
    return Figure("class-ap", title, x_axis, linear_axis("AP", [0, 1]), marks, note)


@dataclass(frozen=True)
class DrawCounts:
    """Draws of a run over all of its epochs, counted on the plans themselves."""

    of_class: Int64[np.ndarray, " classes"]
    """Draws of clips that carry each class, without mixed-in clips."""
    unseen: list[float]
    """Share of the clips that were never drawn after 0, 1, 2, ... epochs."""
    unseen_with_partners: list[float]
    """Share of the clips that were neither drawn nor mixed in."""


def count_draws(data: TrainingSet) -> DrawCounts:
    """Count the draws in the plans of all epochs."""
    index, num_clips = data.index, len(data.index)
    times, seen = np.zeros(num_clips, np.int64), np.zeros(num_clips, bool)
    unseen, with_partners = [1.0], [1.0]
    for rows, partners in data.epochs():
        times += np.bincount(rows, minlength=num_clips)
        seen[rows] = seen[partners] = True
        unseen.append(1 - int(np.count_nonzero(times)) / num_clips)
        with_partners.append(1 - int(np.count_nonzero(seen)) / num_clips)
    by_label = np.repeat(times, np.diff(index.label_starts))
    # Sums of integers below 2**53 are exact in the float64 of bincount's weights.
    of_class = np.bincount(index.label_values, by_label, len(index.classes)).astype(np.int64)
    return DrawCounts(of_class, unseen, with_partners)


def plan_figures(data: TrainingSet) -> list[Figure]:
    """Clips and draws of every class, and the share of unseen clips (PSLA figures 4 to 6)."""
    counts, drawn, settings = data.index.class_counts(), count_draws(data), data.config
    mixes = settings.augment.mixup_rate > 0
    names, sampling = data.index.classes.names, settings.sampler.sampling
    return [
        class_counts_figure(counts, names),
        class_draws_figure(counts, drawn.of_class, epochs=settings.epochs, sampling=sampling),
        unseen_figure(drawn.unseen, drawn.unseen_with_partners if mixes else None),
    ]


def class_counts_figure(counts: np.ndarray, names: Sequence[str]) -> Figure:
    """Clips of every class in the data set (PSLA figure 4)."""
    order = _by_clips(counts)
    values = counts[order].tolist()
    y_axis = log_axis("clips", [*values, min(values, default=1) / 2])  # a foot for the smallest
    note = "Log scale."
    if values and values[0] > values[-1]:
        note += f" The largest has {values[0] / values[-1]:,.3g} times the clips of the smallest."
    if empty := len(counts) - len(order):
        note += f" {empty} classes have none."
    marks = (_columns(values, y_axis.low), _some_names([names[k] for k in order], values))
    x_axis = _rank_axis("classes, the largest first", len(order))
    return Figure("class-counts", "Clips of every class", x_axis, y_axis, marks, note)


def class_draws_figure(
    counts: np.ndarray, drawn: np.ndarray, *, epochs: int, sampling: str
) -> Figure:
    """How often a run draws the clips of every class (PSLA figure 5)."""
    order = _by_clips(counts)
    ranks = (np.arange(len(order)) + 0.5).tolist()
    each_once, by_plan = (counts[order] * epochs).tolist(), drawn[order].tolist()
    note = f"{epochs} epochs, log scale."
    if positive := [count for count in by_plan if count]:
        most = max(positive) / min(positive)
        note += f" The class drawn most is drawn {most:,.3g} times as often as the one drawn least."
    marks = (
        Line("each clip once an epoch", ranks, each_once, "dashed"),
        Line(f"this run: {sampling}", ranks, by_plan, "second"),
    )
    x_axis = _rank_axis("classes, the largest first", len(order))
    y_axis = log_axis("draws", each_once + by_plan)
    return Figure("class-draws", "Draws of every class", x_axis, y_axis, marks, note)


def unseen_figure(unseen: Sequence[float], with_partners: Sequence[float] | None) -> Figure:
    """Share of the clips that were not seen yet, by epoch (PSLA figure 6)."""
    epochs = list(range(len(unseen)))
    marks = [Line("draws alone", epochs, unseen, "first")]
    note = f"After epoch {epochs[-1]}: {percent(unseen[-1])} never drawn"
    if with_partners is not None:
        marks.append(Line("draws and mixup", epochs, with_partners, "second"))
        note += f", {percent(with_partners[-1])} neither drawn nor mixed in"
    x_axis = linear_axis("epochs done", epochs, smallest_step=1)
    y_axis = linear_axis("share of clips", [0, 1], text=percent)
    return Figure("unseen", "Clips not seen so far", x_axis, y_axis, tuple(marks), f"{note}.")


def changes_figure(changes: np.ndarray, bounds: np.ndarray, name: str) -> Figure:
    """Change of every class's AP, the largest gain first, with its 95 % interval.

    Args:
        bounds: [2, classes] low and high ends of the intervals.
    """
    order = np.argsort(-changes, kind="stable")
    order = order[np.isfinite(changes[order])]
    ranks, values = (np.arange(len(order)) + 0.5).tolist(), changes[order].tolist()
    low, high = bounds[:, order].tolist()
    marks = (
        Line("", [0, len(order)], [0, 0], "dashed"),
        Band("95 % interval", ranks, low, high, "first"),
        Line("change", ranks, values, "first"),
    )
    x_axis = _rank_axis("classes, the largest gain first", len(order))
    y_axis = linear_axis("change of AP", [*values, *low, *high, 0], text=signed_number)
    better = int((changes[order] > 0).sum())
    note = f"{name}: {better} of {len(order)} classes gain."
    return Figure("changes", "Gains and losses", x_axis, y_axis, marks, note)


def _by_clips(counts: np.ndarray) -> np.ndarray:
    """Positions of the classes that have clips, the largest first."""
    order = np.argsort(-counts, kind="stable")
    return order[counts[order] > 0]


def _rank_axis(label: str, count: int) -> Axis:
    return linear_axis(label, [0, count], smallest_step=1)


def _columns(values: Sequence[Number], foot: Number = 0) -> Band:
    """A column for each class, 1 wide, from `foot` on."""
    edges = [edge for i in range(len(values)) for edge in (i, i + 1)]
    tops = [value for value in values for _ in (0, 1)]
    return Band("", edges, [foot] * len(edges), tops, "first")


def _some_names(names: Sequence[str], values: Sequence[Number]) -> Dots:
    """Some of the classes by name, at equal distances along their ranks."""
    ranks = np.unique(np.linspace(0, len(names) - 1, NUM_NAMED).round().astype(int)).tolist()
    x, y = [rank + 0.5 for rank in ranks], [values[rank] for rank in ranks]
    return Dots(x, y, [names[rank] for rank in ranks], labelled=True)
