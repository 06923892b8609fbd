"""One shard: decode, resample, check and encode its clips, write the tar, then its sidecar."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import soundfile
import soxr

from psla_wds.audio import ClipRefusedError, Codec, encode_clip, load_clip
from psla_wds.errors import ShardError
from psla_wds.manifest import Clip
from psla_wds.shards import (
    SHARD_NAME,
    ClipColumns,
    PackedClip,
    Sidecar,
    read_sidecar,
    sha256_of,
    write_sidecar,
    write_tar,
)


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """The form of the audio in the shards."""

    codec: Codec
    sample_rate_hz: int
    min_clip_s: float


@dataclass(frozen=True)
class ShardTask:
    """The work that makes one shard; it depends on nothing else, and can be done again."""

    number: int
    folder: Path
    clips: tuple[Clip, ...]
    mids: tuple[str, ...]
    """Of all classes, by position."""
    encoding: Encoding

    @property
    def tar(self) -> Path:
        return self.folder / SHARD_NAME.format(number=self.number)

    def fingerprint(self) -> str:
        """Equal for equal work: the same clips of the same files in the same form."""
        clips = [
            [c.clip_id, str(c.path), self.mids_of(c), c.split, c.source, c.start_s, str(c.end_s)]
            for c in self.clips
        ]
        work = json.dumps([asdict(self.encoding), clips])
        return hashlib.sha256(work.encode()).hexdigest()

    def mids_of(self, clip: Clip) -> tuple[str, ...]:
        return tuple(self.mids[label] for label in clip.labels)


@dataclass(frozen=True)
class ShardResult:
    """What came of a task."""

    number: int
    num_clips: int
    rejected: list[dict[str, str]]
    already_done: bool


Progress = Callable[[bool], None]
"""Called for each clip, with whether it was packed."""


def pack_shard(task: ShardTask, progress: Progress) -> ShardResult:
    """Make the shard, unless it is there already: a shard is done if its sidecar says so."""
    sidecar = finished_sidecar(task)
    if sidecar:
        return ShardResult(task.number, len(sidecar.clips.clip_id), sidecar.rejected, True)
    rejected: list[dict[str, str]] = []
    try:
        columns = write_tar(task.tar, _packed_clips(task, rejected, progress))
        write_sidecar(task.tar, _sidecar(task, columns, rejected))
    except OSError as error:
        raise ShardError(
            f"cannot write the shard: {error.strerror}",
            where=task.tar,
            fix="make room or give write access, and run the same command again: it goes on",
        ) from None
    return ShardResult(task.number, len(columns.clip_id), rejected, False)


def _sidecar(task: ShardTask, columns: ClipColumns, rejected: list[dict[str, str]]) -> Sidecar:
    return Sidecar(
        shard=task.tar.name,
        task=task.fingerprint(),
        size_bytes=task.tar.stat().st_size,
        sha256=sha256_of(task.tar),
        sample_rate_hz=task.encoding.sample_rate_hz,
        clips=columns,
        rejected=rejected,
        versions={"libsndfile": soundfile.__libsndfile_version__, "soxr": soxr.__version__},
    )


def finished_sidecar(task: ShardTask) -> Sidecar | None:
    """The sidecar of this very work, if the shard stands."""
    sidecar = read_sidecar(task.tar) if task.tar.exists() else None
    if sidecar is None or sidecar.task != task.fingerprint():
        return None
    return sidecar if task.tar.stat().st_size == sidecar.size_bytes else None


def _packed_clips(
    task: ShardTask, rejected: list[dict[str, str]], progress: Progress
) -> Iterator[PackedClip]:
    for clip in task.clips:
        try:
            packed = _pack(clip, task)
        except ClipRefusedError as error:
            rejected.append(
                {
                    "clip_id": clip.clip_id,
                    "path": str(clip.path),
                    "source": clip.source,
                    "reason": error.reason,
                    "detail": str(error),
                }
            )
            progress(False)
        else:
            progress(True)
            yield packed


def _pack(clip: Clip, task: ShardTask) -> PackedClip:
    encoding = task.encoding
    rate_hz = encoding.sample_rate_hz
    waveform = load_clip(clip.path, start_s=clip.start_s, end_s=clip.end_s, sample_rate_hz=rate_hz)
    if len(waveform) < encoding.min_clip_s * rate_hz:
        length = f"{len(waveform) / rate_hz:.3f} s"
        raise ClipRefusedError("too-short", f"{length}, shorter than {encoding.min_clip_s:g} s")
    return PackedClip(
        clip_id=clip.clip_id,
        audio=encode_clip(waveform, sample_rate_hz=rate_hz, codec=encoding.codec),
        extension=encoding.codec,
        num_samples=len(waveform),
        sample_rate_hz=rate_hz,
        mids=task.mids_of(clip),
        split=clip.split,
        source=Path(clip.source).name,
    )
