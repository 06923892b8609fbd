"""Tar shards: plain WebDataset archives, each with a sidecar that lists its clips and their
positions.

A clip is two members, `KEY.flac` (or another codec) and `KEY.json`. The sidecar is written last and
publishes the shard: a tar without it does not count. Format: docs/format.md.
"""

import hashlib
import io
import json
import re
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from itertools import chain
from pathlib import Path
from typing import IO, Any

from isal.isal_zlib import crc32

from psla_wds.errors import DAMAGE, ShardError
from psla_wds.io.locations import Location
from psla_wds.io.stores import at

FORMAT_VERSION = 1
SHARD_NAME = "shard-{number:06d}.tar"
SIDECARS_AT_ONCE = 32
BUFFER_BYTES = 2**20
"""Bytes of a shard that are hashed and written at once."""
MAX_SAMPLE_RATE_HZ = 2**32 - 1
"""Largest sample rate of an audio header; WAV has 32 bits for it."""


@dataclass(frozen=True)
class PackedClip:
    """A clip ready to be packed: encoded, labelled."""

    clip_id: str
    audio: bytes
    extension: str
    num_samples: int
    sample_rate_hz: int
    mids: tuple[str, ...]
    split: str
    source: str

    def metadata(self) -> dict[str, Any]:
        """Content of `KEY.json`."""
        return {
            "clip_id": self.clip_id,
            "labels": list(self.mids),
            "duration_s": self.num_samples / self.sample_rate_hz,
            "sample_rate_hz": self.sample_rate_hz,
            "split": self.split,
            "source": self.source,
        }


@dataclass(frozen=True)
class ClipColumns:
    """Entry i of every list describes the clip at position i in the tar."""

    clip_id: list[str] = field(default_factory=list)
    offset: list[int] = field(default_factory=list)
    """First byte of the audio in the tar, past the tar header."""
    size: list[int] = field(default_factory=list)
    """Size of the encoded audio in bytes."""
    crc32: list[int] = field(default_factory=list)
    """Checksum of the encoded audio."""
    num_samples: list[int] = field(default_factory=list)
    mids: list[list[str]] = field(default_factory=list)
    split: list[str] = field(default_factory=list)

    def add(self, clip: PackedClip) -> None:
        """A clip in the tar; its offset is read back when the tar is complete."""
        self.clip_id.append(clip.clip_id)
        self.size.append(len(clip.audio))
        self.crc32.append(crc32(clip.audio))
        self.num_samples.append(clip.num_samples)
        self.mids.append(list(clip.mids))
        self.split.append(clip.split)


ENTRY_TYPES = {"clip_id": str, "mids": list, "mid": str, "split": str}
"""Columns of text; the others are integers."""
LARGEST = {"crc32": 2**32 - 1}
"""Upper bounds of the columns that the index stores in fewer bits."""


@dataclass(frozen=True, kw_only=True)
class Sidecar:
    """Description of a complete shard."""

    shard: str
    """File name of the tar."""
    task: str
    """Fingerprint of the task that made it; a task already done is not repeated."""
    size_bytes: int
    sha256: str
    sample_rate_hz: int
    """Sample rate of all clips; 0 for a tar from elsewhere without clips."""
    clips: ClipColumns
    rejected: list[dict[str, str]]
    """Clips refused while packing: clip_id, path, source, reason, detail."""
    versions: dict[str, str]
    """Versions of the libraries that decoded, resampled and encoded."""
    silent: list[str] = field(default_factory=list)
    """Ids of clips that are nearly silent but were packed."""
    flags: dict[str, dict[str, str]] = field(default_factory=dict)
    """What is odd about clips that were packed: flag, clip id, detail."""
    format_version: int = FORMAT_VERSION

    def to_json(self) -> dict[str, Any]:
        class_counts = Counter(mid for mids in self.clips.mids for mid in mids)
        summary = {
            "num_clips": len(self.clips.clip_id),
            "duration_s": sum(self.clips.num_samples) / max(self.sample_rate_hz, 1),
            "class_counts": dict(sorted(class_counts.items())),
        }
        written = asdict(self) | summary
        if not self.flags:
            del written["flags"]
        return written

    def flagged(self) -> Iterator[tuple[str, str, str]]:
        """Clip id, flag and detail of what is odd about packed clips; being silent is one."""
        yield from ((clip_id, "silent", "") for clip_id in self.silent)
        for flag, clips in self.flags.items():
            yield from ((clip_id, flag, detail) for clip_id, detail in clips.items())


def key_of(clip_id: str) -> str:
    """The tar member name of a clip: no dot, at which webdataset splits, and no path separator.

    Letters, digits, `_` and `-` stay; every other byte becomes `=` and two hex digits, so two
    clip ids never share a key.
    """
    return re.sub(
        rb"[^A-Za-z0-9_-]", lambda found: b"=%02x" % ord(found[0]), clip_id.encode()
    ).decode()


def sidecar_path(tar: Location) -> Location:
    return tar.with_name(f"{tar.stem}.sidecar.json")


def tars_in(folder: Location) -> list[Location]:
    """The tars of a folder, in the order of their names."""
    return [folder / name for name in sorted(at(folder).entries()) if name.endswith(".tar")]


