"""The plan of a build: which clips go into which shard. Decided first, the same everywhere."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from psla_wds.errors import ConfigError, ShardError
from psla_wds.files import atomic_open
from psla_wds.index_files import CLASS_LABELS
from psla_wds.labels import ClassList, write_class_list
from psla_wds.manifest import Clip
from psla_wds.shards import SHARD_NAME, sidecar_path
from sharding.disk import disk_errors
from sharding.pack import Encoding, ShardTask

PLAN_FILE = "build.json"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How clips are dealt to shards."""

    clips_per_shard: int
    shard_mib: int | None
    """Size that `clips_per_shard` is chosen for, if it is not given."""
    seed: int
    eval_share: float
    refuse_duplicates: bool


def in_order(clips: Iterable[Clip], layout: Layout) -> list[Clip]:
    """The clips with their splits, in an order that is random, yet follows from each id and the
    seed: any number of the first, as any shard, is a fair sample of the data set."""
    ordered = sorted(clips, key=lambda clip: _random_number("order", layout.seed, clip.clip_id))
    return [_with_split(clip, layout) for clip in ordered]


def plan_shards(
    clips: Sequence[Clip],
    classes: ClassList,
    folder: Path,
    clips_per_shard: int,
    encoding: Encoding,
) -> list[ShardTask]:
    """Deal ordered clips to shards."""
    return [
        ShardTask(
            number, folder, tuple(clips[start : start + clips_per_shard]), classes.mids, encoding
        )
        for number, start in enumerate(range(0, len(clips), clips_per_shard))
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
        "fingerprint": _fingerprint(tasks, classes, layout),
        "num_shards": len(tasks),
        "num_clips": sum(len(task.clips) for task in tasks),
        "layout": asdict(layout),
        "encoding": asdict(tasks[0].encoding),
    }
    untouched = _is_untouched(folder)
    if read_plan(folder) is None:
        if not untouched:
            raise ConfigError(
                "the output folder is not empty, and no build was begun in it",
                where=folder,
                fix="choose another --output",
            )
        _write_plan(folder, plan)
    require_same(read_plan(folder) or {}, plan, ("fingerprint",), folder)
    if not (folder / CLASS_LABELS).exists():
        with disk_errors(folder, "write the class list"):
            write_class_list(classes, folder / CLASS_LABELS)


def _is_untouched(folder: Path) -> bool:
    """Whether there is nothing, or no more than builds leave that are killed at their beginning."""
    if not folder.is_dir():
        return not folder.exists()
    return all(path.name.startswith(PLAN_FILE) for path in folder.iterdir())


def _write_plan(folder: Path, plan: dict[str, Any]) -> None:
    with disk_errors(folder, "make the output folder"):
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_open(folder / PLAN_FILE, "w", shared=True) as file:
            json.dump(plan, file, indent=1)
            file.write("\n")


def missing_shards(folder: Path) -> list[int]:
    """Numbers of the shards that the build in a folder has yet to make; none where none began."""
    plan = read_plan(folder)
    tars = [folder / SHARD_NAME.format(number=n) for n in range(plan["num_shards"] if plan else 0)]
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


def read_plan(folder: Path) -> dict[str, Any] | None:
    """The plan of the build that was begun in a folder, if there is one."""
    path = folder / PLAN_FILE
    if not path.exists():
        return None
    keys = {"fingerprint", "num_shards", "num_clips", "layout", "encoding"}
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(plan, dict) or keys - plan.keys():
            raise ValueError("a part of the plan is missing")
    except (ValueError, OSError, RecursionError) as error:
        raise ShardError(
            f"{PLAN_FILE} is damaged: {error}", where=folder, fix="choose another --output"
        ) from None
    return plan


def require_same(
    begun: dict[str, Any], plan: dict[str, Any], keys: tuple[str, ...], folder: Path
) -> None:
    """`ConfigError` unless two plans agree in these keys."""
    if any(begun[key] != plan[key] for key in keys):
        raise ConfigError(
            "the output folder holds another build: other clips, labels or settings",
            where=folder,
            fix="choose another --output, or delete this folder; if refused clips were mended, "
            "--retry-rejected with the settings of that build",
        )


def _fingerprint(tasks: list[ShardTask], classes: ClassList, layout: Layout) -> str:
    names = json.dumps([classes.mids, classes.names, layout.refuse_duplicates])
    parts = [names, *(task.fingerprint() for task in tasks)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
