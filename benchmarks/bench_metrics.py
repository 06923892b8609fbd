"""Time AP and AUC of every class at the size of AudioSet's evaluation set.

The other way is a loop over scikit-learn's functions, which ours must equal to 1e-12. Then the
command eval.score, with its page, on the same scores, from the start of its process.

    python -m benchmarks.bench_metrics
"""

import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, UInt8
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmarks.harness import (
    RATES,
    RESULTS,
    Classes,
    Clips,
    Column,
    Repeats,
    compare,
    record,
    run_module,
    table,
    timed,
)
from benchmarks.tables import run_benchmark
from psla_wds.errors import PslaError
from psla_wds.evaluation.metrics import evaluate
from psla_wds.evaluation.scores import Scores as ScoreFile

TOLERANCE = 1e-12
Scores = Float32[np.ndarray, "clips classes"]
Targets = UInt8[np.ndarray, "clips classes"]
ClassMetrics = Float64[np.ndarray, "2 classes"]
"""AP, then AUC."""


@dataclass(frozen=True)
class Args:
    clips: Clips = 20_383
    classes: Classes = 527
    repeats: Repeats = 5
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
    tables = [table([Column("", "name"), *RATES], rows)]
    with tempfile.TemporaryDirectory() as folder:
        ways = {
            "eval.score, with its page": timed(
                partial(_command, *_saved(scores, targets, Path(folder)))
            )
        }
        (command,) = compare(ways, repeats=args.repeats)
    command["seconds"] = args.clips / command["clips_per_s"]
    columns = [Column("", "name"), Column("s", "seconds", "{:.1f}", "spread"), RATES[-1]]
    tables.append(table(columns, [command]))
    notes = [f"They differ by {difference:.0e} at most."]
    title = f"AP and AUC of {args.classes} classes, {args.clips:,} clips"
    return record(title, tables, args, notes=notes)


def _saved(scores: Scores, targets: Targets, folder: Path) -> tuple[Path, int]:
    """A score file, and its number of clips."""
    mids = tuple(f"/m/{number}" for number in range(scores.shape[1]))
    clip_ids = tuple(f"clip-{number}" for number in range(len(scores)))
    path = folder / "scores.npz"
    ScoreFile(clip_ids, scores, targets, mids, mids).save(path)
    return path, len(scores)


def _command(scores: Path, num_clips: int) -> int:
    run_module("eval.score", scores, "--output", scores.with_name("report"), "--overwrite")
    return num_clips


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
