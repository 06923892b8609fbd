"""The score file: a model's score for each clip and class, with the targets.

An .npz of plain arrays, so that numpy opens it anywhere and nothing in it can run code; or a folder
of the same arrays, memory-mapped, for more clips than memory holds.
"""

import logging
import math
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from io import BufferedReader
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from psla_wds.errors import ConfigError, ScoreError
from psla_wds.evaluation.score_folder import check_sums, read_score_folder, row_blocks
from psla_wds.io.atomic_files import atomic_open, disk_errors
from psla_wds.io.regular import open_regular
from psla_wds.labels.class_list import ClassList
from psla_wds.printable import typed
from psla_wds.shards.index import ShardIndex

LAYOUT = {
    "scores": (np.float32, ("clips", "classes")),
    "targets": (np.uint8, ("clips", "classes")),
    "clip_ids": (np.str_, ("clips",)),
    "mids": (np.str_, ("classes",)),
    "names": (np.str_, ("classes",)),
}
ORIGINS = "origins"
"""Array that lists the checkpoints behind the scores; files from elsewhere may lack it."""

ALIKE = 1e-3
"""Difference in a class's score between clips from which they count as different."""
logger = logging.getLogger("scores")

WRITTEN_ORIGIN = re.compile(
    r"(?P<sha256>[0-9a-f]{64}) (?P<epoch>[0-9]{1,9})( (?P<first>[0-9]{1,9}))?"
)


@dataclass(frozen=True)
class Origin:
    """A checkpoint that produced scores."""

    sha256: str
    """Digest of the checkpoint file."""
    epoch: int
    """Epochs trained; for an average, its last epoch; 0 if unknown."""
    first_epoch: int = 0
    """First epoch of an average; 0 for the weights of one epoch."""

    def __str__(self) -> str:
        """Text form in a score file."""
        return f"{self.sha256} {self.epoch}" + f" {self.first_epoch}" * (self.first_epoch > 0)


@dataclass(frozen=True)
class Scores:
    """Scores and targets of a set of clips. Row i is clip i, column k is class k."""

    clip_ids: tuple[str, ...]
    """Unique."""
    scores: Float32[np.ndarray, "clips classes"]
    """Output of the head, near [0, 1]; not calibrated."""
    targets: UInt8[np.ndarray, "clips classes"]
    """1 where the clip carries the class, else 0."""
    mids: tuple[str, ...]
    """Unique."""
    names: tuple[str, ...]
    """Display names, in the order of `mids`."""
    origins: tuple[Origin, ...] = ()
    """Checkpoints that produced the scores; empty if unknown."""

    def __len__(self) -> int:
        return len(self.clip_ids)

    def save(self, path: Path) -> None:
        """Write the score file; it is whole or absent."""
        arrays = {
            name: np.asarray(getattr(self, name), dtype) for name, (dtype, _) in LAYOUT.items()
        }
        _check(arrays, path)
        arrays[ORIGINS] = np.array([str(origin) for origin in self.origins], np.str_)
        writing = disk_errors(path, "write the score file", then="run the command again")
        with writing, atomic_open(path) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    def warn_if_alike(self) -> None:
        """Log a line if the scores hardly depend on the clip, so that metrics mean little."""
        low, high = np.inf, -np.inf
        for _, block in row_blocks(self.scores):
            low, high = np.minimum(low, block.min(axis=0)), np.maximum(high, block.max(axis=0))
        if len(self) > 1 and np.max(high - low) < ALIKE:
            logger.warning(
                "all %s clips have nearly the same scores (no class differs by %g): the model has "
                "not learned, or has collapsed, and a ranking of its classes means nothing",
                f"{len(self):,}",
                ALIKE,
            )

    def rows_of(self, clip_ids: Sequence[str], *, where: object) -> Int64[np.ndarray, " clips"]:
        """Row of each of these clips; `ScoreError` unless exactly these clips are scored."""
        rows = {clip_id: row for row, clip_id in enumerate(self.clip_ids)}
        missing = [clip_id for clip_id in clip_ids if clip_id not in rows]
        if missing or len(clip_ids) != len(self):
            unknown = set(self.clip_ids).difference(clip_ids)
            raise ScoreError(
                f"the scores lack {len(missing):,} of {len(clip_ids):,} clips"
                f"{_examples(missing)}, and have {len(unknown):,} unknown "
                f"clips{_examples(unknown)}",
                where=where,
                fix="score the same clips: psla-wds predict with the same --index",
            )
        return np.fromiter((rows[clip_id] for clip_id in clip_ids), np.int64, len(clip_ids))

    def check_classes(self, mids: tuple[str, ...], *, where: object) -> None:
        """Raise `ScoreError` unless the columns are these classes in this order."""
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
        """These scores in the clip order of `like`; `ScoreError` unless classes, clips and targets
        agree."""
        self.check_classes(like.mids, where=where)
        rows = self.rows_of(like.clip_ids, where=where)
        targets = self.targets[rows]
        if not np.array_equal(targets, like.targets):
            raise ScoreError(
                f"the targets of {np.count_nonzero((targets != like.targets).any(axis=1)):,} clips "
                "differ from those of the other scores",
                where=where,
                fix="predict all of them with one --index, and the same --labels",
            )
        return replace(self, clip_ids=like.clip_ids, scores=self.scores[rows], targets=targets)

    @classmethod
    def load(cls, path: Path) -> "Scores":
        """Read and check a score file or folder; any fault is a `ScoreError`."""
        arrays = _read_arrays(path)
        _check(arrays, path)
        if path.is_dir():
            check_sums(path)
        texts = {name: tuple(arrays[name].tolist()) for name in ("clip_ids", "mids", "names")}
        ClassList(texts["mids"], texts["names"])  # checks that they can be shown
        origins = _origins(arrays.get(ORIGINS), path)
        return cls(scores=arrays["scores"], targets=arrays["targets"], origins=origins, **texts)


