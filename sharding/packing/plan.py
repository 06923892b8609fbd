"""The plan of a build: which clips go into which shard. Decided first, the same everywhere."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, overload

from psla_wds.errors import DAMAGE, ConfigError, ShardError
from psla_wds.io.atomic_files import disk_errors
from psla_wds.io.locations import Location
from psla_wds.io.regular import CONFIG_BYTES
from psla_wds.io.stores import at
from psla_wds.labels.class_list import ClassList, read_class_list, write_class_list
from psla_wds.labels.manifest import Clip
from psla_wds.shards.index_files import CLASS_LABELS
from psla_wds.shards.tar import SHARD_NAME, Sidecar, sidecar_path, tars_in
from sharding.packing.reports import COVERAGE, REJECTED
from sharding.packing.shard import Encoding, ShardTask

PLAN_FILE = "build.json"
TAR_NAME = re.compile(r"shard-(\d{6,})\.tar")
MAX_SHARDS = 10_000_000
MAX_SHOWN = 20
MAKE_AGAIN = (
    "delete tars that were copied here, and run the same psla-wds build again: it makes what is "
    "missing or of another build"
)


class NotPlannedError(ShardError):
    """The shards in a folder are not those that a build planned, or the plan is damaged."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How clips are distributed to shards."""

    clips_per_shard: int
    shard_mib: int | None
    """Size that `clips_per_shard` is derived from, if that is not given."""
    seed: int
    eval_share: float
    split_by_class: bool
    """Clips for eval are chosen by class and group; by their ids alone in the first builds."""
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


def as_begun(layout: Layout, folder: Location) -> Layout:
    """Layout with the rule for splits of the build that was begun in a folder, if there is one."""
    begun = read_plan(folder)
    if begun is None:
        return layout
    return replace(layout, split_by_class=bool(begun["layout"]["split_by_class"]))


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
    if CLASS_LABELS in names:
        check_class_list(folder, classes)
    else:
        with disk_errors(folder, "write the class list"):
            write_class_list(classes, folder / CLASS_LABELS)


def check_class_list(folder: Location, classes: ClassList) -> None:
    """`ConfigError` if the folder has another class list."""
    path = folder / CLASS_LABELS
    if read_class_list(path) != classes:
        raise ConfigError(
            "the shards were packed with another class list",
            where=path,
            fix="put that list back, or choose another --output",
        )


def _is_untouched(folder: Location, names: Iterable[str]) -> bool:
    """Whether the folder is empty, except for what builds leave that were killed at their beginning
    or packed nothing."""
    left = (name in (REJECTED, COVERAGE) or name.startswith(PLAN_FILE) for name in names)
    return at(folder).size() is None and all(left)


def discard(folder: Location) -> None:
    """Delete a build that packed nothing, but for its lists of why, so that another can begin."""
    for tar in tars_in(folder):
        at(sidecar_path(tar)).remove()
        at(tar).remove()
    for name in (CLASS_LABELS, PLAN_FILE):
        at(folder / name).remove()


def _write_plan(folder: Location, plan: dict[str, Any]) -> None:
    making = disk_errors(folder, "make the output folder")
    with making, at(folder / PLAN_FILE).write("w", shared=True, first=True) as file:
        json.dump(plan, file, indent=1)
        file.write("\n")


def missing_shards(folder: Location) -> list[int]:
    """Numbers of the shards that the build in a folder still has to make; empty if no build was
    begun."""
    plan = read_plan(folder)
    names = at(folder).entries()
    return [
        number
        for number in range(plan["num_shards"] if plan else 0)
        for tar in [folder / SHARD_NAME.format(number=number)]
        if tar.name not in names or sidecar_path(tar).name not in names
    ]


