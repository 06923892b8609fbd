"""One shard: decode, resample, check and encode its clips, write the tar, then its sidecar."""

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, astuple, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import soundfile
import soxr

from psla_wds.audio import libav
from psla_wds.audio.encode import EXTENSIONS, Codec, encode_clip
from psla_wds.audio.files import Notes
from psla_wds.audio.quality import SILENT_DBFS, level_dbfs
from psla_wds.errors import ClipRefusedError
from psla_wds.io.atomic_files import disk_errors
from psla_wds.io.locations import Location
from psla_wds.io.stores import at
from psla_wds.labels.manifest import WHOLE_ID, Clip
from psla_wds.runtime.memory import keep_freed_memory
from psla_wds.shards.tar import (
    SHARD_NAME,
    PackedClip,
    Sidecar,
    WrittenTar,
    read_sidecar,
    write_sidecar,
    write_tar,
)
from sharding.packing.decode import decode

KEPT_BYTES = 2**26
"""Freed memory that a worker keeps for the next clip: far more than a clip of 10 s takes."""
CLIP_FIELDS = tuple(one.name for one in fields(Clip) if one.name not in ("suffix", "group"))
"""Fields that decide what a clip becomes."""


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """The form of the audio in the shards, and which clips are refused."""

    codec: Codec
    sample_rate_hz: int
    min_clip_s: float
    max_clip_s: float | None
    """Length in seconds to which clips are cut; None keeps all."""
    keep_unlabelled: bool
    refuse_silent: bool


@dataclass(frozen=True)
class ShardTask:
    """A task that makes one shard; it depends on nothing else and can be repeated."""

    number: int
    folder: Location
    clips: tuple[Clip, ...]
    mids: tuple[str, ...]
    """Mids of all classes, by position."""
    encoding: Encoding
    duplicates: dict[str, str] = field(default_factory=dict)
    """Clips to refuse, each with the clip whose audio it repeats."""
    fatal: frozenset[str] = frozenset()
    """Clips to refuse, since the process that decoded them died twice. Not a part of the
    fingerprint: that a process dies does not make it another task."""

    @property
    def tar(self) -> Location:
        return self.folder / SHARD_NAME.format(number=self.number)

    def fingerprint(self) -> str:
        """Fingerprint of the task: the same clips of the same files in the same form."""
        clips = [_described(clip, self.mids_of(clip)) for clip in self.clips]
        work = [asdict(self.encoding), clips, *filter(None, [self.duplicates])]
        return hashlib.sha256(json.dumps(work, default=str).encode()).hexdigest()

    def mids_of(self, clip: Clip) -> tuple[str, ...]:
        return tuple(self.mids[label] for label in clip.labels)


@dataclass(frozen=True)
class ShardResult:
    """Result of a task."""

    number: int
    num_clips: int
    rejected: list[dict[str, str]]


def _described(clip: Clip, mids: tuple[str, ...]) -> list[Any]:
    """All fields of a clip, with the mids of its labels in place of their positions."""
    values = {name: getattr(clip, name) for name in CLIP_FIELDS}
    part = astuple(clip.part) if clip.part else None
    return [*(values | {"path": str(clip.path), "labels": (), "part": part}).values(), mids]


@dataclass
class _Findings:
    """What showed about the clips of a shard while they were packed."""

    rejected: list[dict[str, str]] = field(default_factory=list)
    flags: dict[str, dict[str, str]] = field(default_factory=dict)
    by_libav: bool = False

    def add(self, clip_id: str, notes: Notes) -> None:
        for flag, detail in notes.flags.items():
            self.flags.setdefault(flag, {})[clip_id] = detail
        self.by_libav |= notes.by_libav


def pack_shard(task: ShardTask, begin: Callable[[int], object] = lambda row: None) -> ShardResult:
    """Make the shard, unless its sidecar shows that it is done.

    Args:
        begin: called with the position of each clip in the task before it is decoded.
    """
    sidecar = finished_sidecar(task)
    if sidecar is None:
        keep_freed_memory(KEPT_BYTES)
        findings = _Findings()
        with disk_errors(task.tar, "write the shard"):
            written = write_tar(task.tar, _packed(task, findings, begin))
            sidecar = _sidecar(task, written, findings)
            write_sidecar(task.tar, sidecar)
    return ShardResult(task.number, len(sidecar.clips.clip_id), sidecar.rejected)


