"""Audit the audio in shards: statistics, and faults of clips.

    psla-wds stats SHARDS[:split,...] [--clips 1000] [--seed 0] [--json]

From a random sample: mean and standard deviation of the log-mel values, for --features.mean and
--features.std of psla-wds train; levels; clipped clips; bandwidth, and the sample rates that the
clips were probably recorded at. From all clips: duplicates. A warning says when the
recipes' normalisation is half a standard deviation off.
"""

import json
import logging
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from jaxtyping import Float32
from tyro.conf import Positional

from psla_wds import cli
from psla_wds.audio.files import reason_of
from psla_wds.audio.pcm import decode_pcm
from psla_wds.audio.quality import SILENT_DBFS, Spectrum, is_clipped, level_dbfs
from psla_wds.config import SEED, Within
from psla_wds.errors import ShardError
from psla_wds.features.config import FeatureConfig
from psla_wds.printable import typed
from psla_wds.progress import progress_bar
from psla_wds.reading.reader import Reader
from psla_wds.shards.index import ShardIndex
from psla_wds.shards.index_files import open_indexes
from sharding.packing.duplicates import find_duplicates

CLIPS_AT_ONCE = 32
OFF = 0.5
"""Standard deviations by which the normalisation may be off without a warning."""
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
    chosen = min(num_clips, len(index))
    rows = np.sort(np.random.default_rng(seed).choice(len(index), chosen, replace=False))
    rate_hz, levels, bandwidths, rates = index.sample_rate_hz, [], [], Counter[int]()
    num_clipped, log_mel = 0, _LogMelMoments(rate_hz)
    for waveform in _waveforms(index, rows):
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


class _LogMelMoments:
    """Mean and standard deviation of the log-mel values that a model sees, without padding."""

    def __init__(self, sample_rate_hz: int) -> None:
        from psla_wds.features.log_mel import LogMel  # here, since torch takes seconds to import

        recipe = FeatureConfig()
        high_hz = min(recipe.high_hz, sample_rate_hz / 2)
        config = FeatureConfig(sample_rate_hz=sample_rate_hz, high_hz=high_hz)
        self._front_end, self._max_samples = LogMel(config), config.max_clip_samples
        self._count, self._sum, self._squares = 0, 0.0, 0.0

    def add(self, waveform: Float32[np.ndarray, " samples"]) -> None:
        import torch

        log_mel = self._front_end(torch.from_numpy(waveform[: self._max_samples])).double()
        self._count += log_mel.numel()
        self._sum += log_mel.sum().item()
        self._squares += log_mel.square().sum().item()

    def summary(self) -> dict[str, float]:
        mean = self._sum / max(self._count, 1)
        variance = self._squares / max(self._count, 1) - mean**2
        return {"mean": mean, "std": max(variance, 0.0) ** 0.5}


def _waveforms(index: ShardIndex, rows: np.ndarray) -> Iterator[np.ndarray]:
    reader = Reader(index, threads=len(os.sched_getaffinity(0)))
    try:
        with progress_bar(desc="decoding a sample", total=len(rows)) as bar:
            for start in range(0, len(rows), CLIPS_AT_ONCE):
                some = rows[start : start + CLIPS_AT_ONCE]
                for row, clip in zip(some, reader.start(some).wait(), strict=True):
                    yield _decoded(index, row, clip.tobytes())
                    bar.update()
    finally:
        reader.close()


def _decoded(index: ShardIndex, row: np.integer, audio: bytes) -> Float32[np.ndarray, " samples"]:
    try:
        pcm, _ = decode_pcm(audio)
    except RuntimeError as error:
        raise ShardError(
            f"the clip cannot be decoded: {reason_of(error)}",
            where=index.where(row),
            fix=f"find all such clips: psla-wds check {typed(index.shards[0].parent)} --deep",
        ) from None
    return pcm.astype(np.float32) / 32768


def _quantiles(values: list[float]) -> dict[str, float]:
    found = np.quantile(values, list(QUANTILES.values()))
    return dict(zip(QUANTILES, found.tolist(), strict=True))


def is_off(log_mel: dict[str, float]) -> bool:
    """Whether the recipes' normalisation is half a standard deviation or more off that of the
    clips."""
    recipe = FeatureConfig()
    differences = (log_mel["mean"] - recipe.mean, log_mel["std"] - recipe.std)
    return max(map(abs, differences)) > OFF * recipe.std


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
    if is_off(report["log_mel"]):
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
