"""The table of a study: what each number is read from, and the paper's numbers beside ours."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from psla_wds.errors import PslaError
from train.run.log import read_run
from train.study.paper import Cell
from train.study.run import Step, read_json, with_all_before
from train.study.steps import Lacking, Steps

LAST_EPOCHS = 5
"""The paper's number of a single model is the mean of its last five epochs."""
CHANGES = (
    "In brackets: the change from the first row between runs of one seed, which differ in nothing "
    "else; mean and deviation over the seeds."
)


@dataclass(frozen=True)
class Number:
    """A number that can be read once its steps have run."""

    steps: tuple[Step, ...]
    read: Callable[[], float]
    """Reads it from their outputs; `PslaError` if it is not there."""


class Numbers:
    """Numbers of cells.

    Args:
        seeds: runs of each row.
    """

    def __init__(self, steps: Steps, seeds: int) -> None:
        self._steps, self._seeds = steps, seeds

    def seeds(self, cell: Cell) -> range:
        """Seeds that a cell has a number for: a committee, and what is counted in labels, has one
        number."""
        if cell.model is None and not cell.members:
            return range(0)
        once = cell.members or cell.source in ("labels", "class gain")
        return range(1 if once else self._seeds)

    def notes(self, cell: Cell) -> list[str]:
        """What the paper's runs had and ours lack."""
        words = [cell.model] if cell.model is not None else [model for model, _ in cell.members]
        return list(dict.fromkeys(n for model in words for n in self._steps.model(model).notes))

    def number(self, cell: Cell, seed: int) -> Number:
        """The number of a cell; `Lacking` if it cannot be measured here."""
        if cell.members:
            return self._committee(cell)
        assert cell.model is not None
        model, steps = self._steps.model(cell.model), self._steps
        if cell.source == "log" and steps.test_index == steps.base.eval_index:
            if cell.field == "accuracy":  # the log has none
                return _value(steps.scored(steps.last(model, seed)), cell.field)
            train = steps.train(model, seed)
            return Number((train,), lambda: _last_epochs(train.folder, cell.field))
        if cell.source == "log":
            return self._chosen_epoch(cell, seed)
        if cell.source == "epochs" and cell.field == "accuracy":
            return _value(steps.scored(steps.all_epochs(model, seed)), cell.field)
        if cell.source == "epochs":
            figures = steps.figures(model, seed)
            return Number((figures,), lambda: _of_epochs(read_json(figures.output), cell.field))
        if cell.source == "elsewhere":
            return _value(steps.elsewhere(model, seed, cell.field), "mAP")
        if cell.source == "average":
            return _value(steps.scored(steps.average(model, seed)), cell.field)
        if model.labels is None:
            raise Lacking("there is no --ontology")
        overlay = steps.overlay(model.labels)
        return _value(overlay, cell.field) if cell.source == "labels" else self._gain(cell, overlay)

    def _chosen_epoch(self, cell: Cell, seed: int) -> Number:
        """The test score of the epoch that is best on --eval-index."""
        if cell.field != "mAP":
            raise Lacking(f"{cell.field} of the epoch chosen by --eval-index is not measured")
        assert cell.model is not None
        model = self._steps.model(cell.model)
        train, figures = self._steps.train(model, seed), self._steps.figures(model, seed)

        def read() -> float:
            best = max(read_run(train.folder).epochs, key=lambda epoch: epoch.mAP).epoch
            scored = {start["epoch"]: start["checkpoint"] for start in read_json(figures.output)}
            return scored[best]

        return Number((figures,), read)

    def _committee(self, cell: Cell) -> Number:
        committee, members = self._steps.committee(cell), self._steps.members(cell)
        if cell.field not in ("average", "best"):
            return _value(committee, cell.field)

        def read() -> float:
            values = sorted((read_json(m.output)["mAP"] for m in members), reverse=True)
            return mean(values[: cell.best]) if cell.field == "average" else values[0]

        return Number((committee,), read)

    def _gain(self, cell: Cell, overlay: Step) -> Number:
        """Mean relative gain in AP over classes, each the mean over seeds."""
        before, after = (
            [self._steps.scored(self._steps.last(model, seed)) for seed in range(self._seeds)]
            for model in map(self._steps.model, (cell.reference, cell.model))
        )
        wanted = {"impacted": (True,), "others": (False,), "all": (True, False)}[cell.field]

        def read() -> float:
            impacted = {c["mid"]: c["added"] > 0 for c in read_json(overlay.output)["per_class"]}
            old, new = _class_means(before), _class_means(after)
            gains = [
                new[mid] / value - 1
                for mid, value in old.items()
                if impacted[mid] in wanted and value and mid in new
            ]
            return mean(gains) if gains else math.nan

        return Number((*before, *after, overlay), read)


def _last_epochs(run: Path, field: str) -> float:
    return mean(getattr(epoch, field) for epoch in read_run(run).epochs[-LAST_EPOCHS:])


def _of_epochs(starts: list[dict[str, Any]], field: str) -> float:
    """The mean or best of single epochs, or the mean scores of all."""
    alone = [start["checkpoint"] for start in starts]
    return {"average": mean(alone), "best": max(alone)}.get(field, starts[0]["score_ensemble"])


def _value(step: Step, field: str) -> Number:
    return Number((step,), lambda: float(read_json(step.output)[field]))


def _class_means(scored: list[Step]) -> dict[str, float]:
    """Mean AP of each class that has one."""
    tables = [{c["mid"]: c["AP"] for c in read_json(step.output)["per_class"]} for step in scored]
    return {mid: mean(t[mid] for t in tables) for mid, ap in tables[0].items() if ap is not None}


