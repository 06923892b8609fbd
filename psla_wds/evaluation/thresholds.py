"""Thresholds per class, fitted on scored clips, and their precision, recall and F1 on any clips.

A class is present in a clip if its score is at least its threshold. A threshold belongs to the
model, the classes and the kind of clips that it was fitted on; it does not make a score a
probability.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int64, UInt8

from psla_wds.errors import DAMAGE, ScoreError
from psla_wds.evaluation.bootstrap import resampled_weights, share_ends
from psla_wds.evaluation.metrics import CLASSES_PER_BLOCK, mean_of_defined
from psla_wds.evaluation.score_folder import row_blocks
from psla_wds.io.regular import read_text
from psla_wds.printable import typed
from psla_wds.progress import progress_bar

MIN_POSITIVES = 25
"""Positives from which a class has a threshold of its own: the standard error of its recall is then
at most 0.1 (half of one by the root of their number)."""


@dataclass(frozen=True, eq=False)
class Thresholds:
    """A threshold for each class; infinite for a class that is never present."""

    mids: tuple[str, ...]
    values: Float32[np.ndarray, " classes"]

    def of(self, mids: Sequence[str], *, where: object) -> Float32[np.ndarray, " classes"]:
        """Thresholds in the order of these classes; `ScoreError` unless they are the same ones."""
        unlike = sorted(set(self.mids) ^ set(mids))
        if unlike:
            raise ScoreError(
                f"the thresholds are for other classes ({len(self.mids)} where {len(mids)} are "
                f"expected): {len(unlike)} are on one side only, such as {', '.join(unlike[:3])}",
                where=where,
                fix="fit them on scores of this model: "
                "psla-wds thresholds SCORES.npz --output T.json",
            )
        position = {mid: k for k, mid in enumerate(self.mids)}
        return self.values[[position[mid] for mid in mids]]


@dataclass(frozen=True)
class Fit:
    """Thresholds as fitted."""

    thresholds: Thresholds
    pooled: float
    """Threshold that all classes together have."""
    takes_pooled: Bool[np.ndarray, " classes"]
    """Classes with too few positives, whose threshold is the pooled one."""


@dataclass(frozen=True)
class Quality:
    """Precision, recall and F1; NaN where undefined."""

    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Decisions:
    """Numbers of clips by class, at thresholds."""

    hits: Int64[np.ndarray, " classes"]
    """Clips that carry the class and reach its threshold."""
    reached: Int64[np.ndarray, " classes"]
    """Clips that reach its threshold."""
    positives: Int64[np.ndarray, " classes"]
    """Clips that carry the class."""

    @property
    def precision(self) -> Float64[np.ndarray, " classes"]:
        """NaN for a class that no clip reaches."""
        return _ratio(self.hits, self.reached)

    @property
    def recall(self) -> Float64[np.ndarray, " classes"]:
        """NaN for a class without positives."""
        return _ratio(self.hits, self.positives)

    @property
    def f1(self) -> Float64[np.ndarray, " classes"]:
        """NaN for a class without positives that no clip reaches either."""
        return _ratio(2 * self.hits, self.reached + self.positives)

    @property
    def micro(self) -> Quality:
        """All decisions counted alike, those on classes without positives too."""
        hits, reached, positives = (
            np.array([n.sum()]) for n in (self.hits, self.reached, self.positives)
        )
        total = Decisions(hits, reached, positives)
        return Quality(float(total.precision[0]), float(total.recall[0]), float(total.f1[0]))

    @property
    def macro(self) -> Quality:
        """Means over the classes with positives; the precision of one that no clip reaches is 0."""
        scored = self.positives > 0
        columns = (np.nan_to_num(self.precision), self.recall, self.f1)
        return Quality(*(mean_of_defined(column[scored]) for column in columns))


def fit_thresholds(
    scores: Float32[np.ndarray, "clips classes"],
    targets: UInt8[np.ndarray, "clips classes"],
    mids: tuple[str, ...],
    *,
    precision: float | None = None,
    min_positives: int = MIN_POSITIVES,
) -> Fit:
    """A threshold for each class.

    Args:
        precision: fit the lowest thresholds with at least this precision; default: those with the
            highest F1.
        min_positives: classes with fewer take the threshold of all classes together.

    Raises `ScoreError` if no clip has a positive class.
    """
    positives = targets.sum(axis=0, dtype=np.int64)
    if not positives.any():
        raise ScoreError(
            "no clip has a positive class, so there is nothing to fit",
            where="targets",
            fix="give scores of labelled clips: psla-wds predict with labelled shards",
        )
    values = np.empty(len(mids), np.float32)
    blocks = range(0, len(mids), CLASSES_PER_BLOCK)
    for first in progress_bar(blocks, desc="thresholds", unit="block"):
        block = slice(first, first + CLASSES_PER_BLOCK)
        rows = zip(scores[:, block].T.copy(), targets[:, block].T.copy(), strict=True)
        values[block] = [best_threshold(*row, precision=precision) for row in rows]
    pooled = best_threshold(np.ravel(scores), np.ravel(targets), precision=precision)
    takes_pooled = positives < min_positives
    values[takes_pooled] = pooled
    return Fit(Thresholds(mids, values), pooled, takes_pooled)


def best_threshold(
    scores: Float32[np.ndarray, " clips"],
    targets: UInt8[np.ndarray, " clips"],
    *,
    precision: float | None = None,
) -> float:
    """The highest threshold of the highest F1; or the lowest one with at least this precision.

    Infinite if there are no positives, or if no threshold has this precision.
    """
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # of each tie
    hits = np.cumsum(targets[order], dtype=np.int64)[last]
    reached = last + 1
    if hits[-1] == 0:
        return math.inf
    if precision is None:
        return float(ranked[last[np.argmax(2 * hits / (reached + hits[-1]))]])
    enough = np.flatnonzero(hits / reached >= precision)
    return float(ranked[last[enough[-1]]]) if len(enough) else math.inf


def decide(
    scores: Float32[np.ndarray, "clips classes"],
    targets: UInt8[np.ndarray, "clips classes"],
    thresholds: Float32[np.ndarray, " classes"],
) -> Decisions:
    """Numbers of clips that reach the thresholds."""
    counts = np.zeros((3, scores.shape[1]), np.int64)
    for rows, block in row_blocks(scores):
        reached, positive = block >= thresholds, targets[rows] == 1
        counts += [part.sum(axis=0) for part in (reached & positive, reached, positive)]
    return Decisions(*counts)


def f1_intervals(
    scores: Float32[np.ndarray, "clips classes"],
    targets: UInt8[np.ndarray, "clips classes"],
    thresholds: Float32[np.ndarray, " classes"],
    *,
    resamples: int,
    seed: int = 0,
) -> Float64[np.ndarray, "2 classes"]:
    """Ends of the 95 % interval of the F1 at these thresholds, over resamples of the clips.

    Thresholds are not fitted again, so intervals say how much F1 depends on the clips that are
    scored, and not that thresholds suit the clips that they were fitted on.
    """
    weights = resampled_weights(len(scores), resamples, seed=seed)
    sums = np.zeros((2, scores.shape[1], resamples))
    for rows, block in row_blocks(scores):
        reached, positive = block >= thresholds, targets[rows] == 1
        for total, part in zip(sums, (reached & positive, reached * 1 + positive), strict=True):
            total += part.T.astype(np.float32) @ weights[rows]
    f1 = decide(scores, targets, thresholds).f1
    return share_ends(f1, _ratio(2 * sums[0], sums[1]))


def read_thresholds(path: Path) -> Thresholds:
    """The thresholds in a file by psla-wds thresholds; any fault is a `ScoreError`."""
    try:
        rows = json.loads(read_text(path))["per_class"]
        mids = tuple(row["mid"] for row in rows)
        "".join(mids).encode()  # TypeError or ValueError: they are no text
        values = [math.inf if row["threshold"] is None else row["threshold"] for row in rows]
        if len(set(mids)) < len(mids) or not mids:
            raise ValueError("its mids are not unique")
        if not all(type(value) in (int, float) and not math.isnan(value) for value in values):
            raise ValueError("a threshold is neither a number nor null")
        return Thresholds(mids, np.array(values, np.float32))
    except DAMAGE as error:
        raise ScoreError(
            f"the thresholds cannot be read: {error}",
            where=path,
            fix=f"write them again: psla-wds thresholds SCORES --output {typed(path)} --overwrite",
        ) from None


def _ratio(
    part: Float[np.ndarray, "*shape"] | Int64[np.ndarray, "*shape"],
    whole: Float[np.ndarray, "*shape"] | Int64[np.ndarray, "*shape"],
) -> Float64[np.ndarray, "*shape"]:
    """NaN where the whole is 0."""
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole != 0)
