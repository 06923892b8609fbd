"""A table with the labels of clips in tars: one row a clip."""

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from psla_wds.audio.kinds import AUDIO_SUFFIXES
from psla_wds.cli import LocationArg
from psla_wds.errors import ClipRefusedError, ConfigError, ManifestError
from psla_wds.io.atomic_files import sha256_of
from psla_wds.io.locations import Location
from psla_wds.io.scratch import scratch_database, scratch_errors
from psla_wds.io.stores import at
from psla_wds.labels.class_list import ClassList
from psla_wds.labels.manifest import LabelError, label_positions
from sharding.foreign.labels import Description, LabelRules
from sharding.foreign.tar_members import is_text
from sharding.sources.rows import table_rows
from sharding.sources.source import require

DIFFERENT_TWICE = """
    SELECT one.place, other.place FROM rows AS one JOIN rows AS other USING (name)
    WHERE one.rowid < other.rowid AND (one.reason, one.labels) <> (other.reason, other.labels)
    ORDER BY other.rowid LIMIT 1
"""

logger = logging.getLogger("sharding.tars")


@dataclass(frozen=True, kw_only=True)
class LabelOptions:
    """Where the labels of clips in tars are, if not where they are found by themselves."""

    labels: LocationArg | None = None
    """Table with labels, one row a clip (.csv, .jsonl or .parquet), in place of those in the
    tars."""
    key: str = ""
    """Column of --labels with the clip: its key or path in the tar, with or without folder and
    suffix, or the id in its .json."""
    label_column: str = ""
    """Column of --labels with the labels: mids, names or indices, separated by | or in a list."""
    label_key: str = ""
    """Key of the labels in .json members. Default: labels, label, mids, tags or tag."""

    def __post_init__(self) -> None:
        given = [self.labels is not None, bool(self.key), bool(self.label_column)]
        if any(given) and not all(given):
            raise ConfigError(
                "a table of labels needs all three settings",
                where="--labels, --key, --label-column",
                fix="--labels TABLE --key COLUMN --label-column COLUMN",
            )
        if self.labels is not None and self.label_key:
            raise ConfigError(
                "labels come from a table or from .json members",
                where="--labels and --label-key",
                fix="leave one of them out",
            )

    def rules(self, classes: ClassList) -> LabelRules:
        """Rules by which labels of tars are read, with the table in them."""
        if self.labels is None and not self.label_key:
            return LabelRules(classes)
        table, settings = None, [self.label_key, self.key, self.label_column]
        if self.labels is not None:
            table = LabelTable(self.labels, self.key, self.label_column, classes)
            with at(self.labels).local_copy() as local:
                settings.append(sha256_of(local))
        fingerprint = hashlib.sha256(json.dumps(settings).encode()).hexdigest()
        return LabelRules(classes, self.label_key, table, fingerprint)


