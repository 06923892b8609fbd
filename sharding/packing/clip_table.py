"""Checked clips in their order, on disk: millions of clips without as many Python objects."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple
from typing import Any, overload

from psla_wds.errors import ManifestError, PslaError
from psla_wds.io.locations import parse_location
from psla_wds.io.scratch import scratch_database, scratch_errors, to_bytes, to_text
from psla_wds.labels.manifest import ByteRange, Cell, Clip, Row

COLUMNS = (
    "clip_id, path, labels, split, source, start_s, end_s, may_be_cut, part, reason, detail, "
    "suffix, family"
)
"""Without types, so that SQLite keeps floats as they are, -0.0 and infinity too."""
READ = f"SELECT {COLUMNS} FROM clips"
FIRST_DUPLICATE = """
    SELECT one.clip_id, one.source, other.source
    FROM clips AS one JOIN clips AS other ON other.rowid = one.rowid + 1
    WHERE one.clip_id = other.clip_id ORDER BY other.number LIMIT 1
"""
WITH_SPLIT = COLUMNS.replace(
    "split",
    "CASE WHEN split <> '' THEN split WHEN rowid IN (SELECT number FROM eval) "
    "THEN 'eval' ELSE 'train' END",
)
HALF = 2**63
"""Integers in SQLite have a sign."""

Unsplit = tuple[int, str, str, tuple[int, ...]]
"""Number, id, group and labels of a clip without a split."""


class ClipTable(Sequence[Clip]):
    """Clips in the order of the places that they come with, those of one place by id.

    Read from disk when they are asked for, one after another or a slice at a time.
    """

    def __init__(
        self,
        placed: Iterable[tuple[int, Clip]],
        choose_eval: Callable[[Iterable[Unsplit]], Iterable[int]] | None = None,
    ) -> None:
        """Place, from 0 to below 2**64, and clip; `ManifestError` if two have one id.

        Args:
            choose_eval: gives the numbers of the clips without a split that get eval; the others
                get train. Default: they stay without one.
        """
        with scratch_errors():
            self._database = scratch_database(self)
            try:
                self._collect(placed)
            except PslaError:
                self._put_in_order()  # reports the first of two mistakes in a list
                raise
            self._length = self._put_in_order(choose_eval)

    def _collect(self, placed: Iterable[tuple[int, Clip]]) -> None:
        self._database.execute(f"CREATE TABLE found (place, {COLUMNS})")
        rows = ((place - HALF, *_columns(clip)) for place, clip in placed)
        marks = ", ".join("?" * (1 + len(COLUMNS.split())))
        self._database.executemany(f"INSERT INTO found VALUES ({marks})", rows)

    def _put_in_order(
        self, choose_eval: Callable[[Iterable[Unsplit]], Iterable[int]] | None = None
    ) -> int:
        """Sort the clips by copying them, so that slices are contiguous; return their number."""
        columns = COLUMNS
        if choose_eval:
            columns = WITH_SPLIT
            self._database.execute("CREATE TABLE eval (number INTEGER PRIMARY KEY)")
            chosen = choose_eval(self._unsplit())
            self._database.executemany("INSERT INTO eval VALUES (?)", ((one,) for one in chosen))
        self._database.execute(f"CREATE TABLE clips (number, {COLUMNS})")
        length = self._database.execute(
            f"INSERT INTO clips SELECT rowid, {columns} FROM found ORDER BY place, clip_id, rowid"
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

    def _unsplit(self) -> Iterator[Unsplit]:
        wanted = "SELECT rowid, clip_id, family, labels FROM found WHERE split = ''"
        for number, clip_id, group, labels in self._database.execute(wanted):
            yield number, clip_id, group, _numbers(labels)

    def __len__(self) -> int:
        return self._length

    def num_splits(self) -> int:
        with scratch_errors():
            count = "SELECT COUNT(DISTINCT split) FROM clips"
            return int(self._database.execute(count).fetchone()[0])

    def __iter__(self) -> Iterator[Clip]:
        with scratch_errors():
            yield from map(_clip, self._database.execute(READ))

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
        bounds = (rows.start + 1, rows.stop)  # SQLite counts from 1
        with scratch_errors():
            found = self._database.execute(f"{READ} WHERE rowid BETWEEN ? AND ?", bounds)
            return tuple(map(_clip, found))


def _columns(clip: Clip) -> tuple[Any, ...]:
    reason, detail = clip.refusal or (None, "")
    return (
        clip.clip_id,
        str(clip.path),
        _joined(clip.labels),
        clip.split,
        to_bytes(clip.source),
        clip.start_s,
        clip.end_s,
        clip.may_be_cut,
        clip.part and _joined(astuple(clip.part)),
        reason,
        to_bytes(detail),
        clip.suffix,
        clip.group,
    )


def _clip(row: tuple[Any, ...]) -> Clip:
    clip_id, path, labels, split, source, start_s, end_s, may_be_cut, part, reason, *rest = row
    detail, suffix, group = rest
    return Clip(
        clip_id,
        parse_location(path),
        _numbers(labels),
        split,
        to_text(source),
        start_s,
        end_s,
        bool(may_be_cut),
        None if part is None else _part(_numbers(part)),
        None if reason is None else (reason, to_text(detail)),
        suffix,
        group,
    )


def _part(numbers: tuple[int, ...]) -> ByteRange | Row | Cell:
    kinds: dict[int, Callable[..., ByteRange | Row | Cell]] = {1: Row, 2: ByteRange, 3: Cell}
    return kinds[len(numbers)](*numbers)


def _joined(numbers: Iterable[int]) -> str:
    return " ".join(map(str, numbers))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split()))
