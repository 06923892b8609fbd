"""Forecast of a build from a sample of its clips: sizes, shards, time."""

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from psla_wds.errors import ClipRefusedError
from psla_wds.labels.class_list import ClassList
from psla_wds.labels.manifest import Clip
from psla_wds.progress import progress_bar
from psla_wds.text_table import counted, of_bytes, of_seconds
from sharding.packing.config import PackConfig
from sharding.packing.plan import Layout, as_begun, read_plan
from sharding.packing.reports import ELSEWHERE, NOTHING_PACKED, check_rejected
from sharding.packing.shard import Encoding, pack_clip, refusal_of

SAMPLE_CLIPS = 64
TAR_BLOCK = 512
HEADERS = 3 * TAR_BLOCK
"""Bytes of a clip in a tar besides its audio: two headers and the block of its JSON."""


@dataclass
class Sample:
    """Result of packing some clips without writing them."""

    num_packed: int = 0
    size_bytes: int = 0
    """Size of the packed clips in a tar, in bytes."""
    elapsed_s: float = 0.0
    rejected: list[dict[str, str]] = field(default_factory=list)
    """Refused clips with their reasons."""

    @property
    def num_clips(self) -> int:
        return self.num_packed + len(self.rejected)

    @property
    def refused(self) -> Counter[str]:
        """Number of refused clips by reason."""
        return Counter(clip["reason"] for clip in self.rejected)

    @property
    def clip_bytes(self) -> float:
        """Mean size of a packed clip in the tar."""
        return self.size_bytes / max(self.num_packed, 1)


def try_sample(clips: Sequence[Clip], classes: ClassList, encoding: Encoding) -> Sample:
    """Decode and encode the first clips; they are in random order."""
    sample, started = Sample(), time.perf_counter()
    for clip in progress_bar(clips[:SAMPLE_CLIPS], desc="trying a sample"):
        mids = tuple(classes.mids[label] for label in clip.labels)
        try:
            packed, _ = pack_clip(clip, mids, encoding)
        except ClipRefusedError as error:
            sample.rejected.append(refusal_of(clip, error))
        else:
            sample.num_packed += 1
            sample.size_bytes += -(-len(packed.audio) // TAR_BLOCK) * TAR_BLOCK + HEADERS
    sample.elapsed_s = time.perf_counter() - started
    return sample


def settled_layout(clips: Sequence[Clip], classes: ClassList, config: PackConfig) -> Layout:
    """Layout with a number of clips per shard for --shard-mib: from a sample at first, later as
    begun."""
    layout = as_begun(config.layout, config.output)
    if layout.shard_mib is None:
        return layout
    begun = read_plan(config.output)
    if begun and begun["layout"].get("shard_mib") == layout.shard_mib:
        return replace(layout, clips_per_shard=int(begun["layout"]["clips_per_shard"]))
    clip_bytes = try_sample(clips, classes, config.encoding).clip_bytes
    fitting = round(layout.shard_mib * 2**20 / max(clip_bytes, HEADERS))
    return replace(layout, clips_per_shard=max(1, fitting))


def forecast(clips: Sequence[Clip], classes: ClassList, config: PackConfig) -> str:
    """Text that --dry-run prints; `ManifestError` if none of the clips tried can be used."""
    sample = try_sample(clips, classes, config.encoding)
    check_rejected(
        sample.rejected, sample.num_clips, 1.0, where=clips[0].source, fix=NOTHING_PACKED
    )
    share = sample.num_packed / sample.num_clips
    size_bytes = len(clips) * share * sample.clip_bytes
    num_shards = -(-len(clips) // settled_layout(clips, classes, config).clips_per_shard)
    seconds = len(clips) * sample.elapsed_s / sample.num_clips / config.workers
    counts, used = _counted(clips)
    splits = ", ".join(f"{name} {n:,}" for name, n in sorted(counts.items()))
    refused = ", ".join(f"{n} {reason}" for reason, n in sample.refused.most_common()) or "none"
    missing = sample.refused["missing"]
    lost = f"{missing} of {sample.num_clips} files tried are missing ({ELSEWHERE}); "
    return "\n".join(
        [
            f"clips    {len(clips):,} ({splits})",
            f"classes  {len(classes):,}, {len(used):,} of them with clips",
            f"shards   {num_shards:,}",
            f"size     about {of_bytes(size_bytes)}",
            f"time     about {of_seconds(seconds)} with {counted(config.workers, 'worker')}",
            f"refused  {refused}, of {counted(sample.num_clips, 'clip')} tried; size and time are "
            "from these",
            f"nothing was written; {lost if missing else ''}next: the same command without "
            "--dry-run",
        ]
    )


def _counted(clips: Iterable[Clip]) -> tuple[Counter[str], set[int]]:
    """Number of clips of each split, and the classes that have clips."""
    counts: Counter[str] = Counter()
    used: set[int] = set()
    for clip in clips:
        counts[clip.split or "(none)"] += 1
        used.update(clip.labels)
    return counts, used
