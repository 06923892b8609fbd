"""Audit the audio in shards: statistics, and faults of clips.

    psla-wds stats SHARDS[:split,...] [--clips 1000] [--seed 0] [--json]

From a random sample: mean and standard deviation of the log-mel values, for --features.mean and
--features.std of psla-wds train; levels; clipped clips; bandwidth, and the sample rates that the
clips were probably recorded at. From all clips: duplicates. A warning says when the
recipes' normalisation is half a standard deviation off.
"""

import json
import logging
from collections import Counter
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from tyro.conf import Positional

from psla_wds import cli
from psla_wds.audio.quality import SILENT_DBFS, Spectrum, is_clipped, level_dbfs
from psla_wds.config import SEED, Within
from psla_wds.errors import ShardError
from psla_wds.features.config import FeatureConfig
from psla_wds.loading.normalisation import LogMelMoments, is_off, random_rows, waveforms_of
from psla_wds.shards.index import ShardIndex
from psla_wds.shards.index_files import open_indexes
from sharding.packing.duplicates import find_duplicates

QUANTILES = {"min": 0, "q05": 0.05, "median": 0.5, "q95": 0.95, "max": 1}

logger = logging.getLogger("sharding.stats")


@dataclass(frozen=True)
class Args:
    shards: Positional[str]
    """Folder of the shards, or its URL; SHARDS:train,eval takes only these splits."""
    clips: Annotated[int, Within(1, 10**8)] = 1000
    """Number of clips to decode, chosen at random."""
    seed: Annotated[int, SEED] = 0
    """Seed for choosing the sample."""
    json: bool = False
    """Print one JSON object instead of text."""


def audit(index: ShardIndex, *, num_clips: int, seed: int) -> dict[str, Any]:
    """Findings about the clips."""
    if not len(index):
        raise ShardError(
            "there are no clips", where=", ".join(map(str, index.shards[:1])), fix="name others"
        )
    rows = random_rows(index, num_clips, seed)
    rate_hz, levels, bandwidths, rates = index.sample_rate_hz, [], [], Counter[int]()
    high_hz = min(FeatureConfig().high_hz, rate_hz / 2)
    features = FeatureConfig(sample_rate_hz=rate_hz, high_hz=high_hz)
    num_clipped, log_mel = 0, LogMelMoments(features)
    for waveform in waveforms_of(index, rows):
        log_mel.add(waveform)
        levels.append(level_dbfs(waveform))
        num_clipped += is_clipped(waveform)
        spectrum = Spectrum.of(waveform, rate_hz)
        bandwidths.append(spectrum.bandwidth_hz())
        rates[spectrum.likely_rate_hz()] += 1
    duplicates = dict(find_duplicates(index))
    return {
        "clips": len(index),
        "sample": len(rows),
        "sample_rate_hz": rate_hz,
        "log_mel": log_mel.summary(),
        "level_dbfs": _quantiles(levels),
        "silent": sum(level < SILENT_DBFS for level in levels),
        "clipped": num_clipped,
        "bandwidth_hz": _quantiles(bandwidths),
        "likely_rates_hz": {str(rate): rates[rate] for rate in sorted(rates)},
        "duplicates": duplicates,
    }


def _quantiles(values: list[float]) -> dict[str, float]:
    found = np.quantile(values, list(QUANTILES.values()))
    return dict(zip(QUANTILES, found.tolist(), strict=True))


def render(report: dict[str, Any], shards: str) -> str:
    log_mel, level, band = (report[k] for k in ("log_mel", "level_dbfs", "bandwidth_hz"))
    sample = report["sample"]
    rates = ", ".join(f"{int(rate):,} Hz {n:,}" for rate, n in report["likely_rates_hz"].items())
    lines = [
        f"{shards}: {report['clips']:,} clips, {sample:,} of them decoded",
        f"  log-mel     mean {log_mel['mean']:.4f}, std {log_mel['std']:.4f}",
        f"  level       median {level['median']:.1f} dBFS, 90 % of clips from {level['q05']:.1f} "
        f"to {level['q95']:.1f}",
        f"  silent      {report['silent']:,} below {SILENT_DBFS:g} dBFS",
        f"  clipped     {report['clipped']:,} ({report['clipped'] / sample:.1%})",
        f"  bandwidth   median {band['median']:,.0f} Hz, 90 % of clips from {band['q05']:,.0f} to "
        f"{band['q95']:,.0f}",
        f"  likely rate {rates}",
        f"  duplicates  {len(report['duplicates']):,} of all clips have the audio of another",
    ]
    return "\n".join(lines)


def main() -> None:
    args = cli.parse(Args, __doc__, prog="stats")
    index = open_indexes([args.shards])
    index.check_shards()
    report = audit(index, num_clips=args.clips, seed=args.seed)
    if is_off(report["log_mel"], FeatureConfig()):
        recipe, found = FeatureConfig(), report["log_mel"]
        logger.warning(
            "the recipes normalise by mean %.4f, std %.4f; of these clips they are %.4f and %.4f: "
            "set --features.mean %.4f --features.std %.4f, unless training starts from a tagger: "
            "then keep the tagger's",
            *(recipe.mean, recipe.std, found["mean"], found["std"], found["mean"], found["std"]),
        )
    print(json.dumps(report, indent=2) if args.json else render(report, args.shards))


if __name__ == "__main__":
    cli.run(main)
