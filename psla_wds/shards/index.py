"""The index: position and labels of each clip, as columns, memory-mapped if they are large."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64, UInt8, UInt16, UInt32

from psla_wds.errors import ConfigError, StaleIndexError
from psla_wds.io.columns import gather_ragged
from psla_wds.io.locations import Location
from psla_wds.io.stores import sizes_of
from psla_wds.labels.class_list import ClassList
from psla_wds.printable import typed
from psla_wds.shards.clip_ids import ClipIds
from psla_wds.shards.soft_labels import SoftLabels

MAX_SPLITS = 256
"""The column of splits has one byte per clip."""


@dataclass(frozen=True)
class ShardIndex:
    """Row i of every column describes clip i; rows follow the shards, then the tar."""

    shards: tuple[Location, ...]
    shard_sizes: tuple[int, ...]
    """Size of each tar in bytes."""
    classes: ClassList
    splits: tuple[str, ...]
    sample_rate_hz: int
    fingerprint: str
    """Digest of the content of all shards and of the choice of rows."""
    shard: UInt32[np.ndarray, " clips"]
    """Position in `shards` of the tar that holds the clip."""
    offset: Int64[np.ndarray, " clips"]
    """First byte of the audio in that tar, past the tar header."""
    size: Int64[np.ndarray, " clips"]
    """Bytes of the encoded audio."""
    crc32: UInt32[np.ndarray, " clips"]
    """Checksum of the encoded audio."""
    num_samples: Int64[np.ndarray, " clips"]
    split: UInt8[np.ndarray, " clips"]
    """Position in `splits`."""
    label_starts: Int64[np.ndarray, " clips+1"]
    """Labels of row i are `label_values[label_starts[i]:label_starts[i + 1]]`."""
    label_values: UInt16[np.ndarray, " labels"]
    """Positions in `classes`."""
    id_starts: Int64[np.ndarray, " clips+1"]
    id_bytes: UInt8[np.ndarray, " bytes"]
    """Clip ids in UTF-8, concatenated."""
    soft_labels: SoftLabels | None = None
    """A teacher's scores for a student to learn from, by `teacher.apply_teacher`."""

    def __len__(self) -> int:
        return len(self.offset)

    @property
    def clip_ids(self) -> ClipIds:
        return ClipIds(self.id_starts, self.id_bytes)

    def clip_id(self, row: int | np.integer) -> str:
        return self.clip_ids[row]

    def labels(self, row: int | np.integer) -> UInt16[np.ndarray, " labels"]:
        return self.label_values[self.label_starts[row] : self.label_starts[row + 1]]

    def targets(self, rows: Int64[np.ndarray, " rows"]) -> Float32[np.ndarray, "rows classes"]:
        """1 where a clip has a class, else 0."""
        targets = np.zeros((len(rows), len(self.classes)), np.float32)
        starts, values = gather_ragged(self.label_starts, self.label_values, rows)
        targets[np.repeat(np.arange(len(rows)), np.diff(starts)), values] = 1.0
        return targets

    def class_counts(self) -> Int64[np.ndarray, " classes"]:
        """Clips of each class."""
        return np.bincount(self.label_values, minlength=len(self.classes))

    def where(self, row: int | np.integer) -> str:
        """Shard, offset and clip id, for messages."""
        return f"{self.shards[self.shard[row]]}, byte {self.offset[row]}, clip {self.clip_id(row)}"

    def select(self, rows: Int64[np.ndarray, " rows"], choice: str) -> "ShardIndex":
        """Index of some of the clips; `choice` describes the selection, for the fingerprint."""
        columns = ("shard", "offset", "size", "crc32", "num_samples", "split")
        label_starts, label_values = gather_ragged(self.label_starts, self.label_values, rows)
        id_starts, id_bytes = gather_ragged(self.id_starts, self.id_bytes, rows)
        return replace(
            self,
            **{name: getattr(self, name)[rows] for name in columns},
            label_starts=label_starts,
            label_values=label_values,
            id_starts=id_starts,
            id_bytes=id_bytes,
            soft_labels=self.soft_labels and self.soft_labels.select(rows),
            fingerprint=combined_fingerprint([self.fingerprint, choice]),
        )

    def with_labels(
        self,
        label_starts: Int64[np.ndarray, " starts"],
        label_values: UInt16[np.ndarray, " labels"],
    ) -> "ShardIndex":
        """Index of the same clips with other labels; its fingerprint covers the labels."""
        digest = hashlib.sha256(label_starts.astype("<i8").tobytes())
        digest.update(label_values.astype("<u2").tobytes())
        return replace(
            self,
            label_starts=label_starts,
            label_values=label_values,
            fingerprint=combined_fingerprint([self.fingerprint, f"labels {digest.hexdigest()}"]),
        )

    def select_splits(self, splits: Sequence[str], where: str) -> "ShardIndex":
        """Index of the clips of some splits, such as train or fold1."""
        unknown = sorted(set(splits) - set(self.splits))
        if unknown:
            raise ConfigError(
                f"there is no split {', '.join(unknown)}",
                where=where,
                fix=f"the splits are: {', '.join(name or '(no name)' for name in self.splits)}",
            )
        wanted = [self.splits.index(name) for name in splits]
        rows = np.flatnonzero(np.isin(self.split, wanted))
        return self.select(rows, f"splits {sorted(splits)}")

    def select_random(self, num_clips: int, *, seed: int) -> "ShardIndex":
        """Index of `num_clips` random clips, in the order of this index.

        These are the clips with the smallest hashes of (seed, clip id): the choice does not depend
        on the order of the clips, and a smaller subset is contained in a larger one.
        """
        if num_clips > len(self):
            raise ConfigError(
                f"{num_clips:,} clips cannot be chosen from {len(self):,}",
                where="subset",
                fix=f"set --subset to at most {len(self)}, or leave it out",
            )
        rows = np.argsort(self.clip_ids.hashes(f"subset {seed} "), kind="stable")[:num_clips]
        return self.select(np.sort(rows), f"subset {num_clips} {seed}")

    def check_shards(self) -> None:
        """Raise `StaleIndexError` if a shard is missing or its size differs from the index."""
        sizes = sizes_of(self.shards)
        for shard, expected, actual in zip(self.shards, self.shard_sizes, sizes, strict=True):
            if actual != expected:
                found = "it is missing" if actual is None else f"it has {actual:,}"
                raise StaleIndexError(
                    f"the index expects a shard of {expected:,} bytes, {found}",
                    where=shard,
                    fix=f"copy the shard again, or rebuild the index: "
                    f"psla-wds index {typed(shard.parent)}",
                )


