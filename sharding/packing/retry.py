"""Clips that were refused, tried again: those that can be used now become new shards."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from psla_wds.audio.decode import ClipRefusedError
from psla_wds.errors import ConfigError
from psla_wds.io.locations import Location
from psla_wds.io.stores import at
from psla_wds.labels.class_list import ClassList
from psla_wds.labels.manifest import Clip
from psla_wds.progress import progress_bar
from psla_wds.shards.tar import sidecar_path
from sharding.packing.config import PackConfig
from sharding.packing.duplicates import KnownAudio
from sharding.packing.pack_all import (
    Outcome,
    check_classes,
    numbered_from,
    packed_since,
    publish,
    run,
)
from sharding.packing.plan import missing_shards, plan_shards, read_plan, require_same
from sharding.packing.reports import REJECTED, read_rejected
from sharding.packing.shard import pack_clip, refusal_of


def retry_rejected(clips: Sequence[Clip], classes: ClassList, config: PackConfig) -> Outcome:
    """Pack the refused clips that can be used now, after the shards that there are.

    Interrupted, it can be run again: what is in a finished shard is not tried a second time.
    """
    folder = config.output
    plan = _finished_plan(folder, config)
    check_classes(folder, classes)
    packed = packed_since(folder, plan["num_shards"])
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
    results = run(replace(tasks, first_number=first), config)
    again = [clip for result in results for clip in result.rejected]
    index = publish(clips, [*refused.values(), *again], classes, config)
    return Outcome(index, [*refused.values(), *again])


def _finished_plan(folder: Location, config: PackConfig) -> dict[str, Any]:
    plan = read_plan(folder)
    if plan is None or missing_shards(folder):
        raise ConfigError(
            "no build was finished here",
            where=folder,
            fix="run the same command without --retry-rejected first",
        )
    wanted = asdict(config.layout)
    if config.shard_mib is not None:
        wanted["clips_per_shard"] = plan["layout"]["clips_per_shard"]
    settings = {"layout": wanted, "encoding": asdict(config.encoding)}
    require_same(plan, settings, ("layout", "encoding"), folder)
    return plan


def _usable(
    clips: Sequence[Clip],
    classes: ClassList,
    config: PackConfig,
    refused: dict[str, dict[str, str]],
) -> list[Clip]:
    """The refused clips that can be used now; `refused` keeps the others, with their new reason."""
    known = KnownAudio(config.output) if config.refuse_duplicates else None
    waiting = [clip for clip in clips if clip.clip_id in refused]
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
    """Shards of a retry that was interrupted, which no later one would complete."""
    for number, tar in numbered_from(folder, first_shard).items():
        if number not in finished:
            at(sidecar_path(tar)).remove()
            at(tar).remove()
