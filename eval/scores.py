"""The score file: what a model gave every clip and class, and what was right.

An .npz of plain arrays, so that numpy opens it anywhere and nothing in it can run code.
"""

import math
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

from psla_wds.errors import ScoreError
from psla_wds.files import atomic_open

LAYOUT = {
    "scores": (np.float32, ("clips", "classes")),
    "targets": (np.uint8, ("clips", "classes")),
    "clip_ids": (np.str_, ("clips",)),
    "mids": (np.str_, ("classes",)),
    "names": (np.str_, ("classes",)),
}

MOST_DEFLATED = 1032
"""Times that zip's compression can shrink bytes, at most."""


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

    def __len__(self) -> int:
        return len(self.clip_ids)

    def save(self, path: Path) -> None:
        """Write the score file, whole or not at all."""
        arrays = {
            name: np.asarray(getattr(self, name), dtype) for name, (dtype, _) in LAYOUT.items()
        }
        _check(arrays, path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_open(path) as file:
                np.savez(file, **arrays)
        except OSError as error:
            raise ScoreError(
                f"the score file cannot be written: {error.strerror}",
                where=path,
                fix="choose another --output, or make room there",
            ) from None

    @classmethod
    def load(cls, path: Path) -> "Scores":
        """Read a score file, checked: whatever is wrong with it is a `ScoreError`."""
        arrays = _read_arrays(path)
        _check(arrays, path)
        texts = {name: tuple(arrays[name].tolist()) for name in ("clip_ids", "mids", "names")}
        return cls(scores=arrays["scores"], targets=arrays["targets"], **texts)


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise ScoreError("there is no score file here", where=path, fix=_predict_again(path))
    try:
        _check_sizes(path)
        with np.load(path, allow_pickle=False) as file:
            return {name: np.asarray(file[name]) for name in LAYOUT}
    except KeyError as error:
        reason = str(error.args[0])
    except OSError as error:
        reason = error.strerror or str(error)
    except Exception as error:  # whatever the bytes of a damaged file lead numpy's readers to
        # Not numpy's own words: they advise to unpickle, which is no advice for a strange file.
        objects = "Object arrays" in str(error)
        reason = "it holds Python objects" if objects else "it is no .npz, or cut short"
    raise ScoreError(
        f"the score file cannot be used: {reason}", where=path, fix=_predict_again(path)
    )


def _check_sizes(path: Path) -> None:
    """No array is larger than its member of the archive, nor that than a file of this size holds:
    memory is taken for what a header says, before a byte is read."""
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
    scores, targets = arrays["scores"], arrays["targets"]
    if scores.size == 0:
        raise ScoreError(
            f"there are no scores: {scores.shape=}", where=path, fix=_predict_again(path)
        )
    for name in ("clip_ids", "mids"):
        text, count = Counter(arrays[name].tolist()).most_common(1)[0]
        if count > 1:
            raise ScoreError(
                f"{name} must differ, and {text!r} stands there {count} times",
                where=path,
                fix=_predict_again(path),
            )
    for name, wrong, rule in (
        ("scores", ~np.isfinite(scores), "a finite number"),
        ("targets", targets > 1, "0 or 1"),
    ):
        if wrong.any():
            clip, class_ = np.argwhere(wrong)[0]
            raise ScoreError(
                f"{np.count_nonzero(wrong):,} {name} are not {rule}, the first "
                f"({arrays[name][clip, class_]}) for clip {arrays['clip_ids'][clip]}, "
                f"class {arrays['mids'][class_]}",
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
