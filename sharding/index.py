"""Index a folder of shards, or of tars that others built.

    psla-wds index SHARDS [--class-labels CSV]
        [--labels TABLE --key COLUMN --label-column COLUMN | --label-key NAME]

psla-wds build ends with this step, except for the tasks of an array (--task): when all of them are
done, this command joins their shards. It also restores a lost index. WebDataset tars from elsewhere
(KEY.flac, .wav, .ogg, .opus or .aiff, with labels in KEY.json, .cls or .txt, or in a table beside
the tars) are scanned, and each gets a sidecar; the tars do not change.
"""

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Annotated

import numpy as np
from jaxtyping import Int64
from tyro.conf import Positional

from psla_wds import cli
from psla_wds.cli import LocationArg
from psla_wds.config import Within, check_ranges
from psla_wds.errors import ConfigError, ManifestError, ShardError
from psla_wds.io.atomic_files import disk_errors
from psla_wds.io.locations import Location
from psla_wds.io.stores import at
from psla_wds.labels.class_list import ClassList, read_class_list, write_class_list
from psla_wds.printable import typed
from psla_wds.progress import progress_bar
from psla_wds.shards.index import ShardIndex
from psla_wds.shards.index_files import CLASS_LABELS, INDEX_FOLDER, META
from psla_wds.shards.merge import merge_sidecars
from psla_wds.shards.tar import Sidecar, read_sidecar, read_sidecars, tars_in, write_sidecar
from psla_wds.text_table import counted
from sharding.foreign.labels import LabelRules
from sharding.foreign.scan import (
    has_ids_by_tar,
    has_keys_as_ids,
    is_current,
    is_foreign,
    scan,
)
from sharding.foreign.tar_members import REPACK, require_plain
from sharding.packing.plan import PLAN_FILE, check_complete, compared, discard
from sharding.packing.reports import (
    FLAGGED,
    NOTHING_PACKED,
    REJECTED,
    check_rejected,
    list_flagged,
    write_rejected,
)
from sharding.sources.label_table import LabelOptions, LabelTable

SORTED_BY_CLASS = 0.2
"""Limit of `class_separation`: as if each tar held five of very many classes."""

logger = logging.getLogger("sharding.index")


