"""Mistakes where each clip has one class: what a tagger takes for what, and in which clips."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64, UInt8

from psla_wds.evaluation.metrics import has_one_class


@dataclass(frozen=True, eq=False)
class Mistakes:
    """Clips by their class and the class that scores highest."""

    counts: Int64[np.ndarray, "classes classes"]
    """Clips of the row's class in which the column's class scores highest."""
    worst: Int64[np.ndarray, " clips"]
    """Rows of the clips that another class leads in, by the lead over their own class."""
    taken_for: Int64[np.ndarray, " clips"]
    """The class that leads in each of them."""

    def confusions(self, most: int) -> list[tuple[int, int, int]]:
        """Up to `most` pairs of a class and another that it is taken for, with their clips, most
        frequent first."""
        wrong = self.counts * ~np.eye(len(self.counts), dtype=bool)
        order = np.argsort(-wrong, axis=None, kind="stable")[:most]
        pairs = zip(*np.unravel_index(order, wrong.shape), wrong.ravel()[order], strict=True)
        return [(int(row), int(column), int(count)) for row, column, count in pairs if count]


def find_mistakes(
    scores: Float[np.ndarray, "clips classes"],
    targets: UInt8[np.ndarray, "clips classes"],
    *,
    most: int,
) -> Mistakes | None:
    """Mistakes by the highest score of each clip; None unless every clip has exactly one class.

    Args:
        most: clips in `worst` at most.
    """
    if not has_one_class(targets):
        return None
    labels, found = targets.argmax(axis=1), scores.argmax(axis=1)
    num_classes = targets.shape[1]
    counts = np.bincount(labels * num_classes + found, minlength=num_classes**2)
    rows = np.flatnonzero(labels != found)
    lead = scores[rows, found[rows]] - scores[rows, labels[rows]]
    worst = rows[np.argsort(-lead, kind="stable")[:most]]
    return Mistakes(counts.reshape(num_classes, num_classes), worst, found[worst])
