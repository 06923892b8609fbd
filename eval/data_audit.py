"""What a report can know of a run's data: from the indexes, and from what the build left there.

Nothing is decoded: `python -m sharding.stats` and `sharding.check --deep` look at the audio.
"""

import json
import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eval.run_settings import TrainingSet, open_training_set
from psla_wds.errors import PslaError
from psla_wds.evaluation.scores import Scores
from psla_wds.io.locations import is_url, split_spec
from psla_wds.shards.clip_ids import NOT_THERE, ClipIds
from psla_wds.shards.index import ShardIndex
from train.run.log import Run

NUM_FEWEST = 10

logger = logging.getLogger("data")


@dataclass(frozen=True)
class Split:
    """A line of the table of clips."""

    name: str
    clips: int
    hours: float


@dataclass(frozen=True)
class Refused:
    """What became of the clips that the source of a folder of shards lists."""

    shards: str
    listed: int | None
    """None where the build left no coverage.json."""
    reasons: dict[str, int]
    """Clips that are in no shard, by reason, the most first."""

    @property
    def clips(self) -> int:
        return sum(self.reasons.values())


@dataclass(frozen=True)
class DataAudit:
    """Of the training clips, and of how the clips that were scored relate to them."""

    clips: int
    hours: float
    labels_per_clip: float
    splits: tuple[Split, ...]
    fewest: tuple[tuple[str, int], ...]
    """Classes with the fewest training clips, and how many they have."""
    without_training_clips: tuple[str, ...]
    """Classes that were scored with positives, and have no clip to learn from."""
    in_both: int
    """Clips that were trained on and scored: a mistake, as a rule."""
    refused: tuple[Refused, ...]
    damaged: tuple[str, ...]
    """Clips that the run replaced."""


def find_training_set(run: Run, specs: tuple[str, ...]) -> TrainingSet | None:
    """The run's training clips; None, and a warning, where they are not where the run had them.

    Shards behind URLs are looked at only where `specs` names them: a report shall not wait.
    """
    try:
        if not specs and any(is_url(spec) for spec in run.config.index):
            return None
        return open_training_set(run, specs)
    except PslaError as error:
        if specs:
            raise
        what = str(error).splitlines()[0]
        logger.warning("nothing is told of the training clips: %s", what)
        return None


def audit(data: TrainingSet, scores: Scores, run: Run, specs: tuple[str, ...]) -> DataAudit:
    """Look at the indexes; the build's own lists are read where they lie on a disk."""
    index = data.index
    counts, hours = index.class_counts(), _hours(index, slice(None))
    order = np.argsort(counts, kind="stable")[:NUM_FEWEST].tolist()
    positives = dict(zip(scores.mids, scores.targets.any(axis=0).tolist(), strict=True))
    names, mids = index.classes.names, index.classes.mids
    rows = index.clip_ids.rows_of(ClipIds.of(scores.clip_ids))
    return DataAudit(
        clips=len(index),
        hours=hours,
        labels_per_clip=len(index.label_values) / max(len(index), 1),
        splits=tuple(_splits(index)),
        fewest=tuple((names[k], int(counts[k])) for k in order),
        without_training_clips=tuple(
            name
            for name, mid, count in zip(names, mids, counts.tolist(), strict=True)
            if not count and positives.get(mid)
        ),
        in_both=int(np.count_nonzero(rows != NOT_THERE)),
        refused=tuple(_refused(specs or data.config.index)),
        damaged=run.damaged,
    )


def _splits(index: ShardIndex) -> list[Split]:
    members = [(name, index.split == number) for number, name in enumerate(index.splits)]
    return [
        Split(name or "(no name)", int(rows.sum()), _hours(index, rows))
        for name, rows in members
        if rows.any()
    ]


def _hours(index: ShardIndex, rows: Any) -> float:
    return float(index.num_samples[rows].sum() / index.sample_rate_hz / 3600)


def _refused(specs: tuple[str, ...]) -> list[Refused]:
    """What the builds of local shards refused, a folder once."""
    folders = dict.fromkeys(split_spec(spec)[0] for spec in specs if not is_url(spec))
    return [_refused_of(Path(str(folder))) for folder in folders]


def _refused_of(folder: Path) -> Refused:
    reasons = Counter(str(row.get("reason")) for row in _json_lines(folder / "rejected.jsonl"))
    covered = _json_lines(folder / "coverage.json", whole=True)
    splits = covered[0].get("splits") if covered else None
    listed = None
    if isinstance(splits, dict):
        counts = [row.get("listed") for row in splits.values() if isinstance(row, dict)]
        listed = sum(count for count in counts if isinstance(count, int))
    return Refused(str(folder), listed, dict(reasons.most_common()))


def _json_lines(path: Path, *, whole: bool = False) -> list[dict[str, Any]]:
    """The objects in a file, one a line or one in all; none where there is no such file.

    A file that holds something else is told and left out: it is the build's, not the report's.
    """
    try:
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        rows = [json.loads(part) for part in ([text] if whole and text else text.splitlines())]
    except (OSError, ValueError, RecursionError) as error:
        logger.warning("%s cannot be read: %s", path, error)
        return []
    return [row for row in rows if isinstance(row, dict)]
