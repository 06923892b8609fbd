"""The folder form of scores, for millions of clips: plain arrays, memory-mapped. docs/format.md."""

import json
import mmap
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64

from psla_wds.errors import ConfigError, ScoreError
from psla_wds.evaluation.origins import Origin
from psla_wds.io.atomic_files import disk_errors, publish_folder
from psla_wds.io.columns import check_ragged, map_column
from psla_wds.labels.class_list import ClassList
from psla_wds.shards.clip_ids import ClipIds
from psla_wds.shards.teacher import is_top_scores, top_scores, write_meta

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
    """A folder that several processes fill: the first begins and finishes it, all write rows.

    With `top_k` it keeps so many scores of each clip, the highest, for a student to learn from.
    """

    def __init__(self, folder: Path, classes: ClassList, *, top_k: int | None = None) -> None:
        self.folder = folder
        self._classes, self._top_k = classes, top_k
        self._temporary = folder.with_name(f"{folder.name}.tmp")
        self._mapped: dict[str, np.memmap] = {}

    def begin(self, clip_ids: ClipIds) -> None:
        """Make the files, under a temporary name."""
        if self.folder.exists():
            raise ScoreError(
                "something is there already", where=self.folder, fix="choose another --output"
            )
        kinds = {"scores": np.float32, "targets": np.uint8}
        if self._top_k:
            kinds = {"scores": np.float16, "classes": np.uint16}
        shape = (len(clip_ids), self._top_k or len(self._classes))
        with disk_errors(self.folder, "write the scores", then="run the command again"):
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary.mkdir(parents=True)
            np.save(self._temporary / "id_starts.npy", clip_ids.starts)
            np.save(self._temporary / "id_bytes.npy", clip_ids.values)
            for name, dtype in kinds.items():
                np.lib.format.open_memmap(self._temporary / f"{name}.npy", "w+", dtype, shape)

    def open(self, name: str) -> np.memmap:
        """An array of the folder, mapped for writing."""
        if name not in self._mapped:
            path = self._temporary / f"{name}.npy"
            self._mapped[name] = np.load(path, mmap_mode="r+", allow_pickle=False)
        return self._mapped[name]

    def write(
        self, rows: Int64[np.ndarray, " rows"], scores: Float32[np.ndarray, "rows classes"]
    ) -> None:
        """Write the scores of some clips."""
        if self._top_k:
            self.open("scores")[rows], self.open("classes")[rows] = top_scores(scores, self._top_k)
        else:
            self.open("scores")[rows] = scores

    def flush(self) -> None:
        """Have what this process wrote on disk."""
        for array in self._mapped.values():
            array.flush()

    def finish(self, origins: Sequence[Origin] = ()) -> None:
        """Say what the arrays are of, and give the folder its name: from here on it is whole.

        Args:
            origins: the checkpoints that gave the scores.
        """
        self.flush()
        mids, names = self._classes.mids, self._classes.names
        if self._top_k:
            write_meta(self._temporary, mids, names)
        else:
            meta = {"format_version": FORMAT_VERSION, "mids": mids, "names": names}
            meta |= {"origins": [str(origin) for origin in origins]}
            text = json.dumps(meta, ensure_ascii=False, indent=1)
            (self._temporary / META).write_text(text + "\n", encoding="utf-8")
        publish_folder(self._temporary, self.folder)


def check_top_k(top_k: int | None, output: Path) -> None:
    """Raise unless so many scores can be kept, and the output is a folder for them."""
    if top_k is not None and (top_k < 1 or output.suffix == ".npz"):
        raise ConfigError(
            f"top_k={top_k} is no number of scores to write to {output.name}",
            where="--top-k",
            fix="set --top-k 20 and an --output without .npz, which is a folder",
        )


def read_score_folder(folder: Path) -> dict[str, np.ndarray]:
    """The arrays by name, `scores` and `targets` mapped; ValueError or OSError if they are bad."""
    if is_top_scores(folder):
        raise ScoreError(
            "these are the highest scores of each clip alone, without targets",
            where=folder,
            fix="give them to train/main.py --distill, or to eval.ensemble --top-k",
        )
    meta = json.loads((folder / META).read_text(encoding="utf-8"))
    if meta["format_version"] != FORMAT_VERSION:
        raise ValueError(f"format {meta['format_version']}, where {FORMAT_VERSION} is read")
    arrays = {
        name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        for name in ("scores", "targets")
    }
    starts = map_column(folder / "id_starts.npy", np.int64)
    values = map_column(folder / "id_bytes.npy", np.uint8)
    try:
        check_ragged(starts, values, len(starts) - 1, "clip ids")
    except ValueError as error:
        raise ScoreError(
            f"the score folder is damaged: {error}",
            where=folder,
            fix="write it again: python -m eval.predict",
        ) from None
    clip_ids = ClipIds(starts, values)
    texts = {name: meta[name] for name in ("mids", "names")} | {"clip_ids": list(clip_ids)}
    texts |= {"origins": meta.get("origins", [])}
    return arrays | {name: np.array(values, np.str_) for name, values in texts.items()}