class LabelTable:
    """Labels by names of clips, on disk; knows which clip each row was used for."""

    def __init__(self, path: Location, key: str, label_column: str, classes: ClassList) -> None:
        """Read a table; `ManifestError` if two rows give a clip different labels."""
        self._path = path
        with scratch_errors():
            self._database = scratch_database(self)
            self._database.execute("CREATE TABLE rows (name, base, reason, labels, place, clip)")
            self._database.executemany(
                "INSERT INTO rows VALUES (?, ?, ?, ?, ?, NULL)",
                _rows(path, key, label_column, classes),
            )
            self._database.execute("CREATE INDEX by_name ON rows (name)")
            twice = self._database.execute(DIFFERENT_TWICE).fetchone()
            if twice:
                raise ManifestError(
                    "two rows give one clip different labels",
                    where=" and ".join(twice),
                    fix="keep one of them",
                )
            again = "rowid NOT IN (SELECT min(rowid) FROM rows GROUP BY name)"
            self._database.execute(f"DELETE FROM rows WHERE {again}")
            self._database.execute("CREATE INDEX by_base ON rows (base)")

    def find(self, clip: Description, tar: str, *, by_tar: bool) -> tuple[int, ...]:
        """Classes of a clip; `ClipRefusedError` if it has no row, or none with labels.

        A row is that of a clip if its name, without the suffix of an audio file, is the clip's id
        in its .json, or TAR/KEY, or the key, or if one of the two is the end of the other's path.
        Keys that several tars have count only as TAR/KEY. `ManifestError` if a row fits two clips.
        """
        with scratch_errors():
            rows = self._rows_of(clip, tar, by_tar)
            if len(rows) > 1:
                names = ", ".join(repr(row[1]) for row in rows[:2])
                raise ClipRefusedError("bad-label", f"several rows of the table fit: {names}")
            if not rows:
                name = f"{tar}/{clip.name}" if by_tar else clip.own_id or clip.name
                raise ClipRefusedError("no-label", f"the table of labels has no row for {name!r}")
            number, name, reason, labels, place, used_for = rows[0]
            own = f"{tar}, {clip.key}"
            if used_for not in (None, own):
                raise ManifestError(
                    f"the row of {name!r} fits two clips: {used_for} and {own}",
                    where=place,
                    fix="write the clips' folders, or TAR/KEY, in the column of --key",
                )
            self._database.execute("UPDATE rows SET clip = ? WHERE rowid = ?", (own, number))
        if reason:
            raise ClipRefusedError(reason, labels)
        if not labels:
            raise ClipRefusedError("no-label", "its row in the table has no labels")
        return tuple(map(int, labels.split()))

    def _rows_of(self, clip: Description, tar: str, by_tar: bool) -> list[tuple[Any, ...]]:
        exact = [without_suffix(clip.own_id), f"{tar}/{clip.name}", f"{tar}/{clip.key}"]
        names = [] if by_tar else [without_suffix(clip.name), without_suffix(clip.key)]
        for name in filter(None, exact + names):
            rows = self._rows("name", name)
            if rows:
                return rows
        for name in dict.fromkeys(names):
            rows = self._rows("base", name.rpartition("/")[2])
            rows = [row for row in rows if _is_end(row[1], name) or _is_end(name, row[1])]
            if rows:
                return rows
        return []

    def _rows(self, column: str, value: str) -> list[tuple[Any, ...]]:
        columns = "rowid, name, reason, labels, place, clip"
        return self._database.execute(
            f"SELECT {columns} FROM rows WHERE {column} = ?", (value,)
        ).fetchall()

    def recall(self, clip_ids: list[str], tar: str) -> None:
        """Count the rows of clips as used that an earlier run labelled."""
        for clip_id in clip_ids:
            try:
                self.find(Description(clip_id, clip_id, clip_id, (), "", ""), tar, by_tar=False)
            except ClipRefusedError:
                continue

    def forget(self) -> None:
        """Count all rows as not used."""
        with scratch_errors():
            self._database.execute("UPDATE rows SET clip = NULL")

    def warn_of_unused(self) -> None:
        with scratch_errors():
            counts = "SELECT count(*), count(clip), min(CASE WHEN clip IS NULL THEN name END)"
            num_rows, used, name = self._database.execute(f"{counts} FROM rows").fetchone()
        if used < num_rows:
            logger.warning(
                "%s: %s of %s rows fit no clip, such as %r",
                self._path,
                f"{num_rows - used:,}",
                f"{num_rows:,}",
                name,
            )


def _rows(
    path: Location, key: str, label_column: str, classes: ClassList
) -> Iterator[tuple[str, str, str, str, str]]:
    """Name, its last part, reason of a refusal, labels or the details of the refusal, place."""
    for where, row in table_rows(path, (key, label_column)):
        name = "" if row[key] is None else without_suffix(str(row[key]).strip())
        require(bool(name), f"the row has no {key}", where, "fill it in, or leave the row out")
        require(is_text(name), f"the {key} is not text that UTF-8 can hold", where, "rename it")
        try:
            reason, labels = "", " ".join(map(str, label_positions(row[label_column], classes)))
        except LabelError as error:
            reason, labels = error.reason, f"{error} ({where})"
        yield name, name.rpartition("/")[2], reason, labels, where


def without_suffix(name: str) -> str:
    """A name without the suffix of an audio file."""
    stem, dot, suffix = name.removeprefix("./").rpartition(".")
    return stem if stem and dot + suffix.lower() in AUDIO_SUFFIXES else name.removeprefix("./")


def _is_end(part: str, name: str) -> bool:
    return f"/{name}".endswith(f"/{part}")
