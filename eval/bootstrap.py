"""Confidence intervals of the metrics by the bootstrap over clips (Efron 1979, percentiles).

A resample is a weight for every clip: how often it was drawn. The clips stay sorted, so that a
resample costs sums and no sort.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int64, UInt8

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


def bootstrap(
    scores: Float[np.ndarray, "clips classes"],
    targets: UInt8[np.ndarray, "clips classes"],
    *,
    resamples: int,
    seed: int = 0,
) -> Intervals:
    """Intervals over so many resamples of the clips, drawn with replacement."""
    num_clips, num_classes = scores.shape
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(num_clips, np.full(num_clips, 1 / num_clips), resamples)
    precision, auc = np.empty((2, num_classes, resamples))
    for k in progress_bar(range(num_classes), desc="bootstrap", unit="class"):
        precision[k], auc[k] = weighted_metrics(scores[:, k], targets[:, k], weights)
    maps, aucs = ([mean_of_defined(values) for values in m.T] for m in (precision, auc))
    return Intervals(
        _bounds(maps),
        _bounds(aucs),
        _bounds([d_prime(value) for value in aucs]),
        np.array([_ends(values) for values in precision]).T,
    )


def weighted_metrics(
    scores: Float[np.ndarray, " clips"],
    targets: UInt8[np.ndarray, " clips"],
    weights: Int64[np.ndarray, "resamples clips"],
) -> tuple[Float64[np.ndarray, " resamples"], Float64[np.ndarray, " resamples"]]:
    """Average precision and ROC area of one class, each clip counted as often as its weight.

    NaN where no positive, or for the area no negative, has a weight.
    """
    order = np.argsort(-scores, kind="stable")
    scores, positive, weights = scores[order], targets[order] == 1, weights[:, order]
    ends = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)  # of each run of ties
    clips = np.cumsum(weights, axis=1)[:, ends]
    positives = np.cumsum(weights * positive, axis=1)[:, ends]
    found = np.diff(positives, axis=1, prepend=0)  # positives in each run
    negatives = clips - positives
    tied = np.diff(negatives, axis=1, prepend=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = positives / np.maximum(clips, 1)
        average_precision = (found * precision).sum(axis=1) / positives[:, -1]
        right_pairs = (found * (negatives[:, -1:] - negatives + tied / 2)).sum(axis=1)
        auc = right_pairs / (positives[:, -1] * negatives[:, -1])
    return average_precision, auc


def _bounds(values: list[float]) -> Bounds:
    low, high = _ends(np.array(values))
    return Bounds(float(low), float(high))


def _ends(values: Float64[np.ndarray, " resamples"]) -> Float64[np.ndarray, " 2"]:
    defined = values[~np.isnan(values)]
    if not len(defined):
        return np.full(2, np.nan)
    ends = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    return np.quantile(defined, ends, method="inverted_cdf")  # d' may be infinite: no means of two