def _packed(
    task: ShardTask, findings: _Findings, begin: Callable[[int], object]
) -> Iterator[PackedClip]:
    """Yield the usable clips; the findings list the others."""
    for row, clip in enumerate(task.clips):
        begin(row)
        try:
            if clip.clip_id in task.duplicates:
                original = task.duplicates[clip.clip_id]
                raise ClipRefusedError("duplicate", f"the same audio as clip {original}")
            if clip.clip_id in task.fatal:
                raise ClipRefusedError("fatal", "the process that decoded it died, twice")
            packed, notes = pack_clip(clip, task.mids_of(clip), task.encoding)
        except ClipRefusedError as error:
            findings.rejected.append(refusal_of(clip, error))
        else:
            findings.add(clip.clip_id, notes)
            yield packed


def _sidecar(task: ShardTask, written: WrittenTar, findings: _Findings) -> Sidecar:
    versions = {"libsndfile": soundfile.__libsndfile_version__, "soxr": soxr.__version__}
    if findings.by_libav:
        versions["pyav"] = libav.version()
    return Sidecar(
        shard=task.tar.name,
        task=task.fingerprint(),
        size_bytes=written.size_bytes,
        sha256=written.sha256,
        sample_rate_hz=task.encoding.sample_rate_hz,
        clips=written.clips,
        rejected=findings.rejected,
        versions=versions,
        silent=[*findings.flags.pop("silent", {})],
        flags=findings.flags,
    )


def finished_sidecar(task: ShardTask) -> Sidecar | None:
    """Sidecar of this same task, if the shard is complete."""
    sidecar = read_sidecar(task.tar)
    if sidecar is None or sidecar.task != task.fingerprint():
        return None
    return sidecar if at(task.tar).size() == sidecar.size_bytes else None


def pack_clip(clip: Clip, mids: tuple[str, ...], encoding: Encoding) -> tuple[PackedClip, Notes]:
    """Decode, check and encode a clip; returns it with what is odd about its audio, or raises
    `ClipRefusedError`, also where its audio takes more memory than there is."""
    try:
        return _pack_clip(clip, mids, encoding)
    except MemoryError as error:
        raise ClipRefusedError("no-memory", str(error) or "there is not enough memory") from None


def _pack_clip(clip: Clip, mids: tuple[str, ...], encoding: Encoding) -> tuple[PackedClip, Notes]:
    rate_hz, max_s = encoding.sample_rate_hz, encoding.max_clip_s or math.inf
    if not mids and encoding.keep_unlabelled and clip.refusal and clip.refusal[0] == "no-label":
        clip = replace(clip, refusal=None)
    if not mids and not clip.refusal and not encoding.keep_unlabelled:
        raise ClipRefusedError("no-label", "the clip has no label; --keep-unlabelled packs it")
    notes = Notes()
    waveform = decode(clip, sample_rate_hz=rate_hz, max_s=max_s, notes=notes)
    if len(waveform) < encoding.min_clip_s * rate_hz:
        length = f"{len(waveform) / rate_hz:.3f} s"
        raise ClipRefusedError("too-short", f"{length}, shorter than {encoding.min_clip_s:g} s")
    level = level_dbfs(waveform)
    if level < SILENT_DBFS:
        notes.flags["silent"] = f"{level:.0f} dBFS, below {SILENT_DBFS:g}"
        if encoding.refuse_silent:
            raise ClipRefusedError("silent", notes.flags["silent"])
    packed = PackedClip(
        clip_id=clip.clip_id,
        audio=encode_clip(waveform, sample_rate_hz=rate_hz, codec=encoding.codec),
        extension=EXTENSIONS[encoding.codec],
        num_samples=len(waveform),
        sample_rate_hz=rate_hz,
        mids=mids,
        split=clip.split,
        source=_source(clip),
    )
    return packed, notes


def _source(clip: Clip) -> str:
    """Where a clip comes from, less folders of this machine, and its whole id if that is long."""
    place, mark, whole_id = clip.source.partition(WHOLE_ID)
    return Path(place).name + mark + whole_id


def refusal_of(clip: Clip, error: ClipRefusedError) -> dict[str, str]:
    """A line of rejected.jsonl."""
    return {
        "clip_id": clip.clip_id,
        "path": str(clip.path),
        "source": clip.source,
        "reason": error.reason,
        "detail": str(error),
    }