def targets_of(
    index: ShardIndex, rows: Int64[np.ndarray, " rows"], classes: ClassList
) -> UInt8[np.ndarray, "rows classes"]:
    """1 where a clip has a class; 0 for classes that the shards lack."""
    position = {mid: i for i, mid in enumerate(index.classes.mids)}
    shared = [(k, position[mid]) for k, mid in enumerate(classes.mids) if mid in position]
    targets = np.zeros((len(rows), len(classes)), np.uint8)
    columns, index_columns = np.array(shared, np.int64).reshape(-1, 2).T
    targets[:, columns] = index.targets(rows)[:, index_columns]
    return targets


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    if not path.exists():
        raise _unusable("it does not exist", path)
    try:
        if path.is_dir():
            return read_score_folder(path)
        with open_regular(path) as raw, np.load(_checked(raw, path), allow_pickle=False) as file:
            names = [*LAYOUT, *({ORIGINS} & set(file.files))]
            return {name: np.asarray(file[name]) for name in names}
    except ScoreError:
        raise
    except ConfigError as error:  # scores.json
        reason = str(error).splitlines()[0]
    except KeyError as error:
        reason = str(error.args[0])
    except FileNotFoundError as error:
        reason = f"it lacks {error.filename}"
    except OSError as error:
        reason = error.strerror or str(error)
    except Exception as error:  # damaged bytes make numpy's readers raise almost anything
        # Not numpy's own message: it advises unpickling, which is wrong for a stranger's file.
        objects = "Object arrays" in str(error)
        reason = "it holds Python objects" if objects else "it is not an .npz, or it is cut short"
    raise _unusable(reason, path)


def _origins(written: np.ndarray | None, path: Path) -> tuple[Origin, ...]:
    found = [WRITTEN_ORIGIN.fullmatch(str(text)) for text in (() if written is None else written)]
    if None in found:
        raise _unusable("its origins (weights and epochs) are not readable", path)
    return tuple(
        Origin(match["sha256"], int(match["epoch"]), int(match["first"] or 0))
        for match in found
        if match
    )


