"""Score folders, for millions of clips: plain, memory-mapped arrays. Format: docs/format.md.

A folder holds all scores of each clip with its targets, or only the k highest, for students to
learn from.
"""

import hashlib
import json
import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import finalize

import numpy as np
from jaxtyping import Float, Float16, Float32, Int64, UInt16
from numpy.typing import DTypeLike

from psla_wds.config import SEAL, check_seal, read_json, write_sealed
from psla_wds.errors import DAMAGE, ConfigError, ScoreError
from psla_wds.io.atomic_files import disk_errors, lock_folder, publish_folder
from psla_wds.io.columns import check_ragged, map_column, save_column
from psla_wds.io.regular import read_text
from psla_wds.labels.class_list import ClassList
from psla_wds.printable import typed
from psla_wds.shards.clip_ids import ClipIds

FORMAT_VERSION = 1
META = "scores.json"
ROWS_AT_ONCE = 8192
"""Rows per block: 17 MB of float32 scores for 527 classes."""
MAKE_TOP_SCORES = "make them: psla-wds predict TEACHER --index SHARDS --top-k 20 --output FOLDER"


@dataclass(frozen=True)
class _Meta:
    """Content of scores.json, beside its check sums."""

    format_version: int
    mids: tuple[str, ...]
    names: tuple[str, ...]
    origins: tuple[str, ...] = ()
    """Checkpoints of all scores with targets."""
    top_k: int = 0
    """Scores of each clip, if these are only the highest."""
    fingerprint: str = ""
    """Digest of the highest scores."""


@dataclass(frozen=True)
class TopScores:
    """The highest scores of each clip, memory-mapped; row i is clip i of `clip_ids`."""

    scores: Float16[np.ndarray, "clips k"]
    classes: UInt16[np.ndarray, "clips k"]
    """Class of each score; ascending in a row."""
    clip_ids: ClipIds
    mids: tuple[str, ...]
    names: tuple[str, ...]
    fingerprint: str
    """Digest of clips, classes and scores."""


def row_blocks(
    array: np.ndarray, order: np.ndarray | None = None
) -> Iterator[tuple[slice, np.ndarray]]:
    """The rows of an array, or those that `order` lists, block by block.

    At most one block of a mapped file stays in memory.
    """
    for first in range(0, len(array if order is None else order), ROWS_AT_ONCE):
        rows = slice(first, first + ROWS_AT_ONCE)
        yield rows, array[rows if order is None else order[rows]]
        base: Any = array
        while isinstance(base, np.ndarray):
            base = base.base
        base = getattr(base, "obj", base)  # of a memoryview
        if isinstance(base, mmap.mmap):
            base.madvise(mmap.MADV_DONTNEED)  # the file has them, to be read again


def top_scores(
    scores: Float[np.ndarray, "clips classes"], k: int
) -> tuple[Float16[np.ndarray, "clips k"], UInt16[np.ndarray, "clips k"]]:
    """The k highest scores of each clip and their classes; among equal scores, the first
    classes."""
    highest = np.sort(np.argsort(-scores, axis=1, kind="stable")[:, :k], axis=1)
    with np.errstate(over="ignore"):
        kept = np.take_along_axis(scores, highest, axis=1).astype(np.float16)
    if not (np.isfinite(scores).all() and np.isfinite(kept).all()):
        raise ScoreError(
            "the model gives scores that are not finite numbers",
            where="--top-k",
            fix="use a checkpoint that has not diverged",
        )
    return kept, highest.astype(np.uint16)


