"""A teacher's scores on disk: the k highest of each clip, by clip id. Format: docs/format.md."""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float16, UInt16

from psla_wds.errors import DAMAGE, ScoreError
from psla_wds.io.columns import check_ragged, map_column
from psla_wds.shards.clip_ids import NOT_THERE, ClipIds
from psla_wds.shards.index import ShardIndex, combined_fingerprint
from psla_wds.shards.soft_labels import SoftLabels

TOP_VERSION = 1
META = "scores.json"
MAKE_THEM = "make them: python -m eval.predict TEACHER --index SHARDS --top-k 20 --output FOLDER"


@dataclass(frozen=True)
class TopScores:
    """The highest scores of some clips, memory-mapped; row i is clip i of `clip_ids`."""

    scores: Float16[np.ndarray, "clips k"]
    classes: UInt16[np.ndarray, "clips k"]
    """Of the scores; ascending in a row."""
    clip_ids: ClipIds
    mids: tuple[str, ...]
    names: tuple[str, ...]
    fingerprint: str
    """Stands for clips, classes and scores."""


def top_scores(
    scores: Float[np.ndarray, "clips classes"], k: int
) -> tuple[Float16[np.ndarray, "clips k"], UInt16[np.ndarray, "clips k"]]:
    """The k highest scores of each clip and their classes; of equal scores the first classes'."""
    highest = np.sort(np.argsort(-scores, axis=1, kind="stable")[:, :k], axis=1)
    with np.errstate(over="ignore"):
        kept = np.take_along_axis(scores, highest, axis=1).astype(np.float16)
    if not (np.isfinite(scores).all() and np.isfinite(kept).all()):
        raise ScoreError(
            "the model gives scores that are not finite numbers",
            where="--top-k",
            fix="take a checkpoint that has not diverged",
        )
    return kept, highest.astype(np.uint16)


def write_meta(folder: Path, mids: tuple[str, ...], names: tuple[str, ...]) -> None:
    """Write what the columns in a folder are of, once they all stand there."""
    columns = _columns(folder)
    meta = {
        "format_version": TOP_VERSION,
        "top_k": columns["scores"].shape[1],
        "mids": mids,
        "names": names,
        "fingerprint": _fingerprint(columns, mids, names),
    }
    text = json.dumps(meta, ensure_ascii=False, indent=1)
    (folder / META).write_text(text + "\n", encoding="utf-8")


def is_top_scores(folder: Path) -> bool:
    """Whether a folder says that it holds top scores, and not all."""
    try:
        return "top_k" in json.loads((folder / META).read_text(encoding="utf-8"))
    except DAMAGE:
        return False


def read_top_scores(folder: Path) -> TopScores:
    """The scores in a folder, checked; whatever is wrong with it is a `ScoreError`."""
    if not (folder / META).is_file():
        raise ScoreError("there are no teacher's scores here", where=folder, fix=MAKE_THEM)
    try:
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
        if "top_k" not in meta:
            raise ValueError("it holds all scores, not the highest of each clip")
        if meta["format_version"] != TOP_VERSION:
            raise ValueError(f"format {meta['format_version']}, where {TOP_VERSION} is read")
        columns = _columns(folder)
        _check_shapes(columns, int(meta["top_k"]))
        found = TopScores(
            columns["scores"],
            columns["classes"],
            ClipIds(columns["id_starts"], columns["id_bytes"]),
            tuple(map(str, meta["mids"])),
            tuple(map(str, meta["names"])),
            str(meta["fingerprint"]),
        )
        _check_values(found)
        if found.fingerprint != _fingerprint(columns, found.mids, found.names):
            raise ValueError("its bytes are not those that were written")
    except DAMAGE as error:
        raise ScoreError(
            f"the teacher's scores cannot be used: {error}", where=folder, fix=MAKE_THEM
        ) from None
    return found


def apply_teacher(index: ShardIndex, folder: Path) -> ShardIndex:
    """The index with a teacher's scores as soft labels, found by clip id.

    A clip that the teacher has not scored is an error; it may have scored others as well. The
    fingerprint says whose scores they are: a run does not resume with another teacher's.
    """
    top = read_top_scores(folder)
    if top.mids != index.classes.mids:
        raise ScoreError(
            f"the teacher's classes are not those of the shards ({len(top.mids)} and "
            f"{len(index.classes)}, or in another order)",
            where=folder,
            fix="take a teacher that was trained on the class list of these shards",
        )
    rows = top.clip_ids.rows_of(index.clip_ids)
    missing = np.flatnonzero(rows == NOT_THERE)
    if len(missing):
        examples = ", ".join(index.clip_id(row) for row in missing[:3])
        raise ScoreError(
            f"the teacher has not scored {len(missing):,} of {len(index):,} clips: {examples}",
            where=folder,
            fix="score all clips: python -m eval.predict with the --index options of the training",
        )
    return replace(
        index,
        soft_labels=SoftLabels(top.scores, top.classes, rows, len(index.classes)),
        fingerprint=combined_fingerprint([index.fingerprint, f"teacher {top.fingerprint}"]),
    )


def _columns(folder: Path) -> dict[str, np.ndarray]:
    return {
        "scores": map_column(folder / "scores.npy", np.float16, ndim=2),
        "classes": map_column(folder / "classes.npy", np.uint16, ndim=2),
        "id_starts": map_column(folder / "id_starts.npy", np.int64),
        "id_bytes": map_column(folder / "id_bytes.npy", np.uint8),
    }


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
        raise ValueError("there are not as many names as mids")
    if found.classes.max() >= len(found.mids):
        raise ValueError("a score is of a class that is not listed")
    if (found.classes[:, 1:] <= found.classes[:, :-1]).any():
        raise ValueError("a clip has two scores of one class")
    if not np.isfinite(found.scores).all():
        raise ValueError("scores are not finite numbers")
