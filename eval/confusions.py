"""Which classes a model takes for one another: from the scores and the labels alone."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from psla_wds.evaluation.scores import Scores

CLIPS_AT_ONCE = 4096
FEWEST_POSITIVES = 5
"""That a class needs to be listed: of one clip, one mistake says nothing."""


@dataclass(frozen=True)
class Confusion:
    """Clips of another class among those that score highest for a class."""

    name: str
    """Of the class that is scored."""
    heard_in: str
    """The class that these clips carry, and not `name`."""
    clips: int
    """How many of the highest scores they have."""
    by_chance: float
    """How many they would have if wrong clips were taken at random."""
    top: int
    """Highest scores that were looked at: as many as the class has positives."""


@dataclass(frozen=True)
class Companions:
    """Two classes whose scores rise and fall together over the clips."""

    names: tuple[str, str]
    of_scores: float
    """Correlation of the scores."""
    of_labels: float
    """Correlation of the labels: what the data say. NaN where a class is in no clip, or in all."""


def confusions(scores: Scores, limit: int) -> list[Confusion]:
    """The pairs with the largest share of wrong clips over what chance would give, a class once.

    Classes with few positives are left out.

    Of P clips that carry class A, a perfect model scores these P highest: other clips there are
    mistakes, or labels that annotators missed.
    """
    targets = scores.targets
    positives = targets.sum(axis=0, dtype=np.int64)
    wrong = highest(scores.scores, positives) & (targets == 0)
    clips = _product(targets, wrong)  # [B, A]: clips of B among A's wrong ones
    both = _product(targets, targets)
    without = np.maximum(len(targets) - positives, 1)
    chance = (positives[:, None] - both) / without * wrong.sum(axis=0)
    excess = (clips - chance) / np.maximum(positives, 1)
    heard_in = excess.argmax(axis=0)
    columns = np.arange(len(positives))
    order = np.argsort(-excess[heard_in, columns], kind="stable")
    order = order[positives[order] >= FEWEST_POSITIVES]
    return [
        Confusion(
            scores.names[a],
            scores.names[heard_in[a]],
            int(clips[heard_in[a], a]),
            float(chance[heard_in[a], a]),
            int(positives[a]),
        )
        for a in order[:limit].tolist()
        if clips[heard_in[a], a] > chance[heard_in[a], a]
    ]


def companions(scores: Scores, limit: int) -> list[Companions]:
    """The pairs of classes whose scores correlate most."""
    found, labels = _correlations(scores.scores), _correlations(scores.targets)
    first, second = np.triu_indices(len(found), k=1)
    values = found[first, second]
    order = np.argsort(-np.nan_to_num(values, nan=-2.0), kind="stable")[:limit]
    return [
        Companions(
            (scores.names[first[i]], scores.names[second[i]]),
            float(values[i]),
            float(labels[first[i], second[i]]),
        )
        for i in order.tolist()
        if np.isfinite(values[i])
    ]


def highest(
    scores: Float32[np.ndarray, "clips classes"], counts: np.ndarray
) -> Bool[np.ndarray, "clips classes"]:
    """Where the so many highest scores of each class are; of equal scores the first clips'."""
    chosen = np.zeros(scores.shape, bool)
    for k, count in enumerate(counts.tolist()):
        chosen[np.argsort(-scores[:, k], kind="stable")[:count], k] = True
    return chosen


def _product(
    left: UInt8[np.ndarray, "clips classes"], right: np.ndarray
) -> Float[np.ndarray, "classes classes"]:
    """Clips that are in both, for each pair of columns; exact up to 16 million clips a block."""
    total = np.zeros((left.shape[1], right.shape[1]))
    for start in range(0, len(left), CLIPS_AT_ONCE):
        rows = slice(start, start + CLIPS_AT_ONCE)
        total += left[rows].T.astype(np.float32) @ right[rows].astype(np.float32)
    return total


def _correlations(values: np.ndarray) -> Float[np.ndarray, "classes classes"]:
    """Pearson's, of every pair of columns; NaN where a column is constant."""
    mean = values.mean(axis=0, dtype=np.float64)
    total = np.zeros((values.shape[1], values.shape[1]))
    for start in range(0, len(values), CLIPS_AT_ONCE):
        centred = values[start : start + CLIPS_AT_ONCE] - mean
        total += centred.T @ centred
    scale = np.sqrt(np.diag(total))
    with np.errstate(invalid="ignore"):  # sums of float32 are exact here: a constant is 0 / 0
        return total / np.outer(scale, scale)