class ScoreFolder:
    """A folder that several processes fill: the first begins and finishes it, all write rows."""

    def __init__(self, folder: Path, classes: ClassList, *, top_k: int | None = None) -> None:
        """Args:
        top_k: number of scores to keep of each clip, the highest. Default: all, with targets.
        """
        self.folder = folder
        self._classes, self._top_k = classes, top_k
        self._temporary = folder.with_name(f"{folder.name}.tmp")
        self._mapped: dict[str, np.memmap] = {}
        self._unlock: Callable[[], object] = int

    def begin(self, clip_ids: ClipIds) -> None:
        """Make the files, under a temporary name, with room on the disk for all scores.

        A killed process may have left them; `PslaError` if another fills them now.
        """
        if self.folder.exists():
            raise ScoreError(
                "the output exists already", where=self.folder, fix="choose another --output"
            )
        kinds = {"scores": np.float32, "targets": np.uint8}
        if self._top_k:
            kinds = {"scores": np.float16, "classes": np.uint16}
        shape = (len(clip_ids), self._top_k or len(self._classes))
        with self._disk_errors():
            self._temporary.mkdir(parents=True, exist_ok=True)
            lock = lock_folder(self._temporary)
            if lock is None:
                raise ScoreError(
                    "another process writes these scores",
                    where=self.folder,
                    fix="wait for it, or choose another --output",
                )
            self._unlock = finalize(self, os.close, lock)
            try:
                for left in self._temporary.iterdir():
                    left.unlink()
                save_column(self._temporary / "id_starts.npy", clip_ids.starts)
                save_column(self._temporary / "id_bytes.npy", clip_ids.values)
                for name, dtype in kinds.items():
                    _allocate(self._temporary / f"{name}.npy", dtype, shape)
            except BaseException:
                self._unlock()  # now: the error's traceback may keep this object
                raise

    def open(self, name: str) -> np.memmap:
        """An array of the folder, mapped for writing."""
        if name not in self._mapped:
            path = self._temporary / f"{name}.npy"
            with self._disk_errors():
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
        """Flush this process's rows to the disk."""
        with self._disk_errors():
            for array in self._mapped.values():
                array.flush()

    def finish(self, origins: Sequence[object] = ()) -> None:
        """Write the description and rename the folder, which completes it.

        Args:
            origins: the checkpoints that produced the scores.
        """
        self.flush()
        mids, names = self._classes.mids, self._classes.names
        meta: dict[str, Any] = {"format_version": FORMAT_VERSION, "mids": mids, "names": names}
        files: list[str] = []  # of top scores, which the fingerprint covers
        if self._top_k:
            digest = _fingerprint(_top_columns(self._temporary), mids, names)
            meta |= {"top_k": self._top_k, "fingerprint": digest}
        else:
            meta |= {"origins": [str(origin) for origin in origins]}
            files = sorted(path.name for path in self._temporary.glob("*.npy"))
        with self._disk_errors():
            write_sealed(meta, self._temporary / META, files=files)
            publish_folder(self._temporary, self.folder)
        self._unlock()

    def _disk_errors(self) -> AbstractContextManager[None]:
        return disk_errors(self.folder, "write the scores", then="run the command again")


def _allocate(path: Path, dtype: DTypeLike, shape: tuple[int, int]) -> None:
    """An array in a file with room on the disk. Mapped files are sparse otherwise, and a process
    that writes to one on a full disk is ended by a signal (SIGBUS)."""
    np.lib.format.open_memmap(path, "w+", dtype, shape)
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def check_top_k(top_k: int | None, output: Path) -> None:
    """Raise `ConfigError` if top scores cannot have this number or output."""
    if top_k is not None and (top_k < 1 or output.suffix == ".npz"):
        raise ConfigError(
            f"top_k={top_k} scores a clip cannot be written to {output.name}",
            where="--top-k",
            fix="set --top-k 20 and an --output without .npz, which is a folder",
        )


def read_score_folder(folder: Path) -> dict[str, np.ndarray]:
    """Arrays by name; `scores` and `targets` are mapped. ValueError or OSError if they are bad."""
    if is_top_scores(folder):
        raise ScoreError(
            "these are only the highest scores of each clip, without targets",
            where=folder,
            fix="give them to psla-wds train --distill, or to psla-wds ensemble --top-k",
        )
    meta = _read_meta(folder)
    arrays = {
        "scores": map_column(folder / "scores.npy", np.float32, ndim=2),
        "targets": map_column(folder / "targets.npy", np.uint8, ndim=2),
    }
    starts, values = _id_columns(folder).values()
    try:
        check_ragged(starts, values, len(starts) - 1, "clip ids")
    except ValueError as error:
        raise _damaged(error, folder) from None
    texts = {"mids": meta.mids, "names": meta.names, "origins": meta.origins}
    texts |= {"clip_ids": tuple(ClipIds(starts, values))}
    return arrays | {name: np.array(values, np.str_) for name, values in texts.items()}