@dataclass(frozen=True)
class WrittenTar:
    """Description of a written tar."""

    clips: ClipColumns
    size_bytes: int
    sha256: str


def write_tar(tar: Location, clips: Iterable[PackedClip]) -> WrittenTar:
    """Write a tar whose bytes depend on the clips alone; return the positions in it."""
    import webdataset  # here, since it imports torch, which reading an index does not need

    columns = ClipColumns()
    with at(tar).write(shared=True) as file:
        hashed = _HashedFile(file)
        buffer = io.BufferedWriter(hashed, BUFFER_BYTES)  # tarfile writes in small pieces
        # webdataset would write its own owner and the current time, and refuse long names.
        settings = {"user": "", "group": "", "mtime": 0, "format": "PAX_FORMAT"}
        with webdataset.TarWriter(buffer, encoder=False, **settings) as writer:
            for clip in clips:
                _write_clip(writer, clip)
                columns.add(clip)
        buffer.flush()
        file.flush()
        columns.offset.extend(_audio_offsets(Path(file.name)))
        return WrittenTar(columns, file.tell(), hashed.sha256.hexdigest())


class _HashedFile(io.RawIOBase):
    """A file that hashes what is written to it, so it need not be read again."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.sha256 = file, hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        self.sha256.update(content)
        return self._file.write(content)


def _write_clip(writer: Any, clip: PackedClip) -> None:
    metadata = json.dumps(clip.metadata(), ensure_ascii=False).encode()
    writer.write({"__key__": key_of(clip.clip_id), clip.extension: clip.audio, "json": metadata})


def _audio_offsets(tar: Path) -> list[int]:
    """Offsets of the members, read back: webdataset's writer streams and does not report them."""
    with tarfile.open(tar, "r:") as archive:
        return [member.offset_data for member in archive if not member.name.endswith(".json")]


def write_sidecar(tar: Location, sidecar: Sidecar) -> None:
    with at(sidecar_path(tar)).write("w", shared=True) as file:
        json.dump(sidecar.to_json(), file, ensure_ascii=False)
        file.write("\n")


def read_sidecars(tars: Sequence[Location]) -> Iterator[Sidecar | None]:
    """Sidecar of each tar, in turn; behind URLs, several are requested at once."""
    with ThreadPoolExecutor(SIDECARS_AT_ONCE) as pool:
        for start in range(0, len(tars), SIDECARS_AT_ONCE):
            some = tars[start : start + SIDECARS_AT_ONCE]
            yield from (map if at(some[0]).is_local else pool.map)(read_sidecar, some)


def read_sidecar(tar: Location) -> Sidecar | None:
    """Sidecar of a shard; None if there is none, `ShardError` if it is damaged."""
    path = sidecar_path(tar)
    try:
        content = json.loads(at(path).read().decode())
        columns = ClipColumns(**content.pop("clips"))
        for summary in ("num_clips", "duration_s", "class_counts"):
            del content[summary]
        sidecar = Sidecar(clips=columns, **content)
        lengths = {len(column) for column in vars(columns).values()}
        _check_types(sidecar)
    except FileNotFoundError:
        return None
    except DAMAGE as error:
        raise ShardError(
            f"the sidecar is damaged: {error}", where=path, fix="delete it and build again"
        ) from None
    if sidecar.format_version != FORMAT_VERSION or len(lengths) != 1:
        raise ShardError(
            f"the sidecar has format {sidecar.format_version}, or columns of several lengths",
            where=path,
            fix=f"this version reads format {FORMAT_VERSION}: delete it and build again",
        )
    return sidecar


def _check_types(sidecar: Sidecar) -> None:
    """Raise TypeError or ValueError unless every entry fits its column's declaration."""
    for name, kind in ((f.name, f.type) for f in fields(Sidecar)):
        if kind in (str, int) and type(getattr(sidecar, name)) is not kind:
            raise TypeError(f"{name} is of another type")
    if not 0 <= sidecar.sample_rate_hz <= MAX_SAMPLE_RATE_HZ:
        raise ValueError(f"the sample rate is {sidecar.sample_rate_hz} Hz")
    columns = vars(sidecar.clips) | {"mid": list(chain.from_iterable(sidecar.clips.mids))}
    for name, column in columns.items():
        entry_type = ENTRY_TYPES.get(name, int)
        if set(map(type, column)) - {entry_type}:
            raise TypeError(f"an entry of {name} is not of type {entry_type.__name__}")
        largest = LARGEST.get(name, 2**63 - 1)
        if entry_type is int and column and not 0 <= min(column) <= max(column) <= largest:
            raise ValueError(f"an entry of {name} is not a number of bytes or samples")
        if entry_type is str:
            "".join(column).encode()  # ValueError: text that UTF-8 cannot hold
    tables = [sidecar.versions, *sidecar.rejected, *sidecar.flags.values()]
    texts = chain(
        sidecar.silent, sidecar.flags, *(chain(table, table.values()) for table in tables)
    )
    "".join([sidecar.shard, sidecar.task, sidecar.sha256, *texts]).encode()
