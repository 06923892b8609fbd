"""Time AP and AUC of every class at the size of AudioSet's evaluation set.

The other way is a loop over scikit-learn's functions, which ours must equal to 1e-12.

    python -m benchmarks.bench_metrics
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, UInt8
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmarks.harness import RATES, RESULTS, Column, compare, record, table, timed
from benchmarks.tables import run_benchmark
from psla_wds.errors import PslaError
from psla_wds.evaluation.metrics import evaluate

TOLERANCE = 1e-12
Scores = Float32[np.ndarray, "clips classes"]
Targets = UInt8[np.ndarray, "clips classes"]
ClassMetrics = Float64[np.ndarray, "2 classes"]
"""AP, then AUC."""


@dataclass(frozen=True)
class Args:
    clips: int = 20_383
    classes: int = 527
    repeats: int = 5
    output: Path = RESULTS / "bench_metrics.json"


def measure(args: Args) -> dict[str, Any]:
    """Compare the ways, once they are known to agree; the record for the results folder."""
    scores, targets = _corpus(args)
    ways = {"scikit-learn, class by class": _scikit_learn, "psla-wds": _ours}
    expected, found = (way(scores, targets) for way in ways.values())
    difference = float(np.abs(found - expected).max())
    if not difference <= TOLERANCE:
        raise PslaError(f"the metrics are off by {difference:.1e}", fix="a bug: report it")
    bodies = {
        name: timed(lambda way=way: len(scores) if way(scores, targets) is not None else 0)
        for name, way in ways.items()
    }
    rows = compare(bodies, repeats=args.repeats)
    notes = [f"They differ by {difference:.0e} at most."]
    title = f"AP and AUC of {args.classes} classes, {args.clips:,} clips"
    return record(title, [table([Column("", "name"), *RATES], rows)], args, notes=notes)


def _corpus(args: Args) -> tuple[Scores, Targets]:
    """Classes as rare as in AudioSet, each in at least one clip; scores that partly know them."""
    rng = np.random.default_rng(0)
    shares = 0.3 / np.arange(1, args.classes + 1)
    targets = (rng.random((args.clips, args.classes)) < shares).astype(np.uint8)
    targets[0] = 1
    noise = rng.standard_normal((args.clips, args.classes), np.float32)
    return 1 / (1 + np.exp(4 - 2 * targets - noise)), targets


def _ours(scores: Scores, targets: Targets) -> ClassMetrics:
    metrics = evaluate(scores, targets)
    return np.stack([metrics.average_precision, metrics.roc_auc])


def _scikit_learn(scores: Scores, targets: Targets) -> ClassMetrics:
    pairs = list(zip(targets.T, scores.T, strict=True))
    return np.array(
        [[metric(*pair) for pair in pairs] for metric in (average_precision_score, roc_auc_score)]
    )


if __name__ == "__main__":
    run_benchmark("benchmarks.bench_metrics", __doc__, Args, measure)
