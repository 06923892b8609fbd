"""Charts with a place for every class: average precision, clips, draws, gains and losses."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eval.axes import Number, linear_axis, log_axis, percent, signed
from eval.charts import Band, Chart, Dots, Figure, Label, Mark, Point, Series
from psla_wds.evaluation.metrics import Metrics
from psla_wds.evaluation.scores import Scores

NUM_NAMED = 8
"""Classes that are named in a chart; the table has all of them."""


@dataclass(frozen=True)
class ClassResult:
    """A class's line in metrics.json and in the tables. NaN where a metric is not defined."""

    mid: str
    name: str
    AP: float
    AUC: float
    positives: int


def class_results(scores: Scores, metrics: Metrics) -> tuple[ClassResult, ...]:
    columns = (metrics.average_precision, metrics.roc_auc, metrics.num_positives)
    rows = zip(scores.mids, scores.names, *(column.tolist() for column in columns), strict=True)
    return tuple(ClassResult(*row) for row in rows)


def positives_figure(classes: Sequence[ClassResult], num_clips: int) -> Figure:
    scored = [c for c in classes if not math.isnan(c.AP)]
    x_axis = log_axis("positives", [c.positives for c in scored])
    x = [x_axis.low * (x_axis.high / x_axis.low) ** (i / 60) for i in range(61)]
    x = [v for v in x if v <= num_clips]
    random_ranking = Series("random ranking", x, [v / num_clips for v in x], "dashed")
    dots = [Point(c.positives, c.AP, f"{c.name}: AP {c.AP:.4f}, {c.positives:,}") for c in scored]
    chart = Chart(
        "Average precision of every class against its number of positives",
        x_axis,
        linear_axis("AP", [0, 1]),
        (random_ranking, Dots(dots)),
    )
    note = "A dot is a class. Dashed: what a random ranking gets, the share of positives."
    return Figure("positives", "Average precision by positives", chart, note)


def class_ap_figure(classes: Sequence[ClassResult]) -> Figure:
    """Average precision of every class, the best first (PSLA figure 7)."""
    ranked = sorted((c for c in classes if not math.isnan(c.AP)), key=lambda c: -c.AP)
    values = [c.AP for c in ranked]
    mean = sum(values) / len(values)
    chart = Chart(
        "Average precision of every class, the best class first",
        linear_axis("classes, the best first", [0, len(ranked)], smallest_step=1),
        linear_axis("AP", [0, 1]),
        (
            _columns("", values, "first"),
            Series("mean", [0, len(ranked)], [mean, mean], "dashed"),
            *_named([c.name for c in ranked], values),
        ),
    )
    note = f"{len(ranked)} classes; dashed: their mean, the mAP, {mean:.4f}."
    return Figure("class-ap", "Average precision of every class", chart, note)


def class_counts_figure(counts: np.ndarray, names: Sequence[str]) -> Figure:
    """Clips of every class, as the data set has them (PSLA figure 4)."""
    order = _by_clips(counts)
    values = counts[order].tolist()
    y_axis = log_axis("clips", [*values, min(values, default=1) / 2])  # a foot for the smallest
    chart = Chart(
        "Clips that carry each class, the largest class first",
        linear_axis("classes, the largest first", [0, len(order)], smallest_step=1),
        y_axis,
        (
            _columns("", values, "first", y_axis.low),
            *_named([names[k] for k in order], values),
        ),
    )
    note = "Log scale."
    if len(values) > 1:
        note += f" The largest has {values[0] / values[-1]:,.3g} times the clips of the smallest."
    empty = len(counts) - len(order)
    return Figure(
        "class-counts",
        "Clips of every class",
        chart,
        f"{note} {empty} classes have none." if empty else note,
    )


