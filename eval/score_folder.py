"""The folder form of scores, for millions of clips: plain arrays, memory-mapped. docs/format.md."""

import json
import mmap
import shutil
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from psla_wds.errors import ScoreError
from psla_wds.files import publish_folder
from psla_wds.labels import ClassList

FORMAT_VERSION = 1
META = "scores.json"
ROWS_AT_ONCE = 8192
"""Rows that are looked at in one go: 17 MB of float32 scores of 527 classes."""


def row_blocks(
    array: np.ndarray, order: np.ndarray | None = None
) -> Iterator[tuple[slice, np.ndarray]]:
    """The rows of an array, or those that `order` lists, a block at a time.

    Of a mapped file no more than a block stays in memory.
    """
    for first in range(0, len(array if order is None else order), ROWS_AT_ONCE):
        rows = slice(first, first + ROWS_AT_ONCE)
        yield rows, array[rows if order is None else order[rows]]
        if isinstance(array.base, mmap.mmap):
            array.base.madvise(mmap.MADV_DONTNEED)  # they are in the file, to be read again


class ScoreFolder:
    """A folder that several processes fill: the first begins and finishes it, all write rows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._temporary = folder.with_name(f"{folder.name}.tmp")

    def begin(self, clip_ids: Sequence[str], classes: ClassList) -> None:
        """Make the files, under a temporary name."""
        if self.folder.exists():
            raise ScoreError(
                "something is there already", where=self.folder, fix="choose another --output"
            )
        shutil.rmtree(self._temporary, ignore_errors=True)
        self._temporary.mkdir(parents=True)
        ids = [clip_id.encode() for clip_id in clip_ids]
        starts = np.cumsum([0, *map(len, ids)], dtype=np.int64)
        np.save(self._temporary / "id_starts.npy", starts)
        np.save(self._temporary / "id_bytes.npy", np.frombuffer(b"".join(ids), np.uint8))
        for name, dtype in (("scores", np.float32), ("targets", np.uint8)):
            np.lib.format.open_memmap(
                self._temporary / f"{name}.npy", "w+", dtype, (len(ids), len(classes))
            )
        meta = {"format_version": FORMAT_VERSION, "mids": classes.mids, "names": classes.names}
        text = json.dumps(meta, ensure_ascii=False, indent=1)
        (self._temporary / META).write_text(text + "\n", encoding="utf-8")

    def open(self, name: str) -> np.ndarray:
        """The array `scores` or `targets`, mapped for writing."""
        return np.load(self._temporary / f"{name}.npy", mmap_mode="r+", allow_pickle=False)

    def finish(self) -> None:
        """Give the folder its name: from here on it is whole."""
        publish_folder(self._temporary, self.folder)


def read_score_folder(folder: Path) -> dict[str, np.ndarray]:
    """The arrays by name, `scores` and `targets` mapped; ValueError or OSError if they are bad."""
    meta = json.loads((folder / META).read_text(encoding="utf-8"))
    if meta["format_version"] != FORMAT_VERSION:
        raise ValueError(f"format {meta['format_version']}, where {FORMAT_VERSION} is read")
    arrays = {
        name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        for name in ("scores", "targets", "id_starts", "id_bytes")
    }
    ids, starts = arrays.pop("id_bytes").tobytes(), arrays.pop("id_starts").tolist()
    clip_ids = [ids[start:stop].decode() for start, stop in pairwise(starts)]
    texts = {"clip_ids": clip_ids, "mids": meta["mids"], "names": meta["names"]}
    return arrays | {name: np.array(values, np.str_) for name, values in texts.items()}
