"""Confidence intervals of the metrics by the bootstrap over clips (Efron 1979, percentiles).

A resample is a weight for every clip: how often it was drawn. The clips stay sorted, and only the
places of a class's positives among them count, so that a resample costs one sum over the clips.
Models that scored the same clips get the same resamples: their differences are paired.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64, UInt8
from scipy.sparse import csr_array

from eval.metrics import d_prime, mean_of_defined
from psla_wds.progress import progress_bar

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Bounds:
    """The middle 95 % of what resamples gave."""

    low: float
    high: float


@dataclass(frozen=True)
class Intervals:
    """Of the means over classes, and of each class; NaN where most of a class is not defined."""

    mAP: Bounds  # noqa: N815 (the field's name)
    mAUC: Bounds  # noqa: N815 (the field's name)
    d_prime: Bounds
    average_precision: Float64[np.ndarray, "2 classes"]
    """Low and high of each class."""


def lies_outside(value: float, interval: Bounds) -> bool:
    """Whether a value is not in its own interval.

    It happens where classes have few positives: one that is drawn twice ranks above more clips, so
    resamples have a higher average precision than the clips themselves.
    """
    return value < interval.low or value > interval.high


@dataclass(frozen=True)
class Resampled:
    """The metrics of each class in each resample; NaN where they are not defined."""

    average_precision: Float64[np.ndarray, "classes resamples"]
    roc_auc: Float64[np.ndarray, "classes resamples"]

    def means(self) -> dict[str, Float64[np.ndarray, " resamples"]]:
        """mAP, mAUC and d' of each resample."""
        maps, aucs = (
            np.array([mean_of_defined(values) for values in metric.T])
            for metric in (self.average_precision, self.roc_auc)
        )
        return {"mAP": maps, "mAUC": aucs, "d_prime": np.array([d_prime(auc) for auc in aucs])}

    def intervals(self) -> Intervals:
        means = {name: bounds(values) for name, values in self.means().items()}
        return Intervals(**means, average_precision=class_bounds(self.average_precision))


def bootstrap(
    scores: Float[np.ndarray, "clips classes"],
    targets: UInt8[np.ndarray, "clips classes"],
    *,
    resamples: int,
    seed: int = 0,
) -> Intervals:
    """Intervals over so many resamples of the clips, drawn with replacement."""
    weights = resampled_weights(len(scores), resamples, seed=seed)
    return resampled_metrics(scores, targets, weights).intervals()


def resampled_weights(
    num_clips: int, resamples: int, *, seed: int = 0
) -> Float32[np.ndarray, "clips resamples"]:
    """How often each clip is in each resample."""
    rng, shares = np.random.default_rng(seed), np.full(num_clips, 1 / num_clips)
    weights = np.empty((num_clips, resamples), np.float32)
    for resample in range(resamples):
        weights[:, resample] = rng.multinomial(num_clips, shares)
    return weights


def resampled_metrics(
    scores: Float[np.ndarray, "clips classes"],
    targets: UInt8[np.ndarray, "clips classes"],
    weights: Float32[np.ndarray, "clips resamples"],
    *,
    what: str = "bootstrap",
) -> Resampled:
    """The metrics of every class in every resample; `what` names the progress bar."""
    found = np.empty((2, scores.shape[1], weights.shape[1]))
    for k in progress_bar(range(scores.shape[1]), desc=what, unit="class"):
        found[:, k] = weighted_metrics(scores[:, k], targets[:, k], weights)
    return Resampled(*found)


def weighted_metrics(
    scores: Float[np.ndarray, " clips"],
    targets: UInt8[np.ndarray, " clips"],
    weights: Float32[np.ndarray, "clips resamples"],
) -> tuple[Float64[np.ndarray, " resamples"], Float64[np.ndarray, " resamples"]]:
    """Average precision and ROC area of one class, each clip counted as often as its weight.

    NaN where no positive, or for the area no negative, has a weight.
    """
    order = np.argsort(-scores, kind="stable")
    ranked, positive = -scores[order], targets[order] == 1
    if not positive.any():
        nothing = np.full(weights.shape[1], np.nan)
        return nothing, nothing
    levels = np.unique(ranked[positive])  # where positives are, the best first
    places = [np.searchsorted(ranked, levels, side) for side in ("left", "right")]
    sums = _sums_before(np.stack(places, axis=1).ravel(), order, weights)
    above, up_to = sums[::2], sums[1::2]
    edges = np.searchsorted(ranked[positive], levels, "right")
    positives = _sums_before(edges, order[positive], weights)
    found = np.diff(positives, axis=0, prepend=0)  # positives of each level
    negatives_above = above - (positives - found)
    tied = up_to - above - found
    total, negatives = positives[-1], weights.sum(axis=0, dtype=np.float64) - positives[-1]
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = positives / np.maximum(up_to, 1)
        average_precision = (found * precision).sum(axis=0) / total
        right_pairs = (found * (negatives - negatives_above - tied / 2)).sum(axis=0)
        return average_precision, right_pairs / (total * negatives)


def _sums_before(
    places: Int64[np.ndarray, " places"],
    order: Int64[np.ndarray, " ranked"],
    weights: Float32[np.ndarray, "clips resamples"],
) -> Float64[np.ndarray, "places resamples"]:
    """The weight of the clips that are ranked before each of the ascending places."""
    starts = np.concatenate([[0], places])  # row i: the clips from one place to the next
    shape = (len(places), len(weights))
    between = csr_array((np.ones(places[-1], np.float32), order[: places[-1]], starts), shape)
    return np.cumsum(between @ weights, axis=0, dtype=np.float64)


def bounds(values: Float64[np.ndarray, " resamples"]) -> Bounds:
    low, high = _ends(values)
    return Bounds(float(low), float(high))


def class_bounds(
    values: Float64[np.ndarray, "classes resamples"],
) -> Float64[np.ndarray, "2 classes"]:
    """Low and high of each class."""
    return np.array([_ends(row) for row in values]).T


def _ends(values: Float64[np.ndarray, " resamples"]) -> Float64[np.ndarray, " 2"]:
    defined = values[~np.isnan(values)]
    if not len(defined):
        return np.full(2, np.nan)
    ends = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    return np.quantile(defined, ends, method="inverted_cdf")  # d' may be infinite: no means of two
