"""Clip ids as two columns: millions of them without as many Python objects."""

import hashlib
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import overload

import numpy as np
from jaxtyping import Bool, Int64, UInt8, UInt64

from psla_wds.io.columns import gather_ragged

NOT_THERE = -1


@dataclass(frozen=True)
class ClipIds:
    """Id i is `values[starts[i]:starts[i + 1]]`."""

    starts: Int64[np.ndarray, " starts"]
    values: UInt8[np.ndarray, " bytes"]
    """All ids in UTF-8, concatenated."""

    @classmethod
    def of(cls, texts: Iterable[str]) -> "ClipIds":
        values, ends = bytearray(), array("q", [0])
        for text in texts:
            values += text.encode()
            ends.append(len(values))
        return cls(np.array(ends, np.int64), np.frombuffer(values, np.uint8))

    def __len__(self) -> int:
        return len(self.starts) - 1

    @overload
    def __getitem__(self, row: int | np.integer) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | np.integer | slice) -> str | list[str]:
        if isinstance(row, slice):
            return [self[one] for one in range(*row.indices(len(self)))]
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)} clip ids")
        row = range(len(self))[row]
        return self.values[self.starts[row] : self.starts[row + 1]].tobytes().decode()

    def __iter__(self) -> Iterator[str]:
        ids = self.values.tobytes()
        return (ids[start:stop].decode() for start, stop in pairwise(self.starts.tolist()))

    def hashes(self, prefix: str) -> UInt64[np.ndarray, " clips"]:
        """A random number for each clip, derived from its id: 1 s for 2M clips."""
        begun = hashlib.blake2b(prefix.encode(), digest_size=8)
        ids, digests = self.values.data, bytearray()
        for start, stop in pairwise(self.starts.tolist()):
            clip = begun.copy()
            clip.update(ids[start:stop])
            digests += clip.digest()
        return np.frombuffer(digests, "<u8")

    def rows_of(self, wanted: "ClipIds") -> Int64[np.ndarray, " wanted"]:
        """Row of each wanted clip by its id; `NOT_THERE` for an id that is not among these.

        Uses hashes and one sort instead of a dictionary of millions of Python strings.
        """
        if self._equals(wanted):
            return np.arange(len(self))
        if not len(self):
            return np.full(len(wanted), NOT_THERE)
        mine, theirs = self.hashes(""), wanted.hashes("")
        order = np.argsort(mine, kind="stable")
        places = np.searchsorted(mine, theirs, sorter=order)
        rows = order[np.minimum(places, len(self) - 1)]
        missing = mine[rows] != theirs
        found = np.flatnonzero(~missing)
        missing[found] = ~self._same_ids(rows[found], wanted, found)  # one hash of two ids
        return np.where(missing, NOT_THERE, rows)

    def repeated(self) -> Int64[np.ndarray, " repeated"]:
        """Rows whose id an earlier row has."""
        hashes = self.hashes("")
        order = np.argsort(hashes, kind="stable")
        alike = np.flatnonzero(np.diff(hashes[order]) == 0)
        firsts, others = order[alike], order[alike + 1]
        return np.sort(others[self._same_ids(firsts, self, others)])

    def _equals(self, other: "ClipIds") -> bool:
        return np.array_equal(self.starts, other.starts) and np.array_equal(
            self.values, other.values
        )

    def _same_ids(
        self, rows: Int64[np.ndarray, " n"], other: "ClipIds", others: Int64[np.ndarray, " n"]
    ) -> Bool[np.ndarray, " n"]:
        """Whether id `rows[i]` of these equals id `others[i]` of the other ones."""
        same = np.diff(self.starts)[rows] == np.diff(other.starts)[others]
        starts, values = gather_ragged(self.starts, self.values, rows[same])
        _, other_values = gather_ragged(other.starts, other.values, others[same])
        differing = np.flatnonzero(values != other_values)
        same[np.flatnonzero(same)[np.searchsorted(starts, differing, side="right") - 1]] = False
        return same