def _checked(file: BufferedReader, path: Path) -> BufferedReader:
    """The file, if its array headers fit the archive: numpy allocates what a header claims."""
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED:
                raise _unusable("its arrays are compressed, and could unpack to any size", path)
            with archive.open(member) as array:
                version = np.lib.format.read_magic(array)
                read_header = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
                shape, _, dtype = read_header(array)
            if math.prod(shape) * dtype.itemsize > member.file_size:
                raise ValueError(f"{member.filename} claims more than there is")
    file.seek(0)
    return file


def _check(arrays: dict[str, np.ndarray], path: Path) -> None:
    for fault in _faults(arrays):
        raise _unusable(fault, path)


def _faults(arrays: dict[str, np.ndarray]) -> Iterator[str]:
    """What is wrong with the arrays of a score file; the first fault may cause the others."""
    sizes = dict(zip(("clips", "classes"), arrays["scores"].shape, strict=False))
    for name, (dtype, axes) in LAYOUT.items():
        array, shape = arrays[name], tuple(sizes.get(axis, 0) for axis in axes)
        if array.dtype.type is not dtype or array.shape != shape:
            yield (
                f"{name} is {array.dtype.name} {array.shape}, expected {dtype.__name__} "
                f"[{', '.join(axes)}], with as many {' and '.join(axes)} as scores"
            )
    if arrays["scores"].size == 0:
        yield f"it has no scores: their shape is {arrays['scores'].shape}"
    for name in ("clip_ids", "mids", "names"):
        if not _is_text(arrays[name]):
            yield f"{name} are not text that UTF-8 can hold"
    for name in ("clip_ids", "mids"):
        text, count = Counter(arrays[name].tolist()).most_common(1)[0]
        if count > 1:
            yield f"{name} must be unique, but {text!r} occurs {count} times"
    yield from _wrong_values(arrays, "scores", lambda values: ~np.isfinite(values), "finite")
    yield from _wrong_values(arrays, "targets", lambda values: values > 1, "0 or 1")


def _is_text(texts: np.ndarray) -> bool:
    """Whether an array holds Unicode; numpy accepts any 32 bits as a character."""
    try:
        texts.astype(texts.dtype.newbyteorder("<")).tobytes().decode("utf-32-le")
    except UnicodeDecodeError:
        return False
    return True


def _wrong_values(
    arrays: dict[str, np.ndarray],
    name: str,
    is_wrong: Callable[[np.ndarray], np.ndarray],
    rule: str,
) -> Iterator[str]:
    num_wrong, places = 0, []
    for rows, block in row_blocks(arrays[name]):
        wrong = np.argwhere(is_wrong(block))
        num_wrong += len(wrong)
        places += [(rows.start + clip, class_) for clip, class_ in wrong[:1]]
    if places:
        clip, class_ = places[0]
        yield (
            f"{num_wrong:,} {name} are not {rule}, the first ({arrays[name][clip, class_]}) "
            f"for clip {arrays['clip_ids'][clip]}, class {arrays['mids'][class_]}; "
            "use a checkpoint that has not diverged"
        )


def _unusable(reason: str, path: Path) -> ScoreError:
    again = (
        f"write it again: psla-wds predict RUN --index SHARDS --output {typed(path)} --overwrite"
    )
    if path.suffix == ".pt":
        reason = "this is a checkpoint"
        again = f"score clips with it: psla-wds predict {typed(path)} --index SHARDS --output P.npz"
    if (path / "config.json").exists():
        reason = "this is the folder of a run"
        file = path / "scores.npz"
        again = f"name its scores, {file}; psla-wds predict {typed(path)} --index SHARDS --output "
        again += f"{typed(file)} writes them"
    return ScoreError(f"the score file cannot be used: {reason}", where=path, fix=again)


def _examples(clip_ids: Collection[str]) -> str:
    if not clip_ids:
        return ""
    return f" ({', '.join(sorted(clip_ids)[:3])}{', ...' if len(clip_ids) > 3 else ''})"
