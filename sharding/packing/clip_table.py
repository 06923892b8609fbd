"""Checked clips in their order, on disk: millions of them without as many objects."""

import pickle
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

from psla_wds.errors import ManifestError, PslaError
from psla_wds.io.scratch import scratch_database, scratch_errors, to_bytes, to_text
from psla_wds.labels.manifest import Clip

FIRST_DUPLICATE = """
    SELECT one.clip_id, one.source, other.source
    FROM clips AS one JOIN clips AS other ON other.rowid = one.rowid + 1
    WHERE one.clip_id = other.clip_id ORDER BY other.number LIMIT 1
"""
HALF = 2**63
"""Integers in SQLite have a sign."""


class ClipTable(Sequence[Clip]):
    """Clips in the order of the places that they come with, those of one place by id.

    Read from disk when they are asked for, one after another or a slice at a time.
    """

    def __init__(self, placed: Iterable[tuple[int, Clip]]) -> None:
        """Place, from 0 to below 2**64, and clip; `ManifestError` if two have one id."""
        with scratch_errors():
            self._database = scratch_database(self)
            try:
                self._collect(placed)
            except PslaError:
                self._put_in_order()  # of two mistakes in a list the first is told
                raise
            self._length = self._put_in_order()

    def _collect(self, placed: Iterable[tuple[int, Clip]]) -> None:
        self._database.execute("CREATE TABLE found (place, clip_id, source, clip)")
        rows = (
            (place - HALF, clip.clip_id, to_bytes(clip.source), pickle.dumps(clip))
            for place, clip in placed
        )
        self._database.executemany("INSERT INTO found VALUES (?, ?, ?, ?)", rows)

    def _put_in_order(self) -> int:
        """How many there are, once they are copied in their order: slices then lie side by side."""
        self._database.execute("CREATE TABLE clips (number, clip_id, source, clip)")
        length = self._database.execute(
            "INSERT INTO clips SELECT rowid, clip_id, source, clip FROM found "
            "ORDER BY place, clip_id, rowid"
        ).rowcount
        self._database.execute("DROP TABLE found")
        duplicate = self._database.execute(FIRST_DUPLICATE).fetchone()
        if duplicate:
            clip_id, *sources = duplicate
            raise ManifestError(
                f"clip id {clip_id!r} appears twice",
                where=" and ".join(map(to_text, sources)),
                fix="give each clip a clip_id of its own",
            )
        return length

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Clip]:
        return self._read("")

    @overload
    def __getitem__(self, key: int) -> Clip: ...
    @overload
    def __getitem__(self, key: slice) -> tuple[Clip, ...]: ...
    def __getitem__(self, key: int | slice) -> Clip | tuple[Clip, ...]:
        rows = range(len(self))[key]
        if isinstance(rows, int):
            return self[rows : rows + 1][0]
        if rows.step != 1:
            return tuple(self[row] for row in rows)
        first, last = rows.start + 1, rows.stop  # SQLite counts from 1
        return tuple(self._read(f"WHERE rowid BETWEEN {first} AND {last}"))

    def _read(self, which: str) -> Iterator[Clip]:
        with scratch_errors():
            for (clip,) in self._database.execute(f"SELECT clip FROM clips {which}"):
                yield pickle.loads(clip)  # written by this process, to a file without a name