def concatenate(indexes: Sequence[ShardIndex]) -> ShardIndex:
    """Concatenate indexes in their order; their classes must be the same."""
    first = indexes[0]
    if len(indexes) == 1:
        return first
    for other in indexes[1:]:
        if other.classes != first.classes or other.sample_rate_hz != first.sample_rate_hz:
            raise ConfigError(
                "these shards have other classes or another sample rate",
                where=f"{other.shards[0].parent} and {first.shards[0].parent}",
                fix="build all of them with one --class-labels file and one --sample-rate-hz",
            )
    if any(index.soft_labels for index in indexes):
        raise ConfigError(
            "soft labels belong to one index",
            where="indexes that are joined",
            fix="join the indexes first, and give the whole to apply_teacher",
        )
    splits = tuple(dict.fromkeys(name for index in indexes for name in index.splits))
    check_number_of_splits(len(splits), where="indexes that are joined")
    shard_bases = np.cumsum([0, *(len(index.shards) for index in indexes)])
    split_maps = [np.array([splits.index(s) for s in i.splits], np.uint8) for i in indexes]

    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(index, name) for index in indexes])

    columns: dict[str, Any] = {
        name: joined(name) for name in ("offset", "size", "crc32", "num_samples")
    } | {
        "shard": np.concatenate(
            [i.shard + np.uint32(base) for i, base in zip(indexes, shard_bases, strict=False)]
        ),
        "split": np.concatenate([m[i.split] for i, m in zip(indexes, split_maps, strict=True)]),
        "label_values": joined("label_values"),
        "label_starts": _join_starts([index.label_starts for index in indexes]),
        "id_bytes": joined("id_bytes"),
        "id_starts": _join_starts([index.id_starts for index in indexes]),
    }
    return ShardIndex(
        shards=tuple(path for index in indexes for path in index.shards),
        shard_sizes=tuple(size for index in indexes for size in index.shard_sizes),
        classes=first.classes,
        splits=splits,
        sample_rate_hz=first.sample_rate_hz,
        fingerprint=combined_fingerprint([index.fingerprint for index in indexes]),
        **columns,
    )


def check_number_of_splits(number: int, *, where: object) -> None:
    """Raise if there are more splits than one byte can number."""
    if number > MAX_SPLITS:
        raise ConfigError(
            f"there are {number:,} splits, and an index has room for {MAX_SPLITS}",
            where=where,
            fix="name fewer, such as train and eval: clips differ by clip_id, not by split",
        )


def combined_fingerprint(parts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _join_starts(starts: Sequence[np.ndarray]) -> np.ndarray:
    bases = np.cumsum([0, *(s[-1] for s in starts)])
    parts = [s[:-1] + base for s, base in zip(starts, bases, strict=False)]
    return np.concatenate([*parts, bases[-1:]])
