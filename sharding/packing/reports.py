"""Reports on unusable clips: the list with reasons, and counts by class.

Data sets shrink: videos are deleted, downloads fail. Results on other clips are other results.
"""

import json
import logging
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from psla_wds.errors import ManifestError, ShardError
from psla_wds.io.atomic_files import disk_errors
from psla_wds.io.locations import Location
from psla_wds.io.stores import at
from psla_wds.labels.class_list import ClassList
from psla_wds.labels.manifest import Clip
from psla_wds.shards.tar import read_sidecars, tars_in

REJECTED, FLAGGED, COVERAGE = "rejected.jsonl", "flagged.jsonl", "coverage.json"
FLAGS = {
    "silent": "nearly silent",
    "channels-cancel": "with channels that cancel",
    "over-full-scale": "over full scale, clipped",
    "header-repaired": "with a repaired header",
    "chained": "of several files in a row",
    "misnamed": "named otherwise than they are",
    "no-end-mark": "without a mark of their end",
}
ELSEWHERE = "--audio-root, if the files lie elsewhere"
NOTHING_PACKED = (
    f"check the paths ({ELSEWHERE}) and the files, and run "
    "psla-wds build again; no shard is left here"
)
FEW_CLIPS = 10
"""Clips that a class counts more when losses are compared, so that one clip of one is not most."""
NUM_WORST = 3
"""Number of classes that the warning about missing clips names."""

logger = logging.getLogger("sharding.build")


def write_rejected(path: Location, rejected: Sequence[dict[str, str]]) -> None:
    with disk_errors(path, "write the refused clips"), at(path).write("w") as file:
        for clip in rejected:
            file.write(json.dumps(clip, ensure_ascii=False) + "\n")


def read_rejected(path: Location) -> list[dict[str, str]]:
    try:
        rows = [json.loads(line) for line in at(path).read(max_bytes=2**30).decode().splitlines()]
        if not all(isinstance(row, dict) and "clip_id" in row for row in rows):
            raise ValueError("a line does not describe a refused clip")
    except (OSError, ValueError, RecursionError) as error:
        raise ShardError(
            f"cannot read the refused clips: {error}",
            where=path,
            fix="run the same command without --retry-rejected: it writes the list again",
        ) from None
    return rows


def list_flagged(folder: Location) -> str:
    """List the packed clips that are odd, as their sidecars say; return their numbers as text for
    people, "" if there are none."""
    counts: Counter[str] = Counter()
    with disk_errors(folder, "list the flagged clips"), tempfile.TemporaryFile("w+") as lines:
        for sidecar in read_sidecars(tars_in(folder)):
            for clip_id, flag, detail in sidecar.flagged() if sidecar else ():
                row = {"clip_id": clip_id, "flag": flag, "detail": detail}
                lines.write(json.dumps(row, ensure_ascii=False) + "\n")
                counts[flag] += 1
        lines.seek(0)
        at(folder / FLAGGED).remove()
        if counts:
            with at(folder / FLAGGED).write("w") as file:
                shutil.copyfileobj(lines, file)
    return ", ".join(f"{n:,} {FLAGS.get(flag, flag)}" for flag, n in counts.most_common())


def check_rejected(
    rejected: Sequence[dict[str, str]],
    num_clips: int,
    max_rejected: float,
    *,
    where: object,
    fix: str,
) -> None:
    """Raise `ManifestError` if more than `max_rejected` of the clips were refused, or all of
    them."""
    if len(rejected) == num_clips or len(rejected) > max_rejected * num_clips:
        share = len(rejected) / num_clips
        counts = Counter(clip["reason"] for clip in rejected).most_common()
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in counts)
        if len(rejected) < num_clips:
            accept = f"--max-rejected {min(1.0, share * 1.05):.3g} accepts them"
            fix = f"{fix}, or continue without: {accept}"
        else:
            reasons += f", such as {rejected[0].get('path', rejected[0]['clip_id'])}"
        raise ManifestError(
            f"{len(rejected):,} of {num_clips:,} clips were refused ({share:.1%}): {reasons}",
            where=where,
            fix=fix,
        )


def coverage(
    clips: Iterable[Clip], rejected: Iterable[dict[str, str]], classes: ClassList
) -> dict[str, Any]:
    """Number of clips listed by the source, missing (no file) and otherwise refused, by split and
    class."""
    reasons = {clip["clip_id"]: clip["reason"] for clip in rejected}
    splits: dict[str, Counter[str]] = {}
    by_class: list[Counter[str]] = [Counter() for _ in range(len(classes))]
    for clip in clips:
        counters = [splits.setdefault(clip.split, Counter())]
        counters += [by_class[label] for label in clip.labels]
        reason = reasons.get(clip.clip_id)
        for counter in counters:
            counter["listed"] += 1
            counter["missing"] += reason == "missing"
            counter["refused"] += reason not in (None, "missing")
    described = zip(classes.mids, classes.names, by_class, strict=True)
    return {
        "splits": {name: _row(counter) for name, counter in sorted(splits.items())},
        "classes": [{"mid": mid, "name": name} | _row(counter) for mid, name, counter in described],
    }


def _row(counter: Counter[str]) -> dict[str, int]:
    return {name: counter[name] for name in ("listed", "missing", "refused")}


def write_coverage(path: Location, covered: dict[str, Any]) -> None:
    with disk_errors(path, "write the coverage"), at(path).write("w") as file:
        json.dump(covered, file, ensure_ascii=False, indent=1)
        file.write("\n")


def warn_of_losses(covered: dict[str, Any], where: Location) -> None:
    """Log the missing clips of each split, and the classes that lost the greatest share."""
    lost = [name for name, row in covered["splits"].items() if row["missing"]]
    if not lost:
        return
    splits = ", ".join(_loss(name or "all", covered["splits"][name]) for name in lost)
    by_share = sorted(
        (row for row in covered["classes"] if row["missing"]),
        key=lambda row: (-row["missing"] / (row["listed"] + FEW_CLIPS), row["name"]),
    )
    worst = ", ".join(_loss(row["name"], row) for row in by_share[:NUM_WORST])
    logger.warning("clips are missing: %s; most from %s (all in %s)", splits, worst, where)


def _loss(name: str, row: dict[str, Any]) -> str:
    share = row["missing"] / row["listed"]
    return f"{name} {row['missing']:,} of {row['listed']:,} ({share:.1%})"
