"""What a class's average precision goes along with: its number of clips, its annotations' quality
(PSLA table VII), or another model's average precision."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from scipy.stats import pearsonr, spearmanr

from psla_wds.errors import ScoreError

QUALITY_COLUMNS = ("label_id", "num_rated", "num_true")


@dataclass(frozen=True)
class Correlation:
    """NaN if fewer than two classes have both values, or one of the values is constant."""

    pearson: float
    """As in the paper."""
    spearman: float
    """Of ranks: a few classes with most of the clips do not decide it."""
    classes: int
    """That have both values."""


def correlate(
    first: Float64[np.ndarray, " classes"], second: Float64[np.ndarray, " classes"]
) -> Correlation:
    """The correlation over the classes for which both are defined."""
    both = ~np.isnan(first) & ~np.isnan(second)
    x, y = first[both], second[both]
    if len(x) < 2 or not np.ptp(x) or not np.ptp(y):
        return Correlation(float("nan"), float("nan"), len(x))
    return Correlation(float(pearsonr(x, y).statistic), float(spearmanr(x, y).statistic), len(x))


def read_quality(path: Path, mids: Sequence[str]) -> Float64[np.ndarray, " classes"]:
    """Share of the rated clips of each class that raters found right; NaN for classes not listed.

    The file is AudioSet's qa_true_counts.csv: `label_id,num_rated,num_true`.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [[row[name] for name in QUALITY_COLUMNS] for row in csv.DictReader(file)]
        rated = {mid: int(true) / int(rated) for mid, rated, true in rows if int(rated)}
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise ScoreError(
            f"the ratings cannot be read: {error!r}",
            where=path,
            fix=f"--quality names a CSV with the columns {','.join(QUALITY_COLUMNS)}",
        ) from None
    return np.array([rated.get(mid, np.nan) for mid in mids])
