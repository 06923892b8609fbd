"""Make a class list from folders, or from a column of a table.

    psla-wds labels FOLDER|TABLE --output CLASSES.csv [--column labels] [--separator "|"]

Classes of a folder are its subfolders with audio; classes of a table (.csv, .jsonl or .parquet) are
the values of a column, lists as they are and texts split at the separator. Both are sorted. Each
class is its own mid. The order of the list is that of a model's outputs: keep the file with the
model.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from psla_wds import cli
from psla_wds.cli import LocationArg
from psla_wds.errors import ManifestError
from psla_wds.io.atomic_files import disk_errors
from psla_wds.io.stores import at
from psla_wds.labels.class_list import (
    CSV_COLUMNS,
    ClassList,
    joined_classes,
    write_class_list,
)
from psla_wds.printable import typed
from sharding.sources.class_folders import class_folders
from sharding.sources.rows import table_rows

logger = logging.getLogger("sharding.labels")

TABLES = (".csv", ".jsonl", ".parquet")


@dataclass(frozen=True)
class Args:
    source: Positional[LocationArg]
    """A folder with a subfolder per class, or a table: .csv with a header, .jsonl or .parquet."""
    output: Annotated[Path, cli.New()]
    """Class list to write: index,mid,display_name."""
    column: str = "labels"
    """Column of the table that holds the labels; category for ESC-50."""
    separator: str = "|"
    """Separator of the labels in a row; a comma for FSD50K."""


def class_names(args: Args) -> list[str]:
    """Classes of a folder or table, sorted and unique."""
    is_table = args.source.suffix in TABLES or at(args.source).size() is not None
    if not is_table:
        return [folder.name for folder in class_folders(args.source)]
    names = sorted(set(_labels(args)))
    if not names:
        raise ManifestError(
            f"column {args.column} has no labels", where=args.source, fix="name another --column"
        )
    return names


def _labels(args: Args) -> Iterator[str]:
    for _, row in table_rows(args.source, (args.column,)):
        value = row[args.column]
        if isinstance(value, str) and args.separator:
            value = value.split(args.separator)
        labels = value if isinstance(value, list) else [value]
        yield from filter(None, (str(label).strip() for label in labels if label is not None))


def main() -> None:
    args = cli.parse(Args, __doc__, prog="labels")
    names = tuple(class_names(args))
    classes = ClassList(names, names)
    with disk_errors(args.output, "write the class list"):
        write_class_list(classes, args.output)
    if seems := joined_classes(classes):
        logger.warning("%s", seems)
    output = typed(args.output)
    print(
        f"wrote {len(names):,} classes ({','.join(CSV_COLUMNS)}) to {args.output}; next: "
        f"psla-wds build {_source(args)} --class-labels {output} --output SHARDS"
    )


def _source(args: Args) -> str:
    """Words for psla-wds build: the source that was read, if it is one of clips as well."""
    place, kind = typed(args.source), args.source.suffix
    if kind not in TABLES:
        return f"folder {place}"
    if kind == ".parquet":
        return f"parquet {place}"
    return f"manifest {place if args.column == 'labels' else 'CLIPS.csv'}"


if __name__ == "__main__":
    cli.run(main)
