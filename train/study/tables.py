"""The table of a study: the paper's numbers beside ours, as a record and as text."""

import math
import statistics
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from psla_wds.errors import PslaError
from train.study.numbers import Number, Numbers
from train.study.paper import Cell
from train.study.run import Step, with_all_before
from train.study.steps import Lacking

CHANGES = (
    "In brackets: the change from the first row between runs of one seed, which differ in nothing "
    "else; mean and deviation over the seeds."
)
Found = dict[tuple[Cell, int], Number | Lacking]
"""The numbers of a table by cell and seed; for one that cannot be had, the reason."""


def find_numbers(cells: Sequence[Cell], numbers: Numbers) -> Found:
    """What each cell is read from.

    A row that comes to the same runs as one above it gets none: the same run twice would look like
    an effect of nothing.
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
    columns = [{"name": key, "key": key} for name in names for key in titles[name]]
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
            values[str(seed)] = _value(found[cell, seed], is_done)
        except PslaError as error:
            gaps[str(seed)] = " ".join(str(error).split())
    ours = list(values.values())
    return {
        "paper": cell.paper,
        "paper_deviation": cell.deviation,
        "ours": statistics.mean(ours) if ours else None,
        "deviation": statistics.stdev(ours) if len(ours) > 1 else None,
        "seeds": values,
        "gaps": gaps,
        "notes": numbers.notes(cell) if ours else [],
    }


def _value(number: Number | Lacking, is_done: Callable[[Step], bool]) -> float:
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
    return [statistics.mean(changes), statistics.stdev(changes)] if len(changes) > 1 else None


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
