"""Tars that others built: what they hold, described by a sidecar like that of our own shards.

A clip is a key with one member of audio, and labels in KEY.json, else KEY.cls, else KEY.txt.
Pickles are never loaded. Format: docs/format.md.
"""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import soundfile

from psla_wds.audio import MAX_CLIP_S, ClipRefusedError
from psla_wds.labels import ClassList
from psla_wds.manifest import resolve_labels
from psla_wds.shards import ClipColumns, PackedClip, Sidecar, sha256_of, sidecar_path
from sharding.members import (
    LABEL_EXTENSIONS,
    REPACK,
    Members,
    is_text,
    kind_of,
    members_by_key,
)

SCAN_VERSION = 1
"""Part of the task: a scan by other rules is done again."""
TASK_PREFIX = "foreign:"
AUDIO_EXTENSIONS = ("flac", "wav", "ogg", "opus", "aiff", "aif")
LABEL_KEYS = ("labels", "label", "mids", "tags")
ID_KEYS = ("clip_id", "id")


@dataclass(frozen=True)
class Scan:
    """What a tar holds."""

    sidecar: Sidecar
    rates: Counter[int]
    """Clips of each sample rate, in Hz; the sidecar is of use if there is at most one."""


def is_foreign(sidecar: Sidecar) -> bool:
    return sidecar.task.startswith(TASK_PREFIX)


def is_current(sidecar: Sidecar, tar: Path, classes: ClassList) -> bool:
    """Whether a tar was scanned with these classes, and has not changed since."""
    status = tar.stat()
    older = status.st_mtime_ns <= sidecar_path(tar).stat().st_mtime_ns
    same_size = status.st_size == sidecar.size_bytes
    return sidecar.task == _task(classes) and same_size and older


def scan(tar: Path, classes: ClassList, progress: Callable[[], object] = lambda: None) -> Scan:
    """Describe the clips of a tar, in the order of their first members.

    Args:
        progress: called for each clip.
    """
    columns, rejected, rates = ClipColumns(), list[dict[str, str]](), Counter[int]()
    with tar.open("rb") as file:
        for key, members in members_by_key(tar).items():
            try:
                clip, offset = _clip(key, members, file, classes)
            except ClipRefusedError as error:
                rejected.append(_refusal(key, tar, error))
            else:
                columns.add(clip)
                columns.offset.append(offset)
                rates[clip.sample_rate_hz] += 1
            progress()
    sidecar = Sidecar(
        shard=tar.name,
        task=_task(classes),
        size_bytes=tar.stat().st_size,
        sha256=sha256_of(tar),
        sample_rate_hz=next(iter(rates), 0),
        clips=columns,
        rejected=rejected,
        versions={"libsndfile": soundfile.__libsndfile_version__},
    )
    return Scan(sidecar, rates)


def _task(classes: ClassList) -> str:
    rules = json.dumps([SCAN_VERSION, classes.mids, classes.names])
    return TASK_PREFIX + hashlib.sha256(rules.encode()).hexdigest()


def _refusal(key: str, tar: Path, error: ClipRefusedError) -> dict[str, str]:
    return {
        "clip_id": key,
        "path": tar.name,
        "source": f"{tar.name}, member {key}",
        "reason": error.reason,
        "detail": str(error),
    }


def _clip(
    key: str, members: Members, file: IO[bytes], classes: ClassList
) -> tuple[PackedClip, int]:
    """The clip, and the first byte of its audio in the tar."""
    twice = [extension for extension, found in members.items() if len(found) > 1]
    if twice:
        raise ClipRefusedError("duplicate-key", f"two members are named {key}.{twice[0]}")
    extension = _audio_extension(members)

    def read(wanted: str) -> bytes | None:
        found = members.get(wanted)
        if not found:
            return None
        file.seek(found[0].offset_data)
        return file.read(found[0].size)

    audio = read(extension) or b""
    prefix = extension.removesuffix(kind_of(extension))
    files = {kind: read(prefix + kind) or read(kind) for kind in LABEL_EXTENSIONS}
    metadata = _metadata(files["json"])
    num_samples, sample_rate_hz = _audio_header(audio)
    clip = PackedClip(
        clip_id=_text(metadata, ID_KEYS) or key,
        audio=audio,
        extension=extension,
        num_samples=num_samples,
        sample_rate_hz=sample_rate_hz,
        mids=_mids(_labels(metadata, files, classes), classes, key),
        split=_text(metadata, ("split",)),
        source=key,
    )
    return clip, members[extension][0].offset_data


