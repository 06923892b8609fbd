"""The plan of a build: which clips go into which shard. Decided first, the same everywhere."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from psla_wds.errors import ConfigError, ShardError
from psla_wds.files import atomic_open
from psla_wds.index_files import CLASS_LABELS
from psla_wds.labels import ClassList, write_class_list
from psla_wds.manifest import Clip
from sharding.pack import Encoding, ShardTask

PLAN_FILE = "build.json"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How clips are dealt to shards."""

    clips_per_shard: int
    seed: int
    eval_share: float


def plan_shards(
    clips: Iterable[Clip], classes: ClassList, folder: Path, layout: Layout, encoding: Encoding
) -> list[ShardTask]:
    """Deal the clips to shards in an order that is random, yet follows from each id and the seed:
    any shard, or any number of them, is a fair sample of the data set."""
    ordered = sorted(clips, key=lambda clip: _random_number("order", layout.seed, clip.clip_id))
    ordered = [_with_split(clip, layout) for clip in ordered]
    size = layout.clips_per_shard
    return [
        ShardTask(number, folder, tuple(ordered[start : start + size]), classes.mids, encoding)
        for number, start in enumerate(range(0, len(ordered), size))
    ]


def _random_number(purpose: str, seed: int, clip_id: str) -> int:
    digest = hashlib.blake2b(f"{purpose} {seed} {clip_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def _with_split(clip: Clip, layout: Layout) -> Clip:
    """A clip without a split goes to eval or train, by its id, if such a share was asked for."""
    if clip.split or not layout.eval_share:
        return clip
    is_eval = _random_number("split", layout.seed, clip.clip_id) < layout.eval_share * 2**64
    return replace(clip, split="eval" if is_eval else "train")


def open_output(folder: Path, tasks: list[ShardTask], classes: ClassList, layout: Layout) -> None:
    """Make the output folder, or go on in one where the same build was begun."""
    plan = {
        "fingerprint": _fingerprint(tasks, classes),
        "num_shards": len(tasks),
        "num_clips": sum(len(task.clips) for task in tasks),
        "layout": asdict(layout),
        "encoding": asdict(tasks[0].encoding),
    }
    if (folder / PLAN_FILE).exists():
        _check_same_plan(folder, plan["fingerprint"])
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(
            "the output folder is not empty, and no build was begun in it",
            where=folder,
            fix="choose another --output",
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_class_list(classes, folder / CLASS_LABELS)
    with atomic_open(folder / PLAN_FILE, "w") as file:
        json.dump(plan, file, indent=1)
        file.write("\n")


def _fingerprint(tasks: list[ShardTask], classes: ClassList) -> str:
    parts = [json.dumps([classes.mids, classes.names]), *(task.fingerprint() for task in tasks)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _check_same_plan(folder: Path, fingerprint: str) -> None:
    try:
        begun = json.loads((folder / PLAN_FILE).read_text(encoding="utf-8"))["fingerprint"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ShardError(
            f"{PLAN_FILE} is damaged: {error}", where=folder, fix="choose another --output"
        ) from None
    if begun != fingerprint:
        raise ConfigError(
            "the output folder holds another build: other clips, labels or settings",
            where=folder,
            fix="choose another --output, or delete this folder",
        )
