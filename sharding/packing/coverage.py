"""How much of the source's own list became clips, by split and by class.

A data set shrinks: videos are deleted, downloads fail. Results on other clips are other results.
"""

import json
import logging
from collections import Counter
from collections.abc import Iterable
from typing import Any

from psla_wds.io.disk import disk_errors
from psla_wds.io.files import atomic_open
from psla_wds.io.locations import Location
from psla_wds.labels.class_list import ClassList
from psla_wds.labels.manifest import Clip

COVERAGE = "coverage.json"
NUM_WORST = 3

logger = logging.getLogger("sharding.build")


def coverage(
    clips: Iterable[Clip], rejected: Iterable[dict[str, str]], classes: ClassList
) -> dict[str, Any]:
    """Clips listed, missing (there is no file) and otherwise refused."""
    reasons = {clip["clip_id"]: clip["reason"] for clip in rejected}
    splits: dict[str, Counter[str]] = {}
    of_classes: list[Counter[str]] = [Counter() for _ in range(len(classes))]
    for clip in clips:
        counters = [splits.setdefault(clip.split, Counter())]
        counters += [of_classes[label] for label in clip.labels]
        reason = reasons.get(clip.clip_id)
        for counter in counters:
            counter["listed"] += 1
            counter["missing"] += reason == "missing"
            counter["refused"] += reason not in (None, "missing")
    described = zip(classes.mids, classes.names, of_classes, strict=True)
    return {
        "splits": {name: _row(counter) for name, counter in sorted(splits.items())},
        "classes": [{"mid": mid, "name": name} | _row(counter) for mid, name, counter in described],
    }


def _row(counter: Counter[str]) -> dict[str, int]:
    return {name: counter[name] for name in ("listed", "missing", "refused")}


def write_coverage(folder: Location, covered: dict[str, Any]) -> None:
    path = folder / COVERAGE
    with disk_errors(path, "write the coverage"), atomic_open(path, "w") as file:
        json.dump(covered, file, ensure_ascii=False, indent=1)
        file.write("\n")


def warn_of_losses(covered: dict[str, Any], where: Location) -> None:
    """Tell what is missing of each split, and of which classes the greatest share."""
    lost = [name for name, row in covered["splits"].items() if row["missing"]]
    if not lost:
        return
    splits = ", ".join(_told(name or "all", covered["splits"][name]) for name in lost)
    by_share = sorted(
        (row for row in covered["classes"] if row["missing"]),
        key=lambda row: (-row["missing"] / row["listed"], row["name"]),
    )
    worst = ", ".join(_told(row["name"], row) for row in by_share[:NUM_WORST])
    logger.warning("clips are missing: %s; most of %s (all in %s)", splits, worst, where)


def _told(name: str, row: dict[str, Any]) -> str:
    share = row["missing"] / row["listed"]
    return f"{name} {row['missing']:,} of {row['listed']:,} ({share:.1%})"
