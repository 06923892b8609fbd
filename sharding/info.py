"""Summarise a folder of shards: clips, classes, durations, sizes.

python -m sharding.info SHARDS [--json]
"""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from tyro.conf import Positional

from psla_wds import cli
from psla_wds.cli import LocationArg
from psla_wds.features.windows import mismatch_by_default
from psla_wds.io.locations import Location
from psla_wds.printable import printable
from psla_wds.shards.index import ShardIndex
from psla_wds.shards.index_files import read_index

BAR_WIDTH = 40
NUM_BINS = 10


@dataclass(frozen=True)
class Args:
    shards: Positional[LocationArg]
    """Folder of the shards, or its URL."""
    json: bool = False
    """Print one JSON object instead of text."""


def summarise(index: ShardIndex) -> dict[str, Any]:
    """Numbers that describe a set of shards."""
    duration_s = index.num_samples / index.sample_rate_hz
    labels_per_clip = np.diff(index.label_starts)
    counts = index.class_counts()
    quantiles = np.quantile(duration_s, [0, 0.25, 0.5, 0.75, 1]) if len(index) else np.zeros(5)
    return {
        "clips": len(index),
        "shards": len(index.shards),
        "bytes": sum(index.shard_sizes),
        "audio_bytes": int(index.size.sum()),
        "sample_rate_hz": index.sample_rate_hz,
        "hours": float(duration_s.sum() / 3600),
        "duration_s": dict(
            zip(("min", "q25", "median", "q75", "max"), quantiles.tolist(), strict=True)
        ),
        "lengths": mismatch_by_default(index.num_samples, index.sample_rate_hz),
        "duration_histogram": _histogram(duration_s),
        "mean_clip_bytes": float(index.size.mean()) if len(index) else 0.0,
        "labels_per_clip": float(labels_per_clip.mean()) if len(index) else 0.0,
        "splits": {
            name: int((index.split == number).sum()) for number, name in enumerate(index.splits)
        },
        "classes": [
            {"mid": mid, "name": name, "clips": int(count)}
            for mid, name, count in zip(
                index.classes.mids, index.classes.names, counts, strict=True
            )
        ],
        "fingerprint": index.fingerprint,
    }


def _histogram(duration_s: Float[np.ndarray, " clips"]) -> list[dict[str, float]]:
    """Number of clips by length, in bins of equal width; the last includes its end."""
    if not len(duration_s):
        return []
    counts, edges = np.histogram(duration_s, NUM_BINS)
    return [
        {"from_s": float(start), "to_s": float(end), "clips": int(count)}
        for count, start, end in zip(counts, edges[:-1], edges[1:], strict=True)
    ]


def render(summary: dict[str, Any], shards: Location) -> str:
    """The summary as text, with histograms of durations and classes."""
    duration = summary["duration_s"]
    splits = ", ".join(f"{name or '(none)'} {n:,}" for name, n in summary["splits"].items())
    lines = [
        f"{shards}: {summary['clips']:,} clips, {summary['hours']:,.1f} h, "
        f"{summary['shards']:,} shards, {summary['bytes'] / 1e9:,.2f} GB",
        f"  audio     {summary['sample_rate_hz']:,} Hz, {summary['mean_clip_bytes'] / 1e3:,.0f} kB "
        f"a clip, {duration['min']:.2f} to {duration['max']:.2f} s, median "
        f"{duration['median']:.2f} s",
        f"  splits    {printable(splits)}",
        f"  labels    {summary['labels_per_clip']:.2f} a clip, {len(summary['classes'])} classes",
        *([f"  lengths   {summary['lengths']}"] if summary["lengths"] else []),
        "",
    ]
    bins = summary["duration_histogram"]
    longest = max((entry["clips"] for entry in bins), default=1)
    for entry in bins:
        span = f"{entry['from_s']:.2f} to {entry['to_s']:.2f} s"
        lines.append(f"  {span:<20} {entry['clips']:>9,} {_bar(entry['clips'], longest)}")
    lines.append("")
    classes = sorted(summary["classes"], key=lambda entry: -entry["clips"])
    most = max(1, classes[0]["clips"])
    width = min(40, max(len(entry["name"]) for entry in classes))
    for entry in classes:
        bar = _bar(entry["clips"], most)
        lines.append(f"  {entry['name'][:width]:<{width}} {entry['clips']:>9,} {bar}")
    return "\n".join(lines)


def _bar(count: int, most: int) -> str:
    return "#" * round(BAR_WIDTH * count / most)


def main() -> None:
    args = cli.parse(Args, __doc__, prog="python -m sharding.info")
    summary = summarise(read_index(args.shards))
    print(json.dumps(summary, indent=2) if args.json else render(summary, args.shards))


if __name__ == "__main__":
    cli.run(main)
