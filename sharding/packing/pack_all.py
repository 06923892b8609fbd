"""A whole build: all shards, or only those of clips refused before; then the index."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from psla_wds.errors import ClipRefusedError, ConfigError
from psla_wds.io.atomic_files import disk_errors
from psla_wds.io.locations import Location
from psla_wds.io.stores import at
from psla_wds.labels.class_list import ClassList
from psla_wds.labels.manifest import Clip
from psla_wds.printable import typed
from psla_wds.progress import progress_bar
from psla_wds.runtime.array_tasks import ArrayTask
from psla_wds.shards.index import ShardIndex
from psla_wds.shards.index_files import INDEX_FOLDER, META
from psla_wds.shards.merge import merge_sidecars
from psla_wds.shards.tar import read_sidecars, sidecar_path, tars_in
from sharding.packing.config import PackConfig
from sharding.packing.dask_engine import run_dask, scheduler_address
from sharding.packing.duplicates import (
    KnownAudio,
    find_duplicates,
    read_duplicates,
    write_duplicates,
)
from sharding.packing.engines import run_local
from sharding.packing.forecast import settled_layout
from sharding.packing.plan import (
    TAR_NAME,
    ShardTasks,
    as_begun,
    check_class_list,
    compared,
    discard,
    missing_shards,
    open_output,
    plan_shards,
    read_plan,
    require_same,
)
from sharding.packing.reports import (
    COVERAGE,
    NOTHING_PACKED,
    REJECTED,
    check_rejected,
    coverage,
    list_flagged,
    read_rejected,
    warn_of_losses,
    write_coverage,
    write_rejected,
)
from sharding.packing.shard import ShardResult, pack_clip, refusal_of

logger = logging.getLogger("sharding.build")


@dataclass(frozen=True)
class Outcome:
    """Content of a folder of published shards."""

    index: ShardIndex
    rejected: list[dict[str, str]]
    flagged: str
    """Numbers of packed clips that are odd, for people."""


def pack_all(clips: Sequence[Clip], classes: ClassList, config: PackConfig) -> Outcome:
    """Make the missing shards, and publish all by their index.

    Duplicates show only when all clips are packed; then the shards that contain them are made again
    without them. The list of duplicates gives the same shards when the build is run again.
    """
    tasks = _begin(clips, classes, config)
    recovered = _packed_since(config.output, len(tasks))
    duplicates = read_duplicates(config.output) if config.refuse_duplicates else {}
    while True:
        planned = replace(tasks, duplicates=duplicates)
        results = _run(planned, config)
        rejected = [clip for clip in _refused(results) if clip["clip_id"] not in recovered]
        index = _publish(clips, rejected, classes, config, planned)
        found = find_duplicates(index)
        to_refuse = dict(found) if config.refuse_duplicates else {}
        if not to_refuse:
            _warn_of_duplicates(found)
            return Outcome(index, rejected, list_flagged(config.output))
        duplicates |= to_refuse
        write_duplicates(config.output, duplicates)
        # The index lacks the shards to come; without this file it does not count as one.
        at(config.output / INDEX_FOLDER / META).remove()


def pack_share(
    clips: Sequence[Clip], classes: ClassList, config: PackConfig, task: ArrayTask
) -> str:
    """Make the shards of one task of an array, and report it; the index waits for all tasks."""
    tasks = _begin(clips, classes, config)
    own = task.of(tasks)
    rejected = _refused(_run(own, config))
    return (
        f"made {len(own):,} of {len(tasks):,} shards in {config.output} (task {task}); "
        f"{len(rejected):,} clips refused; next, when all tasks are done: "
        f"psla-wds index {typed(config.output)}"
    )


def retry_rejected(clips: Sequence[Clip], classes: ClassList, config: PackConfig) -> Outcome:
    """Pack the refused clips that can be used now, after the existing shards.

    An interrupted retry can be run again: clips in a finished shard are not tried a second time.
    """
    folder = config.output
    plan = _finished_plan(folder, classes, config)
    packed = _packed_since(folder, plan["num_shards"])
    refused = {
        clip["clip_id"]: clip
        for clip in read_rejected(folder / REJECTED)
        if clip["clip_id"] not in packed
    }
    usable = _usable(clips, classes, config, refused)
    first = max([plan["num_shards"] - 1, *packed.values()]) + 1
    _delete_unfinished(folder, plan["num_shards"], set(packed.values()))
    per_shard = int(plan["layout"]["clips_per_shard"])
    tasks = plan_shards(usable, classes, folder, per_shard, config.encoding)
    results = _run(replace(tasks, first_number=first), config)
    rejected = [*refused.values(), *_refused(results)]
    index = _publish(clips, rejected, classes, config)
    return Outcome(index, rejected, list_flagged(folder))


def _begin(clips: Sequence[Clip], classes: ClassList, config: PackConfig) -> ShardTasks:
    """Tasks of a build, after its folder is made, or found to belong to the same build."""
    layout = settled_layout(clips, classes, config)
    tasks = plan_shards(clips, classes, config.output, layout.clips_per_shard, config.encoding)
    open_output(config.output, tasks, classes, layout)
    return tasks


def _refused(results: Sequence[ShardResult]) -> list[dict[str, str]]:
    return [clip for result in results for clip in result.rejected]


def _packed_since(folder: Location, first_shard: int) -> dict[str, int]:
    """Clips in retry shards, which are numbered from `first_shard`, by shard."""
    packed: dict[str, int] = {}
    tars = _numbered_from(folder, first_shard)
    for number, sidecar in zip(tars, read_sidecars(list(tars.values())), strict=True):
        packed |= {clip_id: number for clip_id in (sidecar.clips.clip_id if sidecar else ())}
    return packed


def _numbered_from(folder: Location, first_shard: int) -> dict[int, Location]:
    """Tars numbered from `first_shard`, by number."""
    names = {tar: TAR_NAME.fullmatch(tar.name) for tar in tars_in(folder)}
    tars = {int(name[1]): tar for tar, name in names.items() if name}
    return {number: tar for number, tar in sorted(tars.items()) if number >= first_shard}


def _run(tasks: ShardTasks, config: PackConfig) -> list[ShardResult]:
    """Make the shards with a progress bar of clips; results in the order of the tasks."""
    results: list[ShardResult] = []
    rejected = 0
    with progress_bar(desc="packing", total=tasks.num_clips) as bar:
        for result in _finished(tasks, config):
            results.append(result)
            rejected += len(result.rejected)
            bar.update(result.num_clips + len(result.rejected))
            bar.set_postfix(shards=f"{len(results)}/{len(tasks)}", rejected=rejected, refresh=False)
    return sorted(results, key=lambda result: result.number)


def _finished(tasks: ShardTasks, config: PackConfig) -> Iterator[ShardResult]:
    if config.engine == "local":
        return run_local(tasks, config.workers)
    file = config.scheduler_file
    return run_dask(tasks, scheduler_address(file) if file else str(config.scheduler))


def _publish(
    clips: Sequence[Clip],
    rejected: list[dict[str, str]],
    classes: ClassList,
    config: PackConfig,
    tasks: ShardTasks | None = None,
) -> ShardIndex:
    """List the refused and missing clips and, unless they are too many, write the index.

    Args:
        tasks: all tasks of the build, to name a shard that is not as planned.
    """
    folder = config.output
    covered = coverage(clips, rejected, classes)
    write_rejected(folder / REJECTED, rejected)
    write_coverage(folder / COVERAGE, covered)
    warn_of_losses(covered, folder / COVERAGE)
    fix = "repair the files and add --retry-rejected"
    if len(rejected) == len(clips):
        discard(folder)
        fix = NOTHING_PACKED
    check_rejected(
        rejected,
        len(clips),
        config.max_rejected,
        where=folder / REJECTED,
        fix=fix,
    )
    with disk_errors(folder / INDEX_FOLDER, "write the index"):
        index = merge_sidecars(folder, lambda sidecars: compared(folder, sidecars, tasks))
    at(folder).sweep()
    return index


def _warn_of_duplicates(duplicates: Iterator[tuple[str, str]]) -> None:
    for one, other in duplicates:
        logger.warning(
            "%d clips have the audio of another, such as %s that of %s; "
            "--refuse-duplicates leaves them out",
            1 + sum(1 for _ in duplicates),
            one,
            other,
        )


def _finished_plan(folder: Location, classes: ClassList, config: PackConfig) -> dict[str, Any]:
    """Plan of the build to retry; `ConfigError` if it is another build's."""
    plan = read_plan(folder)
    if plan is None or missing_shards(folder):
        raise ConfigError(
            "no build was finished here",
            where=folder,
            fix="run the same command without --retry-rejected first",
        )
    wanted = asdict(as_begun(config.layout, folder))
    if config.shard_mib is not None:
        wanted["clips_per_shard"] = plan["layout"]["clips_per_shard"]
    settings = {"layout": wanted, "encoding": asdict(config.encoding)}
    require_same(plan, settings, ("layout", "encoding"), folder)
    check_class_list(folder, classes)
    return plan


