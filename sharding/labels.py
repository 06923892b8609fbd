"""Make a class list from a folder per class, or from a column of a CSV.

    python -m sharding.labels FOLDER|CSV --output CLASSES.csv [--column labels] [--separator "|"]

Classes of a folder are its subfolders; classes of a CSV are the values of a column, split at the
separator. Both are sorted. Each class is its own mid. The order of the list is that of a model's
outputs: keep the file with the model.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from psla_wds import cli
from psla_wds.errors import ConfigError, ManifestError
from psla_wds.io.atomic_files import disk_errors
from psla_wds.labels.class_list import CSV_COLUMNS, ClassList, write_class_list
from sharding.sources.class_folders import class_folders
from sharding.sources.rows import csv_rows


@dataclass(frozen=True)
class Args:
    source: Positional[Path]
    """A folder with a subfolder per class, or a CSV with a header."""
    output: Path
    """Class list to write: index,mid,display_name."""
    column: str = "labels"
    """Column of the CSV that holds the labels; category for ESC-50."""
    separator: str = "|"
    """Separator of the labels in a row; "," for FSD50K."""


def class_names(args: Args) -> list[str]:
    """Classes of a folder or CSV, sorted and unique."""
    if args.source.is_dir():
        return [folder.name for folder in class_folders(args.source)]
    names = sorted(set(_labels(args)))
    if not names:
        raise ManifestError(
            f"column {args.column} has no labels", where=args.source, fix="name another --column"
        )
    return names


def _labels(args: Args) -> Iterator[str]:
    for _, row in csv_rows(args.source, (args.column,)):
        labels = row[args.column].split(args.separator) if args.separator else [row[args.column]]
        yield from filter(None, (label.strip() for label in labels))


def main() -> None:
    args = cli.parse(Args, __doc__, prog="python -m sharding.labels")
    if args.output.exists():
        raise ConfigError(
            "the file exists, and a model's outputs may follow its order",
            where=args.output,
            fix="choose another --output",
        )
    names = tuple(class_names(args))
    with disk_errors(args.output, "write the class list"):
        write_class_list(ClassList(names, names), args.output)
    print(
        f"wrote {len(names):,} classes ({','.join(CSV_COLUMNS)}) to {args.output}; next: "
        f"python -m sharding.build manifest CLIPS.csv --class-labels {args.output} --output SHARDS"
    )


if __name__ == "__main__":
    cli.run(main)
