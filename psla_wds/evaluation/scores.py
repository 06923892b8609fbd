"""The score file: what a model gave every clip and class, and what was right.

An .npz of plain arrays, so that numpy opens it anywhere and nothing in it can run code; or a folder
of the same arrays, memory-mapped, for more clips than memory holds.
"""

import math
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from psla_wds.errors import ScoreError
from psla_wds.evaluation.score_folder import read_score_folder, row_blocks
from psla_wds.io.atomic_files import atomic_open, disk_errors
from psla_wds.labels.class_list import ClassList
from psla_wds.shards.index import ShardIndex

LAYOUT = {
    "scores": (np.float32, ("clips", "classes")),
    "targets": (np.uint8, ("clips", "classes")),
    "clip_ids": (np.str_, ("clips",)),
    "mids": (np.str_, ("classes",)),
    "names": (np.str_, ("classes",)),
}
ORIGINS = "origins"
"""Array of the weights that gave the scores; files from elsewhere may lack it."""

WRITTEN_ORIGIN = re.compile(r"(?P<sha256>[0-9a-f]{64}) (?P<epoch>[0-9]{1,9})")
MOST_DEFLATED = 1032
"""Greatest factor by which zip can shrink bytes."""


@dataclass(frozen=True)
class Origin:
    """A checkpoint that gave scores."""

    sha256: str
    """Digest of its file."""
    epoch: int
    """Epochs trained; for an average, the last that went in; 0 where the file does not say."""

    def __str__(self) -> str:
        """The form in a score file."""
        return f"{self.sha256} {self.epoch}"


@dataclass(frozen=True)
class Scores:
    """Scores and targets of a set of clips. Row i is clip i, column k is class k."""

    clip_ids: tuple[str, ...]
    """Unique: a clip is scored once."""
    scores: Float32[np.ndarray, "clips classes"]
    """What the head gives, near [0, 1]; not calibrated."""
    targets: UInt8[np.ndarray, "clips classes"]
    """1 where the clip carries the class, else 0."""
    mids: tuple[str, ...]
    """Unique."""
    names: tuple[str, ...]
    """Display names, in the order of `mids`."""
    origins: tuple[Origin, ...] = ()
    """The checkpoints that gave the scores; empty where they are unknown."""

    def __len__(self) -> int:
        return len(self.clip_ids)

    def save(self, path: Path) -> None:
        """Write the score file, whole or not at all."""
        arrays = {
            name: np.asarray(getattr(self, name), dtype) for name, (dtype, _) in LAYOUT.items()
        }
        _check(arrays, path)
        arrays[ORIGINS] = np.array([str(origin) for origin in self.origins], np.str_)
        writing = disk_errors(path, "write the score file", then="run the command again")
        with writing, atomic_open(path) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    def rows_of(self, clip_ids: Sequence[str], *, where: object) -> Int64[np.ndarray, " clips"]:
        """The row of each of these clips; `ScoreError` unless they are the clips scored, once."""
        rows = {clip_id: row for row, clip_id in enumerate(self.clip_ids)}
        missing = [clip_id for clip_id in clip_ids if clip_id not in rows]
        if missing or len(clip_ids) != len(self):
            unknown = set(self.clip_ids).difference(clip_ids)
            raise ScoreError(
                f"the scores miss {len(missing):,} of {len(clip_ids):,} clips"
                f"{_examples(missing)}, and have {len(unknown):,} that are not among them"
                f"{_examples(unknown)}",
                where=where,
                fix="score the same clips: python -m eval.predict with the same --index",
            )
        return np.fromiter((rows[clip_id] for clip_id in clip_ids), np.int64, len(clip_ids))

    def check_classes(self, mids: tuple[str, ...], *, where: object) -> None:
        """Raise unless the columns are these classes, in their order."""
        if self.mids != mids:
            unlike = sorted(set(self.mids) ^ set(mids))
            other = (
                f"other classes ({len(self.mids)} where {len(mids)} are expected): "
                f"{len(unlike)} are on one side only, such as {', '.join(unlike[:3])}"
            )
            raise ScoreError(
                f"the scores have {other if unlike else 'the same classes in another order'}",
                where=where,
                fix="use models and shards of one class list",
            )

    def aligned(self, like: "Scores", *, where: object) -> "Scores":
        """These scores with the clips in the order of `like`; `ScoreError` unless classes, clips
        and targets agree."""
        self.check_classes(like.mids, where=where)
        rows = self.rows_of(like.clip_ids, where=where)
        targets = self.targets[rows]
        if not np.array_equal(targets, like.targets):
            raise ScoreError(
                f"the targets of {np.count_nonzero((targets != like.targets).any(axis=1)):,} clips "
                "are not those of the other scores",
                where=where,
                fix="predict all of them with one --index, and the same --labels",
            )
        return replace(self, clip_ids=like.clip_ids, scores=self.scores[rows], targets=targets)

    @classmethod
    def load(cls, path: Path) -> "Scores":
        """Read a score file or folder and check it; any fault is a `ScoreError`."""
        arrays = _read_arrays(path)
        _check(arrays, path)
        texts = {name: tuple(arrays[name].tolist()) for name in ("clip_ids", "mids", "names")}
        origins = _origins(arrays.get(ORIGINS), path)
        return cls(scores=arrays["scores"], targets=arrays["targets"], origins=origins, **texts)


