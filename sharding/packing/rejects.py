"""Clips that cannot be used: listed with their reason, counted, and no more than was agreed."""

import json
from collections import Counter
from collections.abc import Sequence

from psla_wds.errors import ManifestError, ShardError
from psla_wds.io.disk import disk_errors
from psla_wds.io.files import atomic_open
from psla_wds.io.folders import read_file
from psla_wds.io.locations import Location

REJECTED = "rejected.jsonl"


def write_rejected(path: Location, rejected: Sequence[dict[str, str]]) -> None:
    with disk_errors(path, "write the refused clips"), atomic_open(path, "w") as file:
        for clip in rejected:
            file.write(json.dumps(clip, ensure_ascii=False) + "\n")


def read_rejected(path: Location) -> list[dict[str, str]]:
    try:
        rows = [json.loads(line) for line in read_file(path).decode().splitlines()]
        if not all(isinstance(row, dict) and "clip_id" in row for row in rows):
            raise ValueError("a line is no refused clip")
    except (OSError, ValueError, RecursionError) as error:
        raise ShardError(
            f"cannot read the refused clips: {error}",
            where=path,
            fix="run the same command without --retry-rejected: it writes them anew",
        ) from None
    return rows


def check_rejected(
    rejected: Sequence[dict[str, str]],
    num_clips: int,
    max_rejected: float,
    *,
    where: Location,
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