def _usable(
    clips: Sequence[Clip],
    classes: ClassList,
    config: PackConfig,
    refused: dict[str, dict[str, str]],
) -> list[Clip]:
    """Refused clips that can be used now; `refused` keeps the others with their new reason."""
    known = KnownAudio(config.output) if config.refuse_duplicates else None
    # Fatal clips would end this process as well.
    tried = {name for name, clip in refused.items() if clip.get("reason") != "fatal"}
    waiting = [clip for clip in clips if clip.clip_id in tried]
    usable = []
    for clip in progress_bar(waiting, desc="trying refused clips"):
        mids = tuple(classes.mids[label] for label in clip.labels)
        try:
            packed, _ = pack_clip(clip, mids, config.encoding)
            if known and (first := known.add(packed)) is not None:
                raise ClipRefusedError("duplicate", f"the same audio as clip {first}")
        except ClipRefusedError as error:
            refused[clip.clip_id] = refusal_of(clip, error)
        else:
            usable.append(clip)
            del refused[clip.clip_id]
    return usable


def _delete_unfinished(folder: Location, first_shard: int, finished: set[int]) -> None:
    """Shards of an interrupted retry, which no later retry would complete."""
    for number, tar in _numbered_from(folder, first_shard).items():
        if number not in finished:
            at(sidecar_path(tar)).remove()
            at(tar).remove()