def compared(
    folder: Location, sidecars: Iterable[Sidecar], tasks: ShardTasks | None = None
) -> Iterator[Sidecar]:
    """Hand on the sidecars of a folder; `ShardError` at their end if a build was begun there and
    they are not what it planned.

    Planned shards have the plan's tasks and all of its clips, packed or refused; further shards
    have clips that were refused. Whether ids are unique, the index shows.

    Args:
        tasks: those of the build, to name the shards that differ. Only they show it where
            duplicates are refused.
    """
    plan = read_plan(folder)
    if plan is None:
        yield from sidecars
        return
    made: dict[int, str] = {}
    num_clips, refused, more = 0, set[str](), dict[str, str]()
    for sidecar in sidecars:
        name = TAR_NAME.fullmatch(sidecar.shard)
        if name is None:
            raise NotPlannedError(
                "the tar is not one of this build", where=folder / sidecar.shard, fix=MAKE_AGAIN
            )
        if int(name[1]) < plan["num_shards"]:
            made[int(name[1])] = sidecar.task
            num_clips += len(sidecar.clips.clip_id) + len(sidecar.rejected)
            refused.update(clip.get("clip_id", "") for clip in sidecar.rejected)
        else:
            more |= dict.fromkeys(sidecar.clips.clip_id, sidecar.shard)
        yield sidecar
    strangers = sorted(more.keys() - refused)
    if strangers:
        what = f"the shard has a clip that this build never refused, {strangers[0]!r}"
        raise NotPlannedError(what, where=folder / more[strangers[0]], fix=MAKE_AGAIN)
    classes, by_number = read_class_list(folder / CLASS_LABELS), sorted(made.items())
    found = _fingerprint_of([task for _, task in by_number], classes, refuse_duplicates=False)
    if found != plan["fingerprint"] and tasks is not None:
        _check_tasks(made, tasks)
    is_same = found == plan["fingerprint"] or plan["layout"]["refuse_duplicates"]
    if not is_same or num_clips != plan["num_clips"] or len(made) != plan["num_shards"]:
        raise NotPlannedError(
            f"the shards or their class list are not those that {PLAN_FILE} was made for",
            where=folder,
            fix=f"{MAKE_AGAIN}; put back the {CLASS_LABELS} of the build",
        )


def _check_tasks(made: dict[int, str], tasks: ShardTasks) -> None:
    for task in tasks:
        if made.get(task.number) != task.fingerprint():
            raise NotPlannedError(
                "this is not the shard that the build made", where=task.tar, fix=MAKE_AGAIN
            )


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
            "leaves I when divided by N), or the same psla-wds build without --task",
        )


def read_plan(folder: Location) -> dict[str, Any] | None:
    """Plan of the build that was begun in a folder, if there is one."""
    try:
        plan = json.loads(at(folder / PLAN_FILE).read(max_bytes=CONFIG_BYTES).decode())
        _check_plan(plan)
        plan["layout"].setdefault("split_by_class", False)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except DAMAGE as error:
        raise NotPlannedError(
            f"{PLAN_FILE} is damaged: {error}", where=folder, fix="choose another --output"
        ) from None
    return plan


def _check_plan(plan: dict[str, Any]) -> None:
    """Raise one of `DAMAGE` unless the parts that are read have their types, and fit together."""
    layout, encoding = plan["layout"], plan["encoding"]
    numbers = (plan["num_shards"], plan["num_clips"], layout["clips_per_shard"])
    if not isinstance(encoding, dict) or not isinstance(plan["fingerprint"], str):
        raise TypeError("a part of the plan has another type")
    if not isinstance(layout["refuse_duplicates"], bool) or "shard_mib" not in layout:
        raise TypeError("the layout is not one")
    if any(type(number) is not int or number < 0 for number in numbers) or not numbers[2]:
        raise ValueError("a number of clips or shards is none")
    if numbers[0] != -(-numbers[1] // numbers[2]) or numbers[0] > MAX_SHARDS:
        raise ValueError(f"{numbers[0]} shards for {numbers[1]} clips, {numbers[2]} a shard")


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
    made = (task.fingerprint() for task in tasks)
    return _fingerprint_of(made, classes, refuse_duplicates=layout.refuse_duplicates)


def _fingerprint_of(tasks: Iterable[str], classes: ClassList, *, refuse_duplicates: bool) -> str:
    names = json.dumps([classes.mids, classes.names, refuse_duplicates])
    return hashlib.sha256("\n".join([names, *tasks]).encode()).hexdigest()
