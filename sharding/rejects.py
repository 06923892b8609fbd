"""Clips that cannot be used: listed with their reason, counted, and no more than was agreed."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from psla_wds.errors import ManifestError
from psla_wds.files import atomic_open

REJECTED = "rejected.jsonl"


def write_rejected(path: Path, rejected: Sequence[dict[str, str]]) -> None:
    with atomic_open(path, "w") as file:
        for clip in rejected:
            file.write(json.dumps(clip, ensure_ascii=False) + "\n")


def check_rejected(
    rejected: Sequence[dict[str, str]],
    num_clips: int,
    max_rejected: float,
    *,
    where: Path,
    fix: str,
) -> None:
    """`ManifestError` if more than `max_rejected` of the clips were refused, or all of them."""
    if len(rejected) == num_clips or len(rejected) > max_rejected * num_clips:
        share = len(rejected) / num_clips
        counts = Counter(clip["reason"] for clip in rejected).most_common()
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in counts)
        accept = f"--max-rejected {min(1.0, share * 1.05):.3g} accepts them"
        raise ManifestError(
            f"{len(rejected):,} of {num_clips:,} clips were refused ({share:.1%}): {reasons}",
            where=where,
            fix=fix + (f", or go on without: {accept}" if len(rejected) < num_clips else ""),
        )
