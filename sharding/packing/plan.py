"""The plan of a build: which clips go into which shard. Decided first, the same everywhere."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, overload

from psla_wds.errors import ConfigError, ShardError
from psla_wds.io.atomic_files import disk_errors
from psla_wds.io.locations import Location
from psla_wds.io.stores import at
from psla_wds.labels.class_list import ClassList, write_class_list
from psla_wds.labels.manifest import Clip
from psla_wds.shards.index_files import CLASS_LABELS
from psla_wds.shards.tar import SHARD_NAME, sidecar_path
from sharding.packing.clip_table import ClipTable
from sharding.packing.shard import Encoding, ShardTask

PLAN_FILE = "build.json"
MAX_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How clips are distributed to shards."""

    clips_per_shard: int
    shard_mib: int | None
    """Size that `clips_per_shard` is derived from, if that is not given."""
    seed: int
    eval_share: float
    refuse_duplicates: bool


@dataclass(frozen=True, kw_only=True)
class ShardTasks(Sequence[ShardTask]):
    """Tasks of a build, or a slice of them; each is created on access, since together they hold all
    clips."""

    clips: Sequence[Clip]
    """Clips of the whole build, in order."""
    clips_per_shard: int
    places: range
    """Positions of the tasks in the whole build."""
    folder: Location
    mids: tuple[str, ...]
    encoding: Encoding
    first_number: int = 0
    """Number of the first shard."""
    duplicates: dict[str, str] = field(default_factory=dict)
    """Clips to refuse, each with the clip whose audio it repeats."""

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, key: int) -> ShardTask: ...
    @overload
    def __getitem__(self, key: slice) -> "ShardTasks": ...
    def __getitem__(self, key: int | slice) -> "ShardTask | ShardTasks":
        place = self.places[key]
        if isinstance(place, range):
            return replace(self, places=place)
        clips = tuple(self.clips[self._rows(place)])
        ids = (clip.clip_id for clip in clips)
        own = {clip_id: self.duplicates[clip_id] for clip_id in ids if clip_id in self.duplicates}
        number = self.first_number + place
        return ShardTask(number, self.folder, clips, self.mids, self.encoding, own)

    def _rows(self, place: int) -> slice:
        return slice(place * self.clips_per_shard, (place + 1) * self.clips_per_shard)

    @property
    def num_clips(self) -> int:
        rows = range(len(self.clips))
        return sum(len(rows[self._rows(place)]) for place in self.places)


def in_order(clips: Iterable[Clip], layout: Layout) -> ClipTable:
    """Clips with their splits, in a random order that depends only on each id and the seed: any
    first n clips, and any shard, are a fair sample of the data set."""
    return ClipTable(
        (_random_number("order", layout.seed, clip.clip_id), _with_split(clip, layout))
        for clip in clips
    )


def plan_shards(
    clips: Sequence[Clip],
    classes: ClassList,
    folder: Location,
    clips_per_shard: int,
    encoding: Encoding,
) -> ShardTasks:
    """Distribute ordered clips to shards."""
    return ShardTasks(
        clips=clips,
        clips_per_shard=clips_per_shard,
        places=range(-(-len(clips) // clips_per_shard)),
        folder=folder,
        mids=classes.mids,
        encoding=encoding,
    )


def _random_number(purpose: str, seed: int, clip_id: str) -> int:
    digest = hashlib.blake2b(f"{purpose} {seed} {clip_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def _with_split(clip: Clip, layout: Layout) -> Clip:
    """Put a clip without a split into eval or train by its id, if a share for eval is set."""
    if clip.split or not layout.eval_share:
        return clip
    is_eval = _random_number("split", layout.seed, clip.clip_id) < layout.eval_share * 2**64
    return replace(clip, split="eval" if is_eval else "train")


def open_output(folder: Location, tasks: ShardTasks, classes: ClassList, layout: Layout) -> None:
    """Make the output folder, or continue in one where the same build was begun.

    Several tasks may do this at once, and each may be killed: all write the same files.
    """
    plan = {
        "fingerprint": _fingerprint(tasks, classes, layout),
        "num_shards": len(tasks),
        "num_clips": tasks.num_clips,
        "layout": asdict(layout),
        "encoding": asdict(tasks.encoding),
    }
    names = at(folder).entries()
    begun = read_plan(folder)
    if begun is None:
        if not _is_untouched(folder, names):
            raise ConfigError(
                "the output folder is not empty, and no build was begun in it",
                where=folder,
                fix="choose another --output",
            )
        _write_plan(folder, plan)
        begun = read_plan(folder) or {}
    require_same(begun, plan, ("fingerprint",), folder)
    if CLASS_LABELS not in names:
        with disk_errors(folder, "write the class list"):
            write_class_list(classes, folder / CLASS_LABELS)


def _is_untouched(folder: Location, names: Iterable[str]) -> bool:
    """Whether the folder is empty, except for what builds killed at their beginning leave."""
    return at(folder).size() is None and all(name.startswith(PLAN_FILE) for name in names)


def _write_plan(folder: Location, plan: dict[str, Any]) -> None:
    making = disk_errors(folder, "make the output folder")
    with making, at(folder / PLAN_FILE).write("w", shared=True) as file:
        json.dump(plan, file, indent=1)
        file.write("\n")


def missing_shards(folder: Location) -> list[int]:
    """Numbers of the shards that the build in a folder still has to make; empty if no build was
    begun."""
    plan = read_plan(folder)
    tars = [folder / SHARD_NAME.format(number=n) for n in range(plan["num_shards"] if plan else 0)]
    names = at(folder).entries()
    return [
        number
        for number, tar in enumerate(tars)
        if tar.name not in names or sidecar_path(tar).name not in names
    ]


def check_complete(folder: Location) -> None:
    """`ShardError` if shards of the build in this folder are missing."""
    missing = missing_shards(folder)
    if missing:
        more = f" (+{len(missing) - MAX_SHOWN:,} more)" if len(missing) > MAX_SHOWN else ""
        raise ShardError(
            f"{len(missing):,} shards are not made yet: "
            f"{', '.join(map(str, missing[:MAX_SHOWN]))}{more}",
            where=folder,
            fix="run the tasks that make them again (task I/N makes every shard whose number "
            "leaves I when divided by N), or the same sharding.build without --task",
        )


def read_plan(folder: Location) -> dict[str, Any] | None:
    """Plan of the build that was begun in a folder, if there is one."""
    keys = {"fingerprint", "num_shards", "num_clips", "layout", "encoding"}
    try:
        plan = json.loads(at(folder / PLAN_FILE).read().decode())
        if not isinstance(plan, dict) or keys - plan.keys():
            raise ValueError("a part of the plan is missing")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, OSError, RecursionError) as error:
        raise ShardError(
            f"{PLAN_FILE} is damaged: {error}", where=folder, fix="choose another --output"
        ) from None
    return plan


def require_same(
    begun: dict[str, Any], plan: dict[str, Any], keys: tuple[str, ...], folder: Location
) -> None:
    """`ConfigError` unless two plans agree in these keys."""
    if any(begun[key] != plan[key] for key in keys):
        raise ConfigError(
            "the output folder holds another build: other clips, labels or settings",
            where=folder,
            fix="choose another --output, or delete this folder; if refused clips were mended, "
            "--retry-rejected with the settings of that build",
        )


def _fingerprint(tasks: ShardTasks, classes: ClassList, layout: Layout) -> str:
    names = json.dumps([classes.mids, classes.names, layout.refuse_duplicates])
    parts = [names, *(task.fingerprint() for task in tasks)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