@dataclass(frozen=True)
class Args(LabelOptions):
    shards: Positional[LocationArg]
    """Folder of the shards, or its URL."""
    class_labels: LocationArg | None = None
    """CSV of the classes: index,mid,display_name. It is copied into the folder; needed if the
    folder has none."""
    max_rejected: Annotated[float, Within(0, 1)] = 0.01
    """Share of clips that may be unusable before the command fails."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self)


class KeysRepeatError(Exception):
    """Keys are unique only within their tar, so ids need the name of the tar."""


@dataclass
class Found:
    """Clips found in the tars of a folder so far."""

    tars_of_keys: set[str] = field(default_factory=set)
    """Names of the tars with clips whose ids are bare keys."""
    tar_of: dict[str, str] = field(default_factory=dict)
    """Name of the tar for each clip id."""
    rates: Counter[int] = field(default_factory=Counter)
    """Number of clips of each sample rate in Hz."""
    rejected: list[dict[str, str]] = field(default_factory=list)
    num_scanned: int = 0
    """Tars without a current sidecar."""
    flagged: str = ""
    """Numbers of clips that array tasks packed and that are odd, for people."""

    def add(self, sidecar: Sidecar, rates: Counter[int]) -> None:
        if has_keys_as_ids(sidecar):
            self.tars_of_keys.add(sidecar.shard)
        for clip_id in sidecar.clips.clip_id:
            if clip_id in self.tar_of:
                if self.tars_of_keys & {sidecar.shard, self.tar_of[clip_id]}:
                    raise KeysRepeatError
                raise ManifestError(
                    f"clip id {clip_id!r} appears twice",
                    where=f"{self.tar_of[clip_id]} and {sidecar.shard}",
                    fix=f"give each clip a clip_id of its own in its .json, or {REPACK}",
                )
            self.tar_of[clip_id] = sidecar.shard
        self.rates += rates
        self.rejected += sidecar.rejected


def make_index(
    shards: Location,
    class_labels: Location | None = None,
    *,
    max_rejected: float = 0.01,
    options: LabelOptions | None = None,
) -> tuple[ShardIndex, Found]:
    """Index of a folder, after scanning each foreign tar without a sidecar, and the findings.

    Args:
        options: where the labels of foreign tars are.
    """
    at(shards).require_writable()
    if not at(shards).is_folder():
        raise ConfigError("there is no such folder", where=shards, fix="check the path")
    check_complete(shards)
    # The tasks of an array leave publishing to this command; one build publishes by itself.
    is_unpublished = is_build(shards) and at(shards / INDEX_FOLDER / META).size() is None
    if is_unpublished:
        _check_refused(shards, max_rejected)
    if not is_build(shards):
        require_plain(shards)
    foreign, found = foreign_tars(shards), Found()
    if foreign or (class_labels and tars_in(shards)):
        classes = _class_list(shards, class_labels)
        if foreign:
            found = _describe(shards, (options or LabelOptions()).rules(classes))
            _check(shards, found, max_rejected)
        if CLASS_LABELS not in at(shards).entries():
            with disk_errors(shards / CLASS_LABELS, "write the class list"):
                write_class_list(classes, shards / CLASS_LABELS)
    with disk_errors(shards / INDEX_FOLDER, "write the index"):
        index = merge_sidecars(shards, lambda sidecars: compared(shards, sidecars))
    if foreign:
        _warn_if_sorted(index)
    if is_unpublished:
        found.flagged = list_flagged(shards)
        at(shards).sweep()
    return index, found


def _check_refused(shards: Location, max_rejected: float) -> None:
    """List the clips that the tasks of an array refused, from the sidecars, except those that a
    retry packed."""
    refused, num_packed = dict[str, dict[str, str]](), 0
    tars = tars_in(shards)
    for sidecar in progress_bar(
        read_sidecars(tars), desc="refused clips", total=len(tars), unit="shard"
    ):
        if sidecar:
            refused |= {clip["clip_id"]: clip for clip in sidecar.rejected}
            num_packed += len(sidecar.clips.clip_id)
            for clip_id in sidecar.clips.clip_id:
                refused.pop(clip_id, None)
    rejected, where = list(refused.values()), shards / REJECTED
    write_rejected(where, rejected)
    fix = "repair the files and run psla-wds build with --retry-rejected"
    if not num_packed:
        discard(shards)
        fix = NOTHING_PACKED
    check_rejected(rejected, num_packed + len(rejected), max_rejected, where=where, fix=fix)


def is_build(shards: Location) -> bool:
    """Whether psla-wds build made, or began, this folder."""
    return at(shards / PLAN_FILE).size() is not None


def foreign_tars(shards: Location) -> list[Location]:
    """Tars that psla-wds build did not make; empty if the folder is a build's."""
    if is_build(shards):
        return []
    tars = tars_in(shards)
    found = zip(tars, read_sidecars(tars), strict=True)
    return [tar for tar, sidecar in found if sidecar is None or is_foreign(sidecar)]


def class_separation(
    counts: Int64[np.ndarray, "shards classes"], sizes: Int64[np.ndarray, " shards"]
) -> float:
    """How much a clip's tar says about its classes: 0 if tars are shuffled, 1 if each has one
    class.

    The share of the variance of the targets that lies between tars (Wright's fixation index),
    estimated from pairs of clips of one tar, so that small tars do not look sorted by chance.

    Args:
        counts: clips of each class per tar.
        sizes: clips per tar.
    """
    pairs = (sizes * (sizes - 1)).sum()
    share = counts.sum(axis=0) / sizes.sum()
    variance = (share * (1 - share)).sum()
    if not pairs or not variance:
        return 0.0
    share_of_pairs = (counts * (counts - 1)).sum(axis=0) / pairs
    return float((share_of_pairs - share**2).sum() / variance)


def _class_list(shards: Location, class_labels: Location | None) -> ClassList:
    """Classes of --class-labels, which must agree with those in the folder."""
    present = shards / CLASS_LABELS
    classes = read_class_list(class_labels or present)
    if at(present).size() is not None and read_class_list(present) != classes:
        raise ConfigError(
            "the folder has another class list",
            where=f"{present} and {class_labels}",
            fix=f"leave --class-labels out, or delete {present}",
        )
    return classes


