"""How often the 95 % intervals of the metrics cover the truth, for kinds of bootstrap intervals.

    python -m benchmarks.interval_coverage

Evaluation sets are drawn from a model of scores: a clip's score of a class is normal, higher by the
class's own distance if the clip carries it, and clips differ in how high they score in all. The
truth is the mean over many such sets of one size: what other clips would give, as many of them. A
second model shares most of the first one's errors, and is a little better. All kinds of intervals
are made of the same resamples.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, UInt8
from scipy.stats import norm

from benchmarks.harness import RESULTS, machine, write
from psla_wds import cli
from psla_wds.errors import ConfigError
from psla_wds.evaluation.bootstrap import (
    Resampled,
    difference_ends,
    resampled_weights,
    share_ends,
    weighted_metrics,
)
from psla_wds.evaluation.metrics import Metrics, evaluate
from psla_wds.progress import progress_bar

Values = Float64[np.ndarray, " rows"]
Resamples = Float64[np.ndarray, "rows resamples"]
Ends = Float64[np.ndarray, "2 rows"]
Scores = Float64[np.ndarray, "clips classes"]
Targets = UInt8[np.ndarray, "clips classes"]
QUANTILES = [0.025, 0.975]


@dataclass(frozen=True)
class Args:
    sets: int = 300
    """Evaluation sets of each design whose intervals are looked at."""
    resamples: int = 200
    truth_sets: int = 2000
    """Sets whose mean is the truth."""
    output: Path = RESULTS / "interval_coverage.json"

    def __post_init__(self) -> None:
        if min(self.sets, self.resamples, self.truth_sets) < 2:
            raise ConfigError(
                "there is no share and no deviation of one",
                where="--sets, --resamples, --truth-sets",
                fix="set them to 2 or more",
            )


@dataclass(frozen=True)
class Design:
    """What evaluation sets are like."""

    name: str
    clips: int
    classes: int
    positives: tuple[int, int]
    """Of the rarest and of the most frequent class, in the mean of all sets."""

    @property
    def has_single_labels(self) -> bool:
        return self.positives[0] == self.positives[1] == self.clips / self.classes


DESIGNS = (
    Design("ESC-50's: 8 positives a class, one class a clip", 400, 50, (8, 8)),
    Design("long tail: 2 to 200 positives a class", 1000, 40, (2, 200)),
    Design("AudioSet's: 60 positives and more", 4000, 40, (60, 600)),
)


def draw(design: Design, rng: np.random.Generator) -> tuple[Targets, list[Scores]]:
    """An evaluation set: its targets, and the scores of two models."""
    shape = (design.clips, design.classes)
    shares = np.geomspace(*design.positives, design.classes) / design.clips
    carried = rng.random(shape) < shares
    if design.has_single_labels:
        carried = rng.permutation(design.clips)[:, None] % design.classes == np.arange(shape[1])
    order = np.random.default_rng(0).permutation(design.classes)  # not by how rare a class is
    distances = np.linspace(0.8, 3.2, design.classes)[order]
    common = rng.standard_normal(shape) + 0.4 * rng.standard_normal((design.clips, 1))
    scores = [
        common + 0.5 * rng.standard_normal(shape) + (distances + better) * carried
        for better in (0.0, 0.1)
    ]
    return carried.astype(np.uint8), scores


def percentile(_: Values, resampled: Resamples) -> Ends:
    """The resamples' own middle."""
    return np.array([_quantiles(row, QUANTILES) for row in resampled]).T


def basic(values: Values, resampled: Resamples) -> Ends:
    """The same, mirrored at the value."""
    return 2 * values - percentile(values, resampled)[::-1]


def bias_corrected(values: Values, resampled: Resamples) -> Ends:
    """Efron's BC: quantiles moved by how many resamples are below the value."""
    ends = []
    for value, row in zip(values, resampled, strict=True):
        num = len(row) + 1
        shift = norm.ppf(np.clip((row < value).mean(), 1 / num, 1 - 1 / num))
        ends.append(_quantiles(row, norm.cdf(2 * shift + norm.ppf(QUANTILES))))
    return np.array(ends).T


