"""The metrics of the field: mAP, mAUC and d', from one sort per class.

A score only ranks the clips, so both metrics of a class are counts: how many clips, and how
many positives, score at least as high as each positive.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int64, UInt8
from scipy.special import ndtri

from psla_wds.errors import ScoreError

# Large enough to read the matrix by cache lines, small enough that the copies do not count.
CLASSES_PER_BLOCK = 16


@dataclass(frozen=True)
class Metrics:
    """How well scores rank clips, per class. NaN means undefined."""

    average_precision: Float64[np.ndarray, " classes"]
    """NaN for a class without positives."""
    roc_auc: Float64[np.ndarray, " classes"]
    """NaN for a class without positives, or without negatives."""
    num_positives: Int64[np.ndarray, " classes"]
    num_clips: int

    @property
    def mAP(self) -> float:  # noqa: N802 (the field's name)
        """Mean average precision over the classes scored."""
        return mean_of_defined(self.average_precision)

    @property
    def mAUC(self) -> float:  # noqa: N802 (the field's name)
        """Mean area under the ROC curve over the classes that have one."""
        return mean_of_defined(self.roc_auc)

    @property
    def d_prime(self) -> float:
        return d_prime(self.mAUC)

    @property
    def num_classes(self) -> int:
        return len(self.num_positives)

    @property
    def num_classes_scored(self) -> int:
        """Classes with a positive; only these count in the means."""
        return int(np.count_nonzero(self.num_positives))

    @property
    def mean_prevalence(self) -> float:
        """Mean share of positives over the scored classes: about the mAP of a random ranking."""
        positives = self.num_positives[self.num_positives > 0]
        return float(positives.mean() / self.num_clips) if len(positives) else float("nan")


def evaluate(
    scores: Float[np.ndarray, "clips classes"], targets: UInt8[np.ndarray, "clips classes"]
) -> Metrics:
    """Metrics of every class, equal to scikit-learn's, for clips in any order and with ties."""
    _check_finite(scores)
    num_clips, num_classes = scores.shape
    average_precision, roc_auc = np.empty(num_classes), np.empty(num_classes)
    for first in range(0, num_classes, CLASSES_PER_BLOCK):
        block = slice(first, first + CLASSES_PER_BLOCK)
        rows = zip(scores[:, block].T.copy(), targets[:, block].T.copy(), strict=True)
        for i, (class_scores, class_targets) in enumerate(rows, start=first):
            average_precision[i], roc_auc[i] = _class_metrics(class_scores, class_targets)
    num_positives = targets.sum(axis=0, dtype=np.int64)
    return Metrics(average_precision, roc_auc, num_positives, num_clips)


def average_precision(
    scores: Float[np.ndarray, "clips classes"], targets: UInt8[np.ndarray, "clips classes"]
) -> Float64[np.ndarray, " classes"]:
    """Average precision of every class; NaN for a class without positives.

    Mean, over a class's positives, of the precision at that positive's rank. Tied scores
    share the precision at the end of their tie, so the result cannot depend on clip order.
    """
    return evaluate(scores, targets).average_precision


def roc_auc(
    scores: Float[np.ndarray, "clips classes"], targets: UInt8[np.ndarray, "clips classes"]
) -> Float64[np.ndarray, " classes"]:
    """Area under every class's ROC curve; NaN for a class without positives or negatives.

    The share of (positive, negative) pairs ranked rightly; a tied pair counts as half.
    """
    return evaluate(scores, targets).roc_auc


def d_prime(mean_auc: float) -> float:
    """d': distance of two unit normals with this AUC. Given the mean AUC, it is not a mean of
    distances."""
    return float(np.sqrt(2) * ndtri(mean_auc))


def accuracy(
    scores: Float[np.ndarray, "clips classes"], targets: UInt8[np.ndarray, "clips classes"]
) -> float | None:
    """Share of clips whose true class scores highest; None unless every clip has exactly one
    class."""
    if not has_one_class(targets):
        return None
    return float(np.mean(scores.argmax(axis=1) == targets.argmax(axis=1)))


def has_one_class(targets: UInt8[np.ndarray, "clips classes"]) -> bool:
    """Whether every clip has exactly one class."""
    return bool(np.all(targets.sum(axis=1, dtype=np.int64) == 1))


def _class_metrics(
    scores: Float[np.ndarray, " clips"], targets: UInt8[np.ndarray, " clips"]
) -> tuple[float, float]:
    """Average precision and area under the ROC curve of one class."""
    ranked, positives = np.sort(scores), np.sort(scores[targets == 1])
    num_negatives = len(ranked) - len(positives)
    if len(positives) == 0:
        return float("nan"), float("nan")
    # For every positive: the clips, and the positives among them, which score lower ...
    clips_below = np.searchsorted(ranked, positives, side="left")
    positives_below = np.searchsorted(positives, positives, side="left")
    precision = (len(positives) - positives_below) / (len(ranked) - clips_below)
    if num_negatives == 0:
        return float(precision.mean()), float("nan")
    # ... and those which score no higher; negatives in between are tied with it.
    clips_up_to = np.searchsorted(ranked, positives, side="right")
    positives_up_to = np.searchsorted(positives, positives, side="right")
    negatives_below, negatives_up_to = clips_below - positives_below, clips_up_to - positives_up_to
    right_pairs = np.sum(negatives_below + negatives_up_to) / 2
    return float(precision.mean()), float(right_pairs / (len(positives) * num_negatives))


def mean_of_defined(values: Float64[np.ndarray, " classes"]) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def _check_finite(scores: Float[np.ndarray, "clips classes"]) -> None:
    finite = np.isfinite(scores)
    if not finite.all():
        clip, class_ = np.argwhere(~finite)[0]
        raise ScoreError(
            f"{np.count_nonzero(~finite):,} of {scores.size:,} scores are not finite numbers",
            where=f"first at clip {clip}, class {class_} (both count from 0)",
            fix="the model has diverged: evaluate an earlier checkpoint, or lower the "
            "learning rate",
        )