def _describe(shards: Location, rules: LabelRules) -> Found:
    """What the tars hold, once each foreign tar has a sidecar."""
    try:
        return _look_at_all(shards, rules)
    except KeysRepeatError:
        logger.info("keys begin anew in each tar: ids of clips begin with the name of their tar")
        return _look_at_all(shards, replace(rules, by_tar=True))


def _look_at_all(shards: Location, rules: LabelRules) -> Found:
    tars, found = tars_in(shards), Found()
    table = rules.elsewhere if isinstance(rules.elsewhere, LabelTable) else None
    if table:
        table.forget()
    with progress_bar(desc="scanning") as bar:
        for number, tar in enumerate(tars, 1):
            _look_at(tar, rules, found, bar.update)
            bar.set_postfix(tars=f"{number}/{len(tars)}", rejected=len(found.rejected))
    if table:
        table.warn_of_unused()
    return found


def _check(shards: Location, found: Found, max_rejected: float) -> None:
    """Refuse sets of tars that cannot be loaded together."""
    write_rejected(shards / REJECTED, found.rejected)
    num_clips = len(found.tar_of) + len(found.rejected)
    if not num_clips:
        raise ManifestError("the tars have no clips", where=shards, fix="check the folder")
    fix = f"mend the tars, or {REPACK}"
    where = shards / REJECTED
    check_rejected(found.rejected, num_clips, max_rejected, where=where, fix=fix)
    if len(found.rates) > 1:
        rates = ", ".join(f"{n:,} at {hz:,} Hz" for hz, n in found.rates.most_common())
        raise ShardError(f"the clips have several sample rates: {rates}", where=shards, fix=REPACK)


def _look_at(
    tar: Location, rules: LabelRules, found: Found, progress: Callable[[], object]
) -> None:
    """Add the clips of a tar, from its sidecar if that is current, else from a scan."""
    sidecar = read_sidecar(tar)
    if sidecar and (not is_foreign(sidecar) or is_current(sidecar, tar, rules)):
        if has_ids_by_tar(sidecar) and not rules.by_tar:
            raise KeysRepeatError
        if not (has_keys_as_ids(sidecar) and rules.by_tar):
            found.add(sidecar, Counter({sidecar.sample_rate_hz: len(sidecar.clips.clip_id)}))
            if isinstance(rules.elsewhere, LabelTable) and is_foreign(sidecar):
                rules.elsewhere.recall(sidecar.clips.clip_id, tar.stem)
            return
    scanned = scan(tar, rules, progress)
    found.num_scanned += 1
    found.add(scanned.sidecar, scanned.rates)
    if len(scanned.rates) < 2:
        with disk_errors(tar, "write the sidecar"):
            write_sidecar(tar, scanned.sidecar)


def _warn_if_sorted(index: ShardIndex) -> None:
    num_shards, num_classes = len(index.shards), len(index.classes)
    shard_of_label = np.repeat(index.shard.astype(np.int64), np.diff(index.label_starts))
    cells = shard_of_label * num_classes + index.label_values
    counts = np.bincount(cells, minlength=num_shards * num_classes)
    sizes = np.bincount(index.shard, minlength=num_shards)
    separation = class_separation(counts.reshape(num_shards, num_classes), sizes)
    if separation > SORTED_BY_CLASS:
        logger.warning(
            "the tars are sorted by class (separation %.2f; 0 if shuffled, 1 with a class a tar). "
            "Draws here are not affected, but readers that stream tars are, and a single tar is "
            "not a fair sample; psla-wds build shuffles",
            separation,
        )


def main() -> None:
    args = cli.parse(Args, __doc__, prog="index")
    index, found = make_index(
        args.shards, args.class_labels, max_rejected=args.max_rejected, options=args
    )
    scanned = f"; {found.num_scanned:,} scanned, {len(found.rejected):,} clips refused"
    flagged = f"; flagged: {found.flagged} ({FLAGGED})" if found.flagged else ""
    print(
        f"wrote the index of {counted(len(index), 'clip')} in "
        f"{counted(len(index.shards), 'shard')} to "
        f"{args.shards}{scanned if found.tar_of else ''}{flagged}; "
        f"next: psla-wds check {typed(args.shards)}"
    )


if __name__ == "__main__":
    cli.run(main)