def check_sums(folder: Path) -> None:
    """Raise `ScoreError` if files of a folder of all scores have changed."""
    try:
        check_seal(folder / META)
    except DAMAGE as error:
        raise _damaged(error, folder) from None


def _damaged(error: Exception, folder: Path) -> ScoreError:
    return ScoreError(
        f"the score folder is damaged: {error}",
        where=folder,
        fix="delete it, and write it again: psla-wds predict RUN --index SHARDS --output "
        f"{typed(folder)}",
    )


def is_top_scores(folder: Path) -> bool:
    """Whether a folder holds only the highest scores of each clip."""
    try:
        return "top_k" in json.loads(read_text(folder / META))
    except DAMAGE:
        return False


def read_top_scores(folder: Path) -> TopScores:
    """The highest scores in a folder, checked; any fault is a `ScoreError`."""
    if not (folder / META).is_file():
        raise ScoreError("there are no teacher's scores here", where=folder, fix=MAKE_TOP_SCORES)
    try:
        if not is_top_scores(folder):
            raise ValueError("it holds all scores, not the highest of each clip")
        meta = _read_meta(folder)
        columns = _top_columns(folder)
        _check_shapes(columns, meta.top_k)
        found = TopScores(
            columns["scores"],
            columns["classes"],
            ClipIds(columns["id_starts"], columns["id_bytes"]),
            meta.mids,
            meta.names,
            meta.fingerprint,
        )
        _check_values(found)
        if found.fingerprint != _fingerprint(columns, found.mids, found.names):
            raise ValueError("its bytes have changed since they were written")
    except (*DAMAGE, ConfigError) as error:
        reason = str(error).splitlines()[0]
        raise ScoreError(
            f"the teacher's scores cannot be used: {reason}", where=folder, fix=MAKE_TOP_SCORES
        ) from None
    return found


def _read_meta(folder: Path) -> _Meta:
    meta = read_json(_Meta, folder / META, besides=SEAL)
    if meta.format_version != FORMAT_VERSION:
        raise ValueError(f"it has format {meta.format_version}, not {FORMAT_VERSION}")
    return meta


def _id_columns(folder: Path) -> dict[str, np.ndarray]:
    return {
        "id_starts": map_column(folder / "id_starts.npy", np.int64),
        "id_bytes": map_column(folder / "id_bytes.npy", np.uint8),
    }


def _top_columns(folder: Path) -> dict[str, np.ndarray]:
    return {
        "scores": map_column(folder / "scores.npy", np.float16, ndim=2),
        "classes": map_column(folder / "classes.npy", np.uint16, ndim=2),
    } | _id_columns(folder)


def _fingerprint(
    columns: dict[str, np.ndarray], mids: tuple[str, ...], names: tuple[str, ...]
) -> str:
    digest = hashlib.sha256(json.dumps([mids, names]).encode())
    for name, column in columns.items():
        digest.update(f"{name} {column.shape}".encode())
        digest.update(column.reshape(-1).data)
    return digest.hexdigest()


def _check_shapes(columns: dict[str, np.ndarray], top_k: int) -> None:
    num_clips, k = columns["scores"].shape
    if columns["classes"].shape != (num_clips, k) or k != top_k or not (num_clips and k):
        raise ValueError("scores, classes and top_k do not fit together")
    check_ragged(columns["id_starts"], columns["id_bytes"], num_clips, "clip ids")


def _check_values(found: TopScores) -> None:
    if len(found.names) != len(found.mids):
        raise ValueError("the numbers of names and mids differ")
    if found.classes.max() >= len(found.mids):
        raise ValueError("a score belongs to a class that is not listed")
    if (found.classes[:, 1:] <= found.classes[:, :-1]).any():
        raise ValueError("a clip has two scores of one class")
    if not np.isfinite(found.scores).all():
        raise ValueError("scores are not finite numbers")