def _audio_extension(members: Members) -> str:
    audio = [extension for extension in members if kind_of(extension) in AUDIO_EXTENSIONS]
    if len(audio) > 1:
        raise ClipRefusedError("two-audio", f"several members are audio: {', '.join(audio)}")
    if not audio and any(kind_of(extension) == "mp3" for extension in members):
        raise ClipRefusedError("mp3", f"DALI does not decode mp3: {REPACK}")
    if not audio:
        there = f"among {', '.join(members)} is none of {', '.join(AUDIO_EXTENSIONS)}"
        raise ClipRefusedError("no-audio", there)
    return audio[0]


def _audio_header(audio: bytes) -> tuple[int, int]:
    """Samples of a channel, and sample rate."""
    try:
        header = soundfile.info(io.BytesIO(audio))
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise ClipRefusedError("unreadable", str(error)) from None
    if header.format == "MP3":  # whatever its name says
        raise ClipRefusedError("mp3", f"DALI does not decode mp3: {REPACK}")
    if not header.frames:
        raise ClipRefusedError("empty", "the audio has no sample")
    if header.frames > MAX_CLIP_S * header.samplerate:
        raise ClipRefusedError("too-long", f"longer than {MAX_CLIP_S:g} s by its header")
    return header.frames, header.samplerate


def _metadata(content: bytes | None) -> dict[str, Any]:
    if content is None:
        return {}
    try:
        metadata = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ClipRefusedError("bad-json", f"the .json cannot be read: {error}") from None
    if not isinstance(metadata, dict):
        raise ClipRefusedError("bad-json", "the .json holds no object")
    return metadata


def _text(metadata: dict[str, Any], keys: tuple[str, ...]) -> str:
    value = next((metadata[key] for key in keys if metadata.get(key) not in (None, "")), "")
    if not isinstance(value, str | int) or not is_text(str(value)):
        raise ClipRefusedError("bad-json", f"{keys[0]} is neither text nor a number")
    return str(value)


def _labels(
    metadata: dict[str, Any], files: dict[str, bytes | None], classes: ClassList
) -> list[str]:
    """Labels as written; a number is an index, even if a class is named like a number."""
    given = (metadata.get(key) for key in LABEL_KEYS)
    found: Any = next((value for value in given if value not in (None, "", [])), [])
    values = found if isinstance(found, list) else [found]
    try:
        if not values and files["cls"]:
            values = [int(files["cls"])]
        if not values and files["txt"]:
            values = [files["txt"].decode().replace("\n", "|")]
    except ValueError as error:
        raise ClipRefusedError("bad-label", f"the .cls or .txt cannot be read: {error}") from None
    labels: list[str] = []
    for value in values:
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise ClipRefusedError(
                "bad-label", f"a label is neither text nor an index: {value!r:.80}"
            )
        is_index = isinstance(value, int) and 0 <= value < len(classes)
        labels += [classes.mids[int(value)]] if is_index else str(value).split("|")
    return [label.strip() for label in labels if label.strip()]


def _mids(labels: list[str], classes: ClassList, key: str) -> tuple[str, ...]:
    if not labels:
        looked = f"the .json has none of {', '.join(LABEL_KEYS)}"
        raise ClipRefusedError("no-label", f"no .cls, no .txt, and {looked}")
    for label in labels:
        if classes.find(label) is None:
            reason = f"label {label!r:.80} is not in the class list of {len(classes)} classes"
            raise ClipRefusedError("unknown-label", reason)
    return tuple(classes.mids[position] for position in resolve_labels(labels, classes, key))
