"""Summarise a folder of shards: clips, classes, durations, sizes.

    psla-wds info SHARDS[:split,...] [--json]

Nothing is decoded: all of it is in the index.
"""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int64
from tyro.conf import Positional

from psla_wds import cli
from psla_wds.features.windows import mismatch_by_default
from psla_wds.printable import printable
from psla_wds.shards.index import ShardIndex
from psla_wds.shards.index_files import open_indexes
from psla_wds.text_table import counted, of_bytes, of_seconds

BAR_WIDTH = 40
NUM_BINS = 10
LEAST_BIN_S = 0.01
MOST_SPLITS = 6
"""Most splits with a column of the clips of each class."""


@dataclass(frozen=True)
class Args:
    shards: Positional[str]
    """Folder of the shards, or its URL; SHARDS:train,eval takes only these splits."""
    json: bool = False
    """Print one JSON object instead of text."""


def summarise(index: ShardIndex) -> dict[str, Any]:
    """Numbers that describe a set of shards."""
    duration_s = index.num_samples / index.sample_rate_hz
    labels_per_clip = np.diff(index.label_starts)
    counts = _class_counts(index)
    shards = np.unique(index.shard)  # those of a split, where it is one
    quantiles = np.quantile(duration_s, [0, 0.25, 0.5, 0.75, 1]) if len(index) else np.zeros(5)
    return {
        "clips": len(index),
        "shards": len(shards),
        "bytes": int(np.asarray(index.shard_sizes, np.int64)[shards].sum()),
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
            {"mid": mid, "name": name, "clips": int(count.sum()), "splits": _by_split(index, count)}
            for mid, name, count in zip(
                index.classes.mids, index.classes.names, counts, strict=True
            )
        ],
        "fingerprint": index.fingerprint,
    }


def _class_counts(index: ShardIndex) -> Int64[np.ndarray, "classes splits"]:
    """Clips of each class in each split."""
    num_splits = len(index.splits)
    splits = np.repeat(index.split.astype(np.int64), np.diff(index.label_starts))
    cells = index.label_values.astype(np.int64) * num_splits + splits
    counts = np.bincount(cells, minlength=len(index.classes) * num_splits)
    return counts.reshape(len(index.classes), num_splits)


def _by_split(index: ShardIndex, counts: Int64[np.ndarray, " splits"]) -> dict[str, int]:
    return dict(zip(index.splits, counts.tolist(), strict=True))


def _histogram(duration_s: Float[np.ndarray, " clips"]) -> list[dict[str, float]]:
    """Number of clips by length, in bins of one width, of 10 ms or more; the last includes its
    end."""
    if not len(duration_s):
        return []
    num_bins = min(NUM_BINS, max(1, int(np.ptp(duration_s) / LEAST_BIN_S)))
    counts, edges = np.histogram(duration_s, num_bins)
    return [
        {"from_s": float(start), "to_s": float(end), "clips": int(count)}
        for count, start, end in zip(counts, edges[:-1], edges[1:], strict=True)
    ]


def render(summary: dict[str, Any], shards: object) -> str:
    """The summary as text, with histograms of durations and classes."""
    duration = summary["duration_s"]
    splits = ", ".join(f"{name or '(none)'} {n:,}" for name, n in summary["splits"].items())
    lines = [
        f"{shards}: {counted(summary['clips'], 'clip')}, {of_seconds(summary['hours'] * 3600)}, "
        f"{counted(summary['shards'], 'shard')}, {of_bytes(summary['bytes'])}",
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
        if len(bins) == 1:
            span = f"{duration['median']:.2f} s"
        lines.append(f"  {span:<20} {entry['clips']:>9,} {_bar(entry['clips'], longest)}")
    lines.append("")
    classes = sorted(summary["classes"], key=lambda entry: -entry["clips"])
    most = max(1, classes[0]["clips"])
    width = min(40, max(len(entry["name"]) for entry in classes))
    names = [*summary["splits"]] if 1 < len(summary["splits"]) <= MOST_SPLITS else []
    heads = [f"{name[:9] or '(none)':>9}" for name in names]
    if names:
        lines.append(" ".join([" " * (width + 2), f"{'clips':>9}", *heads]))
    for entry in classes:
        own = "".join(f" {entry['splits'][name]:>9,}" for name in names)
        bar = _bar(entry["clips"], most)
        lines.append(f"  {entry['name'][:width]:<{width}} {entry['clips']:>9,}{own} {bar}")
    return "\n".join(lines)


def _bar(count: int, most: int) -> str:
    return "#" * round(BAR_WIDTH * count / most)


def main() -> None:
    args = cli.parse(Args, __doc__, prog="info")
    summary = summarise(open_indexes([args.shards]))
    print(json.dumps(summary, indent=2) if args.json else render(summary, args.shards))


if __name__ == "__main__":
    cli.run(main)