def class_draws_figure(
    counts: np.ndarray, drawn: np.ndarray, *, epochs: int, sampling: str
) -> Figure:
    """How often a run draws the clips of every class, by its plans (PSLA figure 5)."""
    order = _by_clips(counts)
    ranks = (np.arange(len(order)) + 0.5).tolist()
    each_once, by_plan = (counts[order] * epochs).tolist(), drawn[order].tolist()
    chart = Chart(
        "Draws of each class's clips, the largest class first",
        linear_axis("classes, the largest first", [0, len(order)], smallest_step=1),
        log_axis("draws", each_once + by_plan),
        (
            Series("each clip once an epoch", ranks, each_once, "dashed"),
            Series(f"this run: {sampling}", ranks, by_plan, "second"),
        ),
    )
    positive = [count for count in by_plan if count]
    note = f"{epochs} epochs, log scale."
    if positive:
        most = max(positive) / min(positive)
        note += f" The class drawn most is drawn {most:,.3g} times as often as the one drawn least."
    return Figure("class-draws", "Draws of every class", chart, note)


def unseen_figure(unseen: Sequence[float], with_partners: Sequence[float] | None) -> Figure:
    """Share of the clips that no draw had so far, by epoch (PSLA figure 6)."""
    epochs = list(range(len(unseen)))
    marks: tuple[Mark, ...] = (Series("draws alone", epochs, unseen, "first"),)
    note = f"After epoch {epochs[-1]}: {percent(unseen[-1])} never drawn"
    if with_partners is not None:
        marks += (Series("draws and what mixup adds", epochs, with_partners, "second"),)
        note += f", {percent(with_partners[-1])} neither drawn nor mixed in"
    chart = Chart(
        "Share of the clips not seen so far, by epoch",
        linear_axis("epochs done", epochs, smallest_step=1),
        linear_axis("share of clips", [0, 1], text=percent),
        marks,
    )
    return Figure("unseen", "Clips not seen so far", chart, f"{note}.")


def changes_figure(changes: np.ndarray, low: np.ndarray, high: np.ndarray, name: str) -> Figure:
    """Change of every class's AP, the largest gain first; with its 95 % interval where it has one.

    Args:
        low, high: ends of the intervals; NaN where there is none.
    """
    order = np.argsort(-changes, kind="stable")
    order = order[np.isfinite(changes[order])]
    ranks = (np.arange(len(order)) + 0.5).tolist()
    ends = (low[order].tolist(), high[order].tolist())
    marks: tuple[Mark, ...] = (Series("change", ranks, changes[order].tolist(), "first"),)
    if np.isfinite(low[order]).any():
        marks = (Band("95 % interval", ranks, *ends, "first"), *marks)
    chart = Chart(
        f"Change of the average precision of every class in {name}",
        linear_axis("classes, the largest gain first", [0, len(order)], smallest_step=1),
        linear_axis("change of AP", [*changes[order].tolist(), *ends[0], *ends[1], 0], text=signed),
        (Series("", [0, len(order)], [0, 0], "dashed"), *marks),
    )
    better = int((changes[order] > 0).sum())
    note = f"{name}: {better} of {len(order)} classes gain."
    return Figure("changes", "Gains and losses", chart, note)


def _by_clips(counts: np.ndarray) -> np.ndarray:
    """Positions of the classes that have clips, the largest first."""
    order = np.argsort(-counts, kind="stable")
    return order[counts[order] > 0]


def _columns(name: str, values: Sequence[Number], style: str, foot: Number = 0) -> Band:
    """A column a class, of a width of 1, from `foot` on."""
    edges = [edge for i in range(len(values)) for edge in (i, i + 1)]
    tops = [value for value in values for _ in (0, 1)]
    return Band(name, edges, [foot] * len(edges), tops, style)


def _named(names: Sequence[str], values: Sequence[Number]) -> list[Label]:
    """Some of the classes by name, at equal distances along their ranks."""
    ranks = np.unique(np.linspace(0, len(names) - 1, NUM_NAMED).round().astype(int)).tolist()
    return [Label(rank + 0.5, values[rank], names[rank]) for rank in ranks]
