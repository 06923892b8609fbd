"""Clips with the same audio.

Equal samples are encoded to equal bytes, so duplicates are found by the columns of the index, and
proved by their bytes.
"""

import hashlib
import json
from collections.abc import Iterator

import numpy as np
from isal.isal_zlib import crc32

from psla_wds.errors import ShardError
from psla_wds.io.atomic_files import disk_errors
from psla_wds.io.locations import Location
from psla_wds.io.stores import at
from psla_wds.shards.index import ShardIndex
from psla_wds.shards.tar import ClipColumns, PackedClip, read_sidecars, tars_in

DUPLICATES = "duplicates.json"


def find_duplicates(index: ShardIndex) -> Iterator[tuple[str, str]]:
    """Id of each clip that repeats an earlier clip's audio, with the id of the first such clip."""
    for rows in _alike(index):
        for row, first in _same_bytes(index, rows):
            yield index.clip_id(row), index.clip_id(first)


def _alike(index: ShardIndex) -> Iterator[list[int]]:
    """Groups of rows with equal length, size and CRC-32, in the order of the index."""
    columns = (index.num_samples, index.size, index.crc32)
    order = np.lexsort([np.asarray(column) for column in columns])
    begins = np.ones(len(order) + 1, bool)
    begins[1:-1] = False
    for column in columns:
        begins[1:-1] |= np.diff(np.asarray(column)[order].astype(np.int64)) != 0
    starts = np.flatnonzero(begins)
    for group in np.flatnonzero(np.diff(starts) > 1):
        yield sorted(order[starts[group] : starts[group + 1]].tolist())


def _same_bytes(index: ShardIndex, rows: list[int]) -> Iterator[tuple[int, int]]:
    firsts: dict[bytes, int] = {}
    for row in rows:
        first = firsts.setdefault(_audio(index, row), row)
        if first != row:
            yield row, first


def _audio(index: ShardIndex, row: int) -> bytes:
    tar = index.shards[index.shard[row]]
    return at(tar).read_range(int(index.offset[row]), int(index.size[row]))


class KnownAudio:
    """Audio known so far: that of the shards in a folder, and of clips added to it."""

    def __init__(self, folder: Location) -> None:
        self._places: dict[tuple[int, int, int], list[tuple[str, Location, int]]] = {}
        self._added: dict[bytes, str] = {}
        tars = tars_in(folder)
        for tar, sidecar in zip(tars, read_sidecars(tars), strict=True):
            if sidecar:
                self._add_shard(tar, sidecar.clips)

    def _add_shard(self, tar: Location, clips: ClipColumns) -> None:
        keys = zip(clips.num_samples, clips.size, clips.crc32, strict=True)
        for key, clip_id, offset in zip(keys, clips.clip_id, clips.offset, strict=True):
            self._places.setdefault(key, []).append((clip_id, tar, offset))

    def add(self, clip: PackedClip) -> str | None:
        """First clip with this clip's audio; None if there is none, in which case the clip is
        added."""
        size = len(clip.audio)
        key = (clip.num_samples, size, crc32(clip.audio))
        for clip_id, tar, offset in self._places.get(key, ()):
            if at(tar).read_range(offset, size) == clip.audio:
                return clip_id
        first = self._added.setdefault(hashlib.sha256(clip.audio).digest(), clip.clip_id)
        return first if first != clip.clip_id else None


def read_duplicates(folder: Location) -> dict[str, str]:
    """Duplicates found when the shards in a folder were packed."""
    path = folder / DUPLICATES
    try:
        found = json.loads(at(path).read().decode())
        return {str(clip_id): str(first) for clip_id, first in found.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError, OSError, RecursionError) as error:
        raise ShardError(
            f"the list of duplicates is damaged: {error}",
            where=path,
            fix="delete it, and run the same command again",
        ) from None


def write_duplicates(folder: Location, duplicates: dict[str, str]) -> None:
    with (
        disk_errors(folder, "write the list of duplicates"),
        at(folder / DUPLICATES).write("w") as file,
    ):
        json.dump(dict(sorted(duplicates.items())), file, ensure_ascii=False, indent=1)