KINDS: dict[str, Callable[[Values, Resamples], Ends]] = {
    "percentile": percentile,
    "basic": basic,
    "bias-corrected": bias_corrected,
    "deviation": difference_ends,
    "deviation, logit": share_ends,
}


def _quantiles(row: Values, shares: Iterable[float]) -> Values:
    defined = row[~np.isnan(row)]
    return np.quantile(defined, list(shares)) if len(defined) else np.full(2, np.nan)


def measures(metrics: list[Metrics]) -> dict[str, Values]:
    """What has intervals, of two models."""
    first, other = ({"mAP": [m.mAP], "mAUC": [m.mAUC], "class AP": m.average_precision}
                    for m in metrics)  # fmt: skip
    return _with_changes(first, other)


def resampled_measures(found: list[Resampled]) -> dict[str, Resamples]:
    """The same in each resample."""
    first, other = ({name: means[None] for name, means in r.means().items() if name != "d_prime"}
                    | {"class AP": r.average_precision} for r in found)  # fmt: skip
    return _with_changes(first, other)


def _with_changes(first: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    changes = {f"change of {n}": np.asarray(other[n]) - np.asarray(first[n]) for n in first}
    return {name: np.asarray(value) for name, value in first.items()} | changes


def coverage(design: Design, args: Args) -> list[dict[str, Any]]:
    """The share of sets whose interval covers the truth: of each measure and kind."""
    sets = [measures(_metrics(design, seed)) for seed in range(args.truth_sets)]
    truth = {name: np.nanmean([values[name] for values in sets], axis=0) for name in sets[0]}
    covered: dict[tuple[str, str], list[Values]] = defaultdict(list)
    for seed in progress_bar(range(args.sets), desc=design.name, unit="set"):
        targets, models = draw(design, np.random.default_rng(seed))
        weights = resampled_weights(design.clips, args.resamples, seed=seed)
        again = resampled_measures([_resampled(scores, targets, weights) for scores in models])
        values = measures([evaluate(scores, targets) for scores in models])
        for name, kind in ((n, k) for n in truth for k in KINDS):
            if name.startswith("change") and kind == "deviation, logit":
                continue
            ends = KINDS[kind](values[name], again[name])
            covered[name, kind].append(covers(ends, truth[name]))
    return [
        {"design": design.name, "measure": name, "kind": kind, "coverage": float(np.nanmean(found))}
        for (name, kind), found in covered.items()
    ]


def covers(ends: Ends, truth: Values) -> Values:
    """1 where an interval holds the truth, 0 where it does not, NaN where there is none."""
    low, high = ends
    return np.where(np.isnan(low), np.nan, (low <= truth) & (truth <= high))


def _resampled(scores: Scores, targets: Targets, weights: Any) -> Resampled:
    """Without the bar of `resampled_metrics`: there are hundreds of sets."""
    columns = zip(scores.T, targets.T, strict=True)
    return Resampled(
        *np.array([weighted_metrics(*pair, weights) for pair in columns]).swapaxes(0, 1)
    )


def _metrics(design: Design, seed: int) -> list[Metrics]:
    targets, models = draw(design, np.random.default_rng(seed))
    return [evaluate(scores, targets) for scores in models]


def measure(args: Args) -> dict[str, Any]:
    """The record for the results folder."""
    return {
        "title": "Share of evaluation sets whose 95 % interval covers the truth",
        "conditions": {"sets": args.sets, "resamples": args.resamples,
                       "truth_sets": args.truth_sets},
        "designs": [asdict(design) for design in DESIGNS],
        "machine": machine(),
        "results": [result for design in DESIGNS for result in coverage(design, args)],
    }  # fmt: skip


def main() -> None:
    args = cli.parse(Args, __doc__, prog="python -m benchmarks.interval_coverage")
    content = measure(args)
    for r in content["results"]:
        print(f"{r['design'][:48]:<50}{r['measure']:<20}{r['kind']:<18}{r['coverage']:>7.1%}")
    write(content, args.output)


if __name__ == "__main__":
    cli.run(main)
