"""The metrics of AudioSet's evaluation set: 20,383 clips and 527 classes.

    python -m benchmarks.bench_metrics

Against a loop over scikit-learn's functions, which ours must equal to 1e-12, and, if asked for,
torchmetrics (pip install -e '.[bench]'). All give AP and AUC of every class.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Float64, UInt8
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmarks.harness import RESULTS, compare, record, show, timed, write
from psla_wds import cli
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
    torchmetrics: bool = False
    """Measure torchmetrics, too: once, since it takes a minute and more."""
    output: Path = RESULTS / "bench_metrics.json"


def measure(args: Args) -> dict[str, Any]:
    """Compare the ways, once they are known to agree; the record for the results folder."""
    scores, targets = _corpus(args)
    ways: dict[str, Callable[[Scores, Targets], ClassMetrics]] = {
        "scikit-learn, class by class": _scikit_learn,
        "psla-wds": _ours,
    }
    expected = _scikit_learn(scores, targets)
    difference = _difference(_ours(scores, targets), expected)
    if difference > TOLERANCE:
        raise PslaError(f"the metrics are off by {difference:.1e}", fix="a bug: report it")
    bodies = {name: timed(partial(_run, way, scores, targets)) for name, way in ways.items()}
    content = record(
        "AP and AUC of every class",
        compare(bodies, repeats=args.repeats),
        clips=args.clips,
        classes=args.classes,
        repeats=args.repeats,
        page_cache="no",
    )
    content["largest_difference"] = difference
    for result in content["results"]:
        result["seconds"] = args.clips / result["clips_per_s"]
    if args.torchmetrics:
        started = time.perf_counter()
        found = _torchmetrics(scores, targets)
        content["torchmetrics_once"] = {
            "seconds": time.perf_counter() - started,
            "largest_difference": _difference(found, expected),
        }
    return content


def _difference(found: ClassMetrics, expected: ClassMetrics) -> float:
    return float(np.abs(found - expected).max())


def _corpus(args: Args) -> tuple[Scores, Targets]:
    """Classes as rare as in AudioSet, at least with one clip, and scores that half know them."""
    rng = np.random.default_rng(0)
    shares = 0.3 / np.arange(1, args.classes + 1)
    targets = (rng.random((args.clips, args.classes)) < shares).astype(np.uint8)
    targets[0] = 1
    noise = rng.standard_normal((args.clips, args.classes), np.float32)
    return 1 / (1 + np.exp(4 - 2 * targets - noise)), targets


def _run(way: Callable[[Scores, Targets], object], scores: Scores, targets: Targets) -> int:
    way(scores, targets)
    return len(scores)


def _ours(scores: Scores, targets: Targets) -> ClassMetrics:
    metrics = evaluate(scores, targets)
    return np.stack([metrics.average_precision, metrics.roc_auc])


def _scikit_learn(scores: Scores, targets: Targets) -> ClassMetrics:
    pairs = list(zip(targets.T, scores.T, strict=True))
    return np.array(
        [[metric(*pair) for pair in pairs] for metric in (average_precision_score, roc_auc_score)]
    )


def _torchmetrics(scores: Scores, targets: Targets) -> ClassMetrics:
    from torchmetrics.functional.classification import (
        multilabel_auroc,
        multilabel_average_precision,
    )

    tensors = torch.from_numpy(scores), torch.from_numpy(targets).long()
    metrics = (multilabel_average_precision, multilabel_auroc)
    by_class = [metric(*tensors, scores.shape[1], average="none") for metric in metrics]
    return torch.stack(by_class).double().numpy()


def main() -> None:
    args = cli.parse(Args, __doc__, prog="python -m benchmarks.bench_metrics")
    content = measure(args)
    show(content)
    for result in content["results"]:
        print(f"{result['name']}: {result['seconds']:.2f} s")
    print(f"psla-wds differs from scikit-learn by at most {content['largest_difference']:.1e}")
    if once := content.get("torchmetrics_once"):
        print(f"torchmetrics: {once['seconds']:.2f} s, differs by {once['largest_difference']:.1e}")
    write(content, args.output)


if __name__ == "__main__":
    cli.run(main)
