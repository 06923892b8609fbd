"""Confidence intervals of the metrics by the bootstrap over clips (Efron 1979).

A resample is a weight per clip: how often the clip was drawn. Clips stay sorted, and only the
places of a class's positives matter, so a resample costs one sum over the clips. Models that scored
the same clips get the same resamples: their differences are paired.

Only the standard deviation of the resamples is used, not their position: a positive drawn twice
ranks above more clips, which biases average precision upwards. Intervals of shares (0 to 1) are on
the logit scale (Boyd, Eng and Page 2013), those of differences on their own. docs/design.md states
how often each kind covers the truth.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64, UInt8
from scipy.sparse import csr_array
from scipy.special import expit, logit

from psla_wds.evaluation.metrics import Metrics, d_prime, evaluate, mean_of_defined
from psla_wds.progress import progress_bar

DEVIATIONS = 1.959964
"""Half-width of the middle 95 % of a standard normal distribution."""


@dataclass(frozen=True)
class Bounds:
    """A 95 % interval; NaN if undefined."""

    low: float
    high: float


@dataclass(frozen=True)
class Intervals:
    """Intervals of the means over classes and of each class; NaN where too few values are
    defined."""

    mAP: Bounds  # noqa: N815 (the field's name)
    mAUC: Bounds  # noqa: N815 (the field's name)
    d_prime: Bounds
    average_precision: Float64[np.ndarray, "2 classes"]
    """Lower and upper bound per class."""


@dataclass(frozen=True)
class Resampled:
    """Metrics of each class in each resample; NaN where undefined."""

    average_precision: Float64[np.ndarray, "classes resamples"]
    roc_auc: Float64[np.ndarray, "classes resamples"]

    def means(self) -> dict[str, Float64[np.ndarray, " resamples"]]:
        """mAP, mAUC and d' of each resample."""
        maps, aucs = (
            np.array([mean_of_defined(values) for values in metric.T])
            for metric in (self.average_precision, self.roc_auc)
        )
        return {"mAP": maps, "mAUC": aucs, "d_prime": np.array([d_prime(auc) for auc in aucs])}

    def intervals(self, metrics: Metrics) -> Intervals:
        """Intervals around the metrics of the clips themselves."""
        means = self.means()
        auc = share_bounds(metrics.mAUC, means["mAUC"])
        return Intervals(
            mAP=share_bounds(metrics.mAP, means["mAP"]),
            mAUC=auc,
            d_prime=Bounds(d_prime(auc.low), d_prime(auc.high)),
            average_precision=share_ends(metrics.average_precision, self.average_precision),
        )


def bootstrap(
    scores: Float[np.ndarray, "clips classes"],
    targets: UInt8[np.ndarray, "clips classes"],
    *,
    resamples: int,
    seed: int = 0,
) -> Intervals:
    """Intervals over `resamples` resamples of the clips, drawn with replacement."""
    weights = resampled_weights(len(scores), resamples, seed=seed)
    return resampled_metrics(scores, targets, weights).intervals(evaluate(scores, targets))


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
    """Metrics of every class in every resample; `what` labels the progress bar."""
    found = np.empty((2, scores.shape[1], weights.shape[1]))
    for k in progress_bar(range(scores.shape[1]), desc=what, unit="class"):
        found[:, k] = weighted_metrics(scores[:, k], targets[:, k], weights)
    return Resampled(*found)


def weighted_metrics(
    scores: Float[np.ndarray, " clips"],
    targets: UInt8[np.ndarray, " clips"],
    weights: Float32[np.ndarray, "clips resamples"],
) -> tuple[Float64[np.ndarray, " resamples"], Float64[np.ndarray, " resamples"]]:
    """Average precision and ROC area of one class, with a weight for each clip.

    NaN if no positive has a weight; the area also if no negative has one.
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
    """Total weight of the clips ranked before each of the ascending places."""
    starts = np.concatenate([[0], places])  # row i: the clips from one place to the next
    shape = (len(places), len(weights))
    between = csr_array((np.ones(places[-1], np.float32), order[: places[-1]], starts), shape)
    return np.cumsum(between @ weights, axis=0, dtype=np.float64)


def share_bounds(value: float, resampled: Float64[np.ndarray, " resamples"]) -> Bounds:
    """Interval of a number from 0 to 1, on the logit scale."""
    low, high = share_ends(np.array([value]), resampled[None])[:, 0].tolist()
    return Bounds(low, high)


def difference_bounds(value: float, resampled: Float64[np.ndarray, " resamples"]) -> Bounds:
    low, high = difference_ends(np.array([value]), resampled[None])[:, 0].tolist()
    return Bounds(low, high)


def share_ends(
    values: Float64[np.ndarray, " rows"], resampled: Float64[np.ndarray, "rows resamples"]
) -> Float64[np.ndarray, "2 rows"]:
    """Bounds of numbers from 0 to 1; for 0 and 1 themselves all resamples agree."""
    with np.errstate(invalid="ignore", divide="ignore"):
        reach = DEVIATIONS * _deviations(resampled) / (values * (1 - values))  # by logit's slope
    ends = expit(logit(values) + np.multiply.outer([-1, 1], reach))
    return np.where((values == 0) | (values == 1), values, ends)


def difference_ends(
    values: Float64[np.ndarray, " rows"], resampled: Float64[np.ndarray, "rows resamples"]
) -> Float64[np.ndarray, "2 rows"]:
    """Bounds of differences."""
    return values + np.multiply.outer([-1, 1], DEVIATIONS * _deviations(resampled))


def _deviations(
    resampled: Float64[np.ndarray, "rows resamples"],
) -> Float64[np.ndarray, " rows"]:
    """Standard deviation over the defined resamples; NaN if some are infinite."""
    defined = [row[~np.isnan(row)] for row in resampled]
    with np.errstate(invalid="ignore"):
        return np.array([np.std(row, ddof=1) if len(row) > 1 else np.nan for row in defined])