def targets_of(
    index: ShardIndex, rows: Int64[np.ndarray, " rows"], classes: ClassList
) -> UInt8[np.ndarray, "rows classes"]:
    """1 where a clip carries a class; 0 for classes that the shards do not have."""
    position = {mid: i for i, mid in enumerate(index.classes.mids)}
    shared = [(k, position[mid]) for k, mid in enumerate(classes.mids) if mid in position]
    targets = np.zeros((len(rows), len(classes)), np.uint8)
    columns, index_columns = np.array(shared, np.int64).reshape(-1, 2).T
    targets[:, columns] = index.targets(rows)[:, index_columns]
    return targets


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    if not path.exists():
        raise ScoreError("there is no score file here", where=path, fix=_predict_again(path))
    try:
        if path.is_dir():
            return read_score_folder(path)
        _check_sizes(path)
        with np.load(path, allow_pickle=False) as file:
            names = [*LAYOUT, *({ORIGINS} & set(file.files))]
            return {name: np.asarray(file[name]) for name in names}
    except ScoreError:
        raise
    except KeyError as error:
        reason = str(error.args[0])
    except FileNotFoundError as error:
        reason = f"it lacks {error.filename}"
    except OSError as error:
        reason = error.strerror or str(error)
    except Exception as error:  # whatever the bytes of a damaged file lead numpy's readers to
        # Not numpy's own words: they advise to unpickle, which is no advice for a strange file.
        objects = "Object arrays" in str(error)
        reason = "it holds Python objects" if objects else "it is not an .npz, or cut short"
    raise ScoreError(
        f"the score file cannot be used: {reason}", where=path, fix=_predict_again(path)
    )


def _origins(written: np.ndarray | None, path: Path) -> tuple[Origin, ...]:
    found = [WRITTEN_ORIGIN.fullmatch(str(text)) for text in (() if written is None else written)]
    if None in found:
        raise ScoreError(
            "the score file cannot be used: what it says of its weights cannot be read",
            where=path,
            fix=_predict_again(path),
        )
    return tuple(Origin(match["sha256"], int(match["epoch"])) for match in found if match)


def _check_sizes(path: Path) -> None:
    """Compare what headers claim with the archive, since numpy takes memory by the header."""
    largest = MOST_DEFLATED * path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                read_header = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
                shape, _, dtype = read_header(file)
            if math.prod(shape) * dtype.itemsize > member.file_size or member.file_size > largest:
                raise ValueError(f"{member.filename} claims more than there is")


def _check(arrays: dict[str, np.ndarray], path: Path) -> None:
    _check_layout(arrays, path)
    if arrays["scores"].size == 0:
        raise ScoreError(
            f"there are no scores: they have the shape {arrays['scores'].shape}",
            where=path,
            fix=_predict_again(path),
        )
    texts = {name: _texts(arrays, name, path) for name in ("clip_ids", "mids", "names")}
    for name in ("clip_ids", "mids"):
        text, count = Counter(texts[name]).most_common(1)[0]
        if count > 1:
            raise ScoreError(
                f"{name} must differ, but {text!r} is there {count} times",
                where=path,
                fix=_predict_again(path),
            )
    _check_values(arrays, "scores", lambda values: ~np.isfinite(values), "a finite number", path)
    _check_values(arrays, "targets", lambda values: values > 1, "0 or 1", path)


def _texts(arrays: dict[str, np.ndarray], name: str, path: Path) -> list[str]:
    """The texts of an array; numpy accepts any 32 bits as a character."""
    texts = arrays[name]
    try:
        texts.astype(texts.dtype.newbyteorder("<")).tobytes().decode("utf-32-le")
    except UnicodeDecodeError:
        raise ScoreError(
            f"{name} are not text that UTF-8 can hold", where=path, fix=_predict_again(path)
        ) from None
    return texts.tolist()


def _check_values(
    arrays: dict[str, np.ndarray],
    name: str,
    is_wrong: Callable[[np.ndarray], np.ndarray],
    rule: str,
    path: Path,
) -> None:
    num_wrong, places = 0, []
    for rows, block in row_blocks(arrays[name]):
        wrong = np.argwhere(is_wrong(block))
        num_wrong += len(wrong)
        places += [(rows.start + clip, class_) for clip, class_ in wrong[:1]]
    if places:
        clip, class_ = places[0]
        raise ScoreError(
            f"{num_wrong:,} {name} are not {rule}, the first ({arrays[name][clip, class_]}) "
            f"for clip {arrays['clip_ids'][clip]}, class {arrays['mids'][class_]}",
            where=path,
            fix=_predict_again(path) + " (with a checkpoint that has not diverged)",
        )


def _check_layout(arrays: dict[str, np.ndarray], path: Path) -> None:
    sizes = dict(zip(("clips", "classes"), arrays["scores"].shape, strict=False))
    for name, (dtype, axes) in LAYOUT.items():
        array, shape = arrays[name], tuple(sizes.get(axis, 0) for axis in axes)
        if array.dtype.type is not dtype or array.shape != shape:
            raise ScoreError(
                f"{name} is {array.dtype.name} {array.shape}, expected {dtype.__name__} "
                f"[{', '.join(axes)}], with as many {' and '.join(axes)} as scores",
                where=path,
                fix=_predict_again(path),
            )


def _predict_again(path: Path) -> str:
    return f"write it again: python -m eval.predict RUN --index SHARDS --output {path}"


def _examples(clip_ids: Collection[str]) -> str:
    return f" ({', '.join(sorted(clip_ids)[:3])}{', ...' if len(clip_ids) > 3 else ''})" * bool(
        clip_ids
    )