Found = dict[tuple[Cell, int], Number | Lacking]
"""Numbers of a table by cell and seed; for one that cannot be measured, the reason."""


def find_numbers(cells: Sequence[Cell], numbers: Numbers) -> Found:
    """What each cell is read from.

    A row that comes to the same runs as one above it is a gap: the same run twice would look like a
    change without effect.
    """
    found: Found = {}
    seen: dict[object, str] = {}
    for cell, seed in ((c, seed) for c in cells for seed in numbers.seeds(c)):
        try:
            found[cell, seed] = number = numbers.number(cell, seed)
            key = cell.column, cell.source, tuple(step.name for step in number.steps)
            if seen.setdefault(key, cell.row) != cell.row:
                raise Lacking(f"nothing differs here from the row {seen[key]}")
        except PslaError as error:
            found[cell, seed] = Lacking(" ".join(str(error).split()))
    return found


def gather(
    cells: Sequence[Cell], numbers: Numbers, found: Found, is_done: Callable[[Step], bool]
) -> dict[str, Any]:
    """The record of a table, in the form of benchmarks/results, with notes on its gaps.

    A row has the texts that the columns show and, in `cells`, what they are made from: by column
    the paper's number, the mean and deviation of ours, ours by seed, and the reasons of gaps.
    """
    rows: list[dict[str, Any]] = []
    reasons: dict[str, int] = {}
    by_row = [list(row) for _, row in groupby(cells, lambda cell: cell.row)]
    names = dict.fromkeys(c.column for c in (*max(by_row, key=len), *cells))  # the paper's order
    prefix = "{}, " if len(names) > 1 else ""
    titles = {c: [prefix.format(c) + side for side in ("paper", "ours")] for c in names}
    for row_cells in by_row:
        row: dict[str, Any] = {"name": row_cells[0].row, "cells": {}}
        for cell in row_cells:
            content = row["cells"][cell.column] = _gather_cell(cell, numbers, found, is_done)
            first = rows[0]["cells"].get(cell.column) if rows else None
            content["change"] = _change(content, first)
            row |= zip(titles[cell.column], _texts(cell, content, reasons), strict=True)
        rows.append(row)
    has_changes = any(cell["change"] for row in rows for cell in row["cells"].values())
    shown = [t for name in names for t in titles[name] if any(row.get(t) for row in rows)]
    columns = [{"name": title, "key": title} for title in shown]
    return {
        "tables": [{"columns": [{"name": "", "key": "name"}, *columns], "rows": rows}],
        "notes": [f"({n}) {reason}" for reason, n in reasons.items()] + [CHANGES] * has_changes,
    }


def _gather_cell(
    cell: Cell, numbers: Numbers, found: Found, is_done: Callable[[Step], bool]
) -> dict[str, Any]:
    values, gaps = {}, {}
    for seed in numbers.seeds(cell):
        try:
            values[str(seed)] = _read(found[cell, seed], is_done)
        except PslaError as error:
            gaps[str(seed)] = " ".join(str(error).split())
    ours = list(values.values())
    return {
        "paper": cell.paper,
        "paper_deviation": cell.deviation,
        "ours": mean(ours) if ours else None,
        "deviation": stdev(ours) if len(ours) > 1 else None,
        "seeds": values,
        "gaps": gaps,
        "notes": numbers.notes(cell) if ours else [],
    }


def _read(number: Number | Lacking, is_done: Callable[[Step], bool]) -> float:
    if isinstance(number, Lacking):
        raise number
    for name, step in with_all_before(number.steps).items():
        if not is_done(step):
            raise Lacking(f"{name} is not done")
    value = number.read()
    if not math.isfinite(value):
        raise Lacking(f"the result is {value}")
    return value


def _change(cell: dict[str, Any], first: dict[str, Any] | None) -> list[float] | None:
    """Mean and deviation of the change between runs of one seed; None for fewer than two pairs."""
    ours, theirs = cell["seeds"], first["seeds"] if first else {}
    changes = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
    return [mean(changes), stdev(changes)] if len(changes) > 1 else None


def _texts(cell: Cell, content: dict[str, Any], reasons: dict[str, int]) -> tuple[str, str]:
    """The paper's number and ours, with marks that point to the reasons below the table."""
    words = [_number(cell.form, content["ours"], content["deviation"])]
    if content["change"]:
        words.append("({:+.4f} ± {:.4f})".format(*content["change"]))
    if content["seeds"] and content["gaps"]:
        words.append(f"of {len(content['seeds'])} seeds")
    for reason in dict.fromkeys([*content["gaps"].values(), *content["notes"]]):
        words.append(f"({reasons.setdefault(reason, len(reasons) + 1)})")
    return _number(cell.form, cell.paper, cell.deviation), " ".join(filter(None, words))


def _number(form: str, value: float | None, deviation: float | None) -> str:
    spread = "" if deviation is None else f" ± {deviation:{form}}"
    return "" if value is None else f"{value:{form}}{spread}"


def to_text(record: dict[str, Any]) -> str:
    """The table in Markdown, in columns that a terminal shows as well, and the notes."""
    (table,) = record["tables"]
    lines = [[column["name"] for column in table["columns"]]]
    lines += [[row.get(column["key"], "") for column in table["columns"]] for row in table["rows"]]
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    texts = []
    for first, *others in lines:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        texts.append(f"| {' | '.join([first.ljust(widths[0]), *cells])} |")
    return "\n\n".join([record["title"], "\n".join(texts), *record["notes"]])
