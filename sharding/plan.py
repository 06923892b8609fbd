"""The plan of a build: which clips go into which shard. Decided first, the same everywhere."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from psla_wds.errors import ConfigError, ShardError
from psla_wds.files import atomic_open
from psla_wds.index_files import CLASS_LABELS
from psla_wds.labels import ClassList, write_class_list
from psla_wds.manifest import Clip
from psla_wds.shards import SHARD_NAME, sidecar_path
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
    """Make the output folder, or go on in one where the same build was begun.

    Several tasks may do so at once, and each may be killed: all write the same files.
    """
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
    if folder.exists() and not _is_untouched(folder):
        raise ConfigError(
            "the output folder is not empty, and no build was begun in it",
            where=folder,
            fix="choose another --output",
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_class_list(classes, folder / CLASS_LABELS)
    with atomic_open(folder / PLAN_FILE, "w", shared=True) as file:
        json.dump(plan, file, indent=1)
        file.write("\n")
    _check_same_plan(folder, plan["fingerprint"])


def _is_untouched(folder: Path) -> bool:
    """Whether a folder holds nothing, or the beginnings of a build without its plan."""
    ours = (CLASS_LABELS, PLAN_FILE)
    return folder.is_dir() and all(path.name.startswith(ours) for path in folder.iterdir())


def missing_shards(folder: Path) -> list[int]:
    """Numbers of the shards that the build in a folder has yet to make, by its plan."""
    tars = [folder / SHARD_NAME.format(number=n) for n in range(_read_plan(folder)["num_shards"])]
    return [
        number
        for number, tar in enumerate(tars)
        if not (tar.exists() and sidecar_path(tar).exists())
    ]


def sweep(folder: Path) -> None:
    """Delete what killed writers have left in a folder where all shards stand."""
    for path in folder.glob("*.tmp"):
        if path.is_file():
            path.unlink(missing_ok=True)


def _fingerprint(tasks: list[ShardTask], classes: ClassList) -> str:
    parts = [json.dumps([classes.mids, classes.names]), *(task.fingerprint() for task in tasks)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _read_plan(folder: Path) -> dict[str, Any]:
    try:
        plan = json.loads((folder / PLAN_FILE).read_text(encoding="utf-8"))
        return {"fingerprint": plan["fingerprint"], "num_shards": int(plan["num_shards"])}
    except (ValueError, KeyError, TypeError) as error:
        raise ShardError(
            f"{PLAN_FILE} is damaged: {error}", where=folder, fix="choose another --output"
        ) from None


def _check_same_plan(folder: Path, fingerprint: str) -> None:
    if _read_plan(folder)["fingerprint"] != fingerprint:
        raise ConfigError(
            "the output folder holds another build: other clips, labels or settings",
            where=folder,
            fix="choose another --output, or delete this folder",
        )
