"""The class list: mid and name of each output of the model."""

import csv
import difflib
import re
from dataclasses import dataclass, field
from typing import Any

from psla_wds.errors import ManifestError
from psla_wds.io.locations import Location
from psla_wds.io.regular import CLASSES_BYTES, open_text
from psla_wds.io.stores import at
from psla_wds.printable import is_printable

CSV_COLUMNS = ("index", "mid", "display_name")
MAX_CLASSES = 2**16
"""The column of labels has two bytes per label."""


@dataclass(frozen=True)
class ClassList:
    """Classes in the order of the model's outputs."""

    mids: tuple[str, ...]
    """Machine identifiers, such as /m/09x0r; unique."""
    names: tuple[str, ...]
    """Display names, such as Speech; unique, may contain commas."""
    _named: dict[str, int] = field(init=False, repr=False, compare=False)
    _position: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not len(set(self.mids)) == len(self.mids) == len(self.names):
            raise ValueError("mids and names are not one to one")
        for text in self.mids + self.names:
            if not is_printable(text):  # TypeError: it is no text
                raise ManifestError(
                    "a class has characters that cannot be shown",
                    where=f"class {text}",
                    fix="give it another name",
                )
        named = {key: i for keys in (self.names, self.mids) for i, key in enumerate(keys)}
        object.__setattr__(self, "_named", named)
        # A name or mid that looks like a number means itself, so these come after the indices.
        position = {str(i): i for i in range(len(self.mids))} | named
        object.__setattr__(self, "_position", position)

    def __len__(self) -> int:
        return len(self.mids)

    def find(self, label: str) -> int | None:
        """Position of the class that `label` (a mid, a display name or an index) means, if any."""
        return self._position.get(label)

    def named(self, label: str) -> int | None:
        """Position of the class whose mid or display name this is, if any."""
        return self._named.get(label)

    def nearest(self, label: str) -> str | None:
        """The most similar mid or name, to suggest in an error message."""
        known = [*self.names, *self.mids]
        matches = difflib.get_close_matches(label.lower(), [k.lower() for k in known], n=1)
        return next((k for k in known if matches and k.lower() == matches[0]), None)


def joined_classes(classes: ClassList) -> str | None:
    """What to report of a class that seems to be several, with a separator between them that a
    table was not split at; None if there is none.

    Names with commas are common, such as "Chicken, rooster". Labels were joined where a part is a
    class as well, or where no space follows.
    """
    for name in classes.names:
        for separator in ",;":
            parts = [part.strip() for part in name.split(separator)]
            tight = re.search(rf"[^\W\d]{separator}[^\W\d]", name)
            if len(parts) > 1 and (tight or any(classes.named(part) is not None for part in parts)):
                return (
                    f"class {name!r} seems to be {len(parts)} classes: if so, delete the class "
                    "list, and shards made with it, and give psla-wds labels and build "
                    f"--separator '{separator}'"
                )
    return None


def read_class_list(path: Location) -> ClassList:
    """The classes of an AudioSet-style CSV: `index,mid,display_name`, indices 0, 1, 2, ..."""
    try:
        with at(path).local_copy() as local, open_text(local, max_bytes=CLASSES_BYTES) as file:
            rows = list(csv.DictReader(file, skipinitialspace=True))
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise ManifestError(
            "there is no class list here",
            where=path,
            fix=f"--class-labels names a CSV with the columns {','.join(CSV_COLUMNS)}",
        ) from None
    except OSError as error:
        raise ManifestError(
            f"the class list cannot be read: {error.strerror}", where=path, fix="check the path"
        ) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(
            f"the class list is not CSV in UTF-8: {error}", where=path, fix="convert it to UTF-8"
        ) from None
    _check_rows(rows, path)
    check_number_of_classes(len(rows), where=path)
    return ClassList(
        tuple(row["mid"].strip() for row in rows),
        tuple(row["display_name"].strip() for row in rows),
    )


def check_number_of_classes(number: int, *, where: object) -> None:
    """`ManifestError` if there are more classes than two bytes can number."""
    if number > MAX_CLASSES:
        raise ManifestError(
            f"there are {number:,} classes, and an index has room for {MAX_CLASSES:,}",
            where=where,
            fix="use a list of fewer classes",
        )


def write_class_list(classes: ClassList, path: Location) -> None:
    with at(path).write("w", shared=True) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(CSV_COLUMNS)
        writer.writerows(zip(range(len(classes)), classes.mids, classes.names, strict=True))


def _check_rows(rows: list[dict[str | None, Any]], path: Location) -> None:
    header = f"the first line must be {','.join(CSV_COLUMNS)}"
    if not rows:
        raise ManifestError("the class list has no classes", where=path, fix=header)
    seen: dict[str, int] = {}
    for number, row in enumerate(rows):
        where = f"{path}, line {number + 2}"
        if any(not row.get(column) for column in CSV_COLUMNS):
            raise ManifestError("a class needs an index, a mid and a name", where=where, fix=header)
        if row["index"].strip() != str(number):
            raise ManifestError(
                f"index {row['index']} where {number} was expected: outputs of the model are "
                "numbered in the order of the list",
                where=where,
                fix="number the classes 0, 1, 2, ... from the top",
            )
        for column in ("mid", "display_name"):
            key = f"{column} {row[column].strip()}"
            if key in seen:
                raise ManifestError(
                    f"{key} appears twice, on lines {seen[key]} and {number + 2}",
                    where=path,
                    fix="delete or rename one of them",
                )
            seen[key] = number + 2
