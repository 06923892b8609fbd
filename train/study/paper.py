"""The paper's tables as values, read from paper.toml."""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

DataSet = Literal["balanced", "full", "fsd50k", "esc50"]
Source = Literal["log", "average", "epochs", "committee", "elsewhere", "labels", "class gain"]
"""What a number is read from: the training log, the averaged weights, the mean scores of all epochs
or of several models, the last epoch on other clips or labels, the report of an enhancement, or the
gain in AP by class."""

TABLES = tomllib.loads(Path(__file__).with_name("paper.toml").read_text(encoding="utf-8"))
SETS: dict[str, dict[str, Any]] = TABLES["sets"]
CHANGES: dict[str, str] = TABLES["changes"]
"""Flags of psla-wds train by word."""
LABELS: dict[str, str] = TABLES["labels"]
"""Flags of psla-wds enhance by word."""
STUDIES: dict[str, str] = {name: study["title"] for name, study in TABLES["studies"].items()}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A number of a table: how it is measured, and what the paper reached."""

    row: str
    column: str
    model: str | None
    """Words of its model; None for a committee, and for a number that the paper quotes."""
    members: tuple[tuple[str, int], ...]
    """Models of a committee, each with its seed."""
    best: int | None
    """Number of members that form the committee, those with the highest mAP. Default: all."""
    source: Source
    field: str
    """Value to read from the result."""
    form: str
    """Format of the number."""
    paper: float | None
    deviation: float | None
    """Deviation over the paper's seeds, if it states one."""
    reference: str | None
    """Model of the table's first row."""


def data_sets(study: str) -> list[DataSet]:
    """Sets for which a study has a table; the first is the default."""
    keys = [key for row in TABLES["studies"][study]["rows"] for key in row]
    return list(dict.fromkeys(key for key in keys if key in SETS))


def table(study: str, data_set: DataSet, sizes: Sequence[int] = ()) -> list[Cell]:
    """Cells of a study's table, row by row.

    Args:
        sizes: numbers of clips in place of the paper's, for training-size.
    """
    content = TABLES["studies"][study]
    rows = [row for row in content["rows"] if data_set in row]
    if sizes:
        whole = [row for row in rows if "subset-" not in row["model"]]
        rows = [_with_size(row, size, data_set) for size in sizes for row in whole] + whole
    return [
        _cell(row, column, str(number), data_set, rows[0].get("model"))
        for row in rows
        for column, number in zip(content.get("columns", ["mAP"]), row[data_set], strict=False)
        if number != ""
    ]


def expand(words: str, data_set: DataSet) -> list[str]:
    """The changes and labels that words stand for, in order."""
    names = TABLES["models"] | {"psla": SETS[data_set]["psla"], "recipe": ""}
    found = []
    for word in words.split():
        found += expand(names[word], data_set) if word in names else [word]
    return found


def _with_size(row: dict[str, Any], size: int, data_set: DataSet) -> dict[str, Any]:
    """A row about all clips, turned into one about a subset without a number in the paper."""
    name = row["row"].replace("all clips", f"{size:,} clips")
    return row | {"row": name, "model": f"{row['model']} subset-{size}", data_set: ["?"]}


def _cell(
    row: dict[str, Any], column: str, number: str, data_set: DataSet, reference: str | None
) -> Cell:
    about, members = TABLES["columns"][column], row.get("members", [])
    if members == ["all"]:
        members = SETS[data_set]["all"]
    pairs = [member.partition(" x") for member in members]
    mean, _, deviation = number.partition(" ± ")
    source = row.get("source", "committee" if members else "log")
    return Cell(
        row=row["row"],
        column=column,
        model=f"{about.get('model', '')} {row['model']}".strip() if "model" in row else None,
        members=tuple((model, seed) for model, _, n in pairs for seed in range(int(n or 1))),
        best=row.get("best"),
        source=about.get("source", source),
        field=about.get("field", "mAP"),
        form=about.get("form", ".4f"),
        paper=None if mean == "?" else float(mean),
        deviation=float(deviation) if deviation else None,
        reference=reference,
    )
