"""Write the tables of README.md and docs/ from the records in benchmarks/results/.

    python -m benchmarks.tables

    python -m benchmarks.tables --demo runs/demo/metrics.json

A table lies between <!-- table NAME --> and <!-- end -->, where NAME is a results file.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import RESULTS, Column, record, table, write
from psla_wds import cli
from psla_wds.errors import PslaError

ROOT = Path(__file__).resolve().parents[1]
PLACE = re.compile(r"<!-- table (?P<name>\w+) -->\n.*?<!-- end -->", re.DOTALL)
MAX_SPREAD = 0.1
LEGEND = f"~ marks a figure that varied by more than {MAX_SPREAD:.0%} between repeats."
DEMO_COLUMNS = (
    Column("mAP", "mAP", "{:.3f}"),
    Column("mAUC", "mAUC", "{:.3f}"),
    Column("d'", "d_prime", "{:.2f}"),
    Column("clips", "clips", "{:,}"),
    Column("classes", "classes", "{:,}"),
    Column("mean prevalence", "mean_prevalence", "{:.3f}"),
    Column("mAP / prevalence", "times_prevalence", "{:.1f}"),
)


def markdown(content: dict[str, Any]) -> str:
    """The tables of a record, then a line on what was measured and where."""
    tables = [_table(part) for part in content["tables"]]
    sentences = [f"{content['title']}.", *content["notes"], _place(content)]
    if any("~" in text for text in tables):
        sentences.append(LEGEND)
    return "\n\n".join([*tables, " ".join(filter(None, sentences))])


def _table(part: dict[str, Any]) -> str:
    columns = [Column(**column) for column in part["columns"]]
    rule = "".join("---|" if column.form == "{}" else "--:|" for column in columns)
    rows = [[_cell(column, row) for column in columns] for row in part["rows"]]
    header, *lines = map(_line, [[column.name for column in columns], *rows])
    return "\n".join([header, f"|{rule}", *lines])


def _cell(column: Column, row: dict[str, Any]) -> str:
    if row.get(column.key) is None:
        return ""
    mark = "~" if row.get(column.spread, 0.0) > MAX_SPREAD else ""
    return mark + column.form.format(row[column.key])


def _line(cells: list[str]) -> str:
    return f"|{'|'.join(f' {cell} ' if cell else ' ' for cell in cells)}|"


def _place(content: dict[str, Any]) -> str:
    """Repeats, machine, date and commit, as far as the record has them."""
    facts, conditions = content["machine"], content["conditions"]
    parts = []
    if "repeats" in conditions:
        parts.append(f"median of {conditions['repeats']}")
    if facts:
        parts += [facts["gpu"] or f"{facts['cores']} cores of {facts['cpu']}", facts["date"]]
        commit = str(facts["commit"]).replace(" with changes", " **with uncommitted changes**")
        parts.append(f"commit {commit}")
    text = ", ".join(parts)
    return f"{text[0].upper()}{text[1:]}." if text else ""


def documents(root: Path) -> list[Path]:
    """The files that can hold tables."""
    return [root / "README.md", *sorted((root / "docs").glob("*.md"))]


def with_tables(text: str, results: Path) -> str:
    """The text with each table replaced by that of its record."""

    def replacement(place: re.Match[str]) -> str:
        name = place["name"]
        path = results / f"{name}.json"
        if not path.exists():
            raise PslaError(
                f"a table needs {name}.json", where=results, fix=f"python -m benchmarks.{name}"
            )
        content = json.loads(path.read_text(encoding="utf-8"))
        return f"<!-- table {name} -->\n{markdown(content)}\n<!-- end -->"

    return PLACE.sub(replacement, text)


def run_benchmark(
    module: str, description: str | None, args: type[Any], measure: Callable[[Any], dict[str, Any]]
) -> None:
    """The command of a benchmark: measure, print the tables, and write the record to --output."""

    def main() -> None:
        given = cli.parse(args, description, prog=f"python -m {module}")
        content = measure(given)
        print(markdown(content))
        write(content, given.output)
        print(f"wrote {given.output}; next: python -m benchmarks.tables")

    cli.run(main)


def demo_record(metrics: dict[str, Any]) -> dict[str, Any]:
    """The record of `make demo`, from the metrics.json that it wrote."""
    row = {column.key: metrics.get(column.key) for column in DEMO_COLUMNS}
    row["times_prevalence"] = metrics["mAP"] / metrics["mean_prevalence"]
    title = "The model that `make demo` trains, on clips that it has not seen"
    return record(title, [table(DEMO_COLUMNS, [row])])


@dataclass(frozen=True)
class Args:
    demo: Path | None = None
    """The metrics.json of `make demo`, from which to make demo.json first."""


def main() -> None:
    args = cli.parse(Args, __doc__, prog="python -m benchmarks.tables")
    if args.demo:
        metrics = json.loads(args.demo.read_text(encoding="utf-8"))
        write(demo_record(metrics), RESULTS / "demo.json")
    for path in documents(ROOT):
        path.write_text(with_tables(path.read_text(encoding="utf-8"), RESULTS), encoding="utf-8")
    print(f"wrote the tables of {', '.join(path.name for path in documents(ROOT))}")


if __name__ == "__main__":
    cli.run(main)
