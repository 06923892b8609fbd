"""The table of a study: the paper's number beside ours, as a record, as text and in Markdown."""

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from psla_wds.errors import PslaError
from train.paper_tables import Cell, Reached, Row, Study
from train.study_commands import Lacking, Step
from train.study_engine import State
from train.study_results import Results

SHARES = ("labels added", "gain of those", "of the others", "of all classes")
"""Columns that are shares of a whole."""
COUNTS = (*SHARES, "classes impacted")
"""Columns that tell of the labels, and not of what a model reaches."""
PAPER, OURS = "paper", "ours"
CHANGES = (
    "In brackets: the change from the first row between runs of one seed, which differ in nothing "
    "else; mean and deviation of the seeds."
)


def gather(
    study: Study, rows: Sequence[Row], results: Results, state: Callable[[Step], State]
) -> dict[str, Any]:
    """The record of a table: of each cell the paper's number, ours by seed, what is missing, and
    what its runs have not that the paper's had."""
    table = [
        {"name": row.name, "cells": {c.column: _gather_cell(c, results, state) for c in row.cells}}
        for row in rows
    ]
    fullest_first = sorted(rows, key=lambda row: -len(row.cells))  # in the paper's order
    columns = dict.fromkeys(cell.column for row in fullest_first for cell in row.cells)
    return {"title": study.title, "columns": list(columns), "rows": table}


def _gather_cell(cell: Cell, results: Results, state: Callable[[Step], State]) -> dict[str, Any]:
    values, gaps = {}, {}
    if cell.variant or cell.members:
        for seed in results.seeds(cell):
            try:
                values[seed] = _value(cell, seed, results, state)
            except Lacking as lacking:
                gaps[seed] = str(lacking)
            except PslaError as error:
                gaps[seed] = " ".join(str(error).split())
    found = list(values.values())
    paper = cell.paper or Reached(math.nan)
    return {
        "paper": None if math.isnan(paper.value) else paper.value,
        "paper_deviation": paper.deviation,
        "ours": statistics.mean(found) if found else None,
        "deviation": statistics.stdev(found) if len(found) > 1 else None,
        "seeds": {str(seed): value for seed, value in values.items()},
        "gaps": {str(seed): reason for seed, reason in gaps.items()},
        "notes": list(results.notes(cell)) if found else [],
    }


def _value(cell: Cell, seed: int, results: Results, state: Callable[[Step], State]) -> float:
    for step in results.steps(cell, seed):
        found = state(step)
        if not found.done:
            raise Lacking(f"{step.name}: {found.text}")
    return results.value(cell, seed)


def to_markdown(record: dict[str, Any]) -> str:
    """The table with a header, the reasons of its gaps below."""
    lines, notes = _lines(record)
    header, *rows = ["|".join(f" {cell} " if cell else " " for cell in line) for line in lines]
    rule = "|".join(["---", *["--:"] * (len(lines[0]) - 1)])
    table = "\n".join(f"|{line}|" for line in (header, rule, *rows))
    return "\n\n".join([table, *notes])


def to_text(record: dict[str, Any]) -> str:
    """The same for a terminal."""
    lines, notes = _lines(record)
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    table = [
        "  ".join(cell.rjust(width) if i else cell.ljust(width)
                  for i, (cell, width) in enumerate(zip(line, widths, strict=True))).rstrip()
        for line in lines
    ]  # fmt: skip
    return "\n".join([record["title"], "", *table, *([""] if notes else []), *notes]) + "\n"


def _lines(record: dict[str, Any]) -> tuple[list[list[str]], list[str]]:
    """Header and rows as words; then the notes, to which numbers in the rows point."""
    reasons: dict[str, int] = {}
    several = len(record["columns"]) > 1
    header = [""]
    for column in record["columns"]:
        header += [f"{column}, {side}" if several else side for side in (PAPER, OURS)]
    rows = []
    first = record["rows"][0]["cells"]
    has_changes = False
    for row in record["rows"]:
        line = [row["name"]]
        for column in record["columns"]:
            cell = row["cells"].get(column)
            change = cell and _change(column, cell, first.get(column))
            has_changes |= bool(change)
            line += ["", ""] if cell is None else _words(column, cell, change, reasons)
        rows.append(line)
    notes = [f"({number}) {reason}" for reason, number in reasons.items()]
    notes += [CHANGES] if has_changes else []
    return [header, *rows], [*notes, *record.get("notes", [])]


def _change(column: str, cell: dict[str, Any], first: dict[str, Any] | None) -> str | None:
    """From the first row's cell, by pairs of runs; None unless there are two pairs or more."""
    if column in COUNTS or first is None or cell is first:
        return None
    ours, theirs = cell["seeds"], first["seeds"]
    changes = [ours[seed] - theirs[seed] for seed in ours.keys() & theirs.keys()]
    if len(changes) < 2:
        return None
    return f"({statistics.mean(changes):+.4f} ± {statistics.stdev(changes):.4f})"


def _words(
    column: str, cell: dict[str, Any], change: str | None, reasons: dict[str, int]
) -> list[str]:
    marks = [
        f"({reasons.setdefault(reason, len(reasons) + 1)})"
        for reason in dict.fromkeys([*cell["gaps"].values(), *cell["notes"]])
    ]
    ours = _number(column, cell["ours"], cell["deviation"])
    ours = f"{ours} {change}" if change else ours
    if cell["ours"] is not None and cell["gaps"]:
        marks.insert(0, f"of {len(cell['seeds'])} seeds")
    paper = _number(column, cell["paper"], cell["paper_deviation"])
    return [paper, " ".join([ours, *marks]).strip()]


def _number(column: str, value: float | None, deviation: float | None) -> str:
    if value is None:
        return ""
    if column in SHARES:
        return f"{value:.1%}"
    digits = 0 if column == "classes impacted" else 3 if column == "d'" else 4
    spread = "" if deviation is None else f" ± {deviation:.{digits}f}"
    return f"{value:.{digits}f}{spread}"
