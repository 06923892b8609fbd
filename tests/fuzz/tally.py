"""Counts of what tests tried, and their record."""

import json
from collections import Counter
from pathlib import Path

from benchmarks.harness import Column, record, table, write
from psla_wds.runtime.environment import environment

TALLY = Counter[str]()
"""Changed files and what became of them, kills, and limits."""
COUNTS = ("cases", "refused", "taken", "kills", "limits", "met")
COLUMNS = (
    Column("tests", "tests"),
    Column("changed files", "cases", "{:,}"),
    Column("refused by readers", "refused", "{:,}"),
    Column("taken", "taken", "{:,}"),
    Column("kills", "kills", "{:,}"),
    Column("limits", "limits", "{:,}"),
    Column("limits met", "met", "{:,}"),
    Column("failed tests", "failed", "{:,}"),
    Column("commit", "commit"),
)
ALL = "all"


def summary() -> str:
    """The counts in one line."""
    changed, refused, taken, kills, limits, met = (f"{TALLY[name]:,}" for name in COUNTS)
    return (
        f"tried: {changed} changed files (readers refused {refused} and took {taken}); "
        f"{kills} kills; {limits} limits, of which {met} were met"
    )


def add_to_record(path: Path, tests: str, failed: int) -> None:
    """Add a row of these tests to a record, or replace it, and the sum of all rows."""
    rows = []
    if path.exists():
        rows = json.loads(path.read_text(encoding="utf-8"))["tables"][0]["rows"]
    rows = [row for row in rows if row["tests"] not in (tests, ALL)]
    counts = {name: TALLY[name] for name in COUNTS} | {"failed": failed}
    rows.append({"tests": tests, **counts, "commit": environment()["commit"]})
    total = {name: sum(row[name] for row in rows) for name in counts}
    rows += [{"tests": ALL, **total}] if len(rows) > 1 else []
    write(record("What tests tried, a line for each run", [table(COLUMNS, rows)]), path)
