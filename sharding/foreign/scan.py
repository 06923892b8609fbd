"""Scan of tars that others built: describes them by a sidecar like that of our own shards.

A clip is a key with one audio member, and labels in KEY.json, else KEY.cls, else KEY.txt. Pickles
are never loaded. Format: docs/format.md.
"""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import soundfile

from psla_wds.audio.containers import claim_of, lacks
from psla_wds.audio.decode import MAX_CLIP_S
from psla_wds.audio.files import reason_of
from psla_wds.audio.kinds import kind_of as kind_of_content
from psla_wds.errors import ClipRefusedError
from psla_wds.io.atomic_files import sha256_of
from psla_wds.io.locations import Location
from psla_wds.io.stores import at
from psla_wds.shards.tar import ClipColumns, PackedClip, Sidecar, sidecar_path
from sharding.foreign.labels import LabelRules, check_keys, describe, read_member
from sharding.foreign.tar_members import REPACK, Members, kind_of, members_by_key

SCAN_VERSION = 2
"""Version of the scan; tars scanned by another version are scanned again."""
TASK_PREFIX = "foreign:"
KEYS, BY_TAR, LABELS = "keys", "by-tar", "labels-"
"""Words of a task, after the fingerprint of rules and classes: how clips got ids and labels."""
AUDIO_EXTENSIONS = ("flac", "wav", "ogg", "opus", "aiff", "aif")


@dataclass(frozen=True)
class Scan:
    """Clips of a tar."""

    sidecar: Sidecar
    rates: Counter[int]
    """Number of clips of each sample rate in Hz; only tars with at most one rate are usable."""


def is_foreign(sidecar: Sidecar) -> bool:
    return sidecar.task.startswith(TASK_PREFIX)


def has_keys_as_ids(sidecar: Sidecar) -> bool:
    """Whether clips have their bare keys as ids, which tells them apart only within their tar."""
    return KEYS in sidecar.task.split(":")


def has_ids_by_tar(sidecar: Sidecar) -> bool:
    """Whether the name of the tar is in the ids of clips without one of their own."""
    return BY_TAR in sidecar.task.split(":")


def has_labels_elsewhere(sidecar: Sidecar) -> bool:
    """Whether options of the command say where the labels are, which the sidecar does not."""
    return f":{LABELS}" in sidecar.task


def is_current(sidecar: Sidecar, tar: Location, rules: LabelRules) -> bool:
    """Whether a tar was scanned by these rules and has not changed since.

    Ids may be of either kind; rules without a fingerprint take labels from wherever they were.
    """
    prefix, fingerprint, *words = sidecar.task.split(":")
    same = f"{prefix}:{fingerprint}" == _base_task(rules)
    if rules.fingerprint and f"{LABELS}{rules.fingerprint}" not in words:
        same = False
    if not same or sidecar.shard != tar.name or at(tar).size() != sidecar.size_bytes:
        return False
    return at(tar).modified_s() <= at(sidecar_path(tar)).modified_s()


def scan(tar: Location, rules: LabelRules, progress: Callable[[], object] = lambda: None) -> Scan:
    """Describe the clips of a tar, in the order of their first members.

    Args:
        progress: called for each clip.
    """
    with at(tar).local_copy() as local:
        return scan_copy(local, tar, rules, progress)


def scan_copy(
    local: Path, tar: Location, rules: LabelRules, progress: Callable[[], object] = lambda: None
) -> Scan:
    """As `scan`, for a copy of the tar."""
    columns, rejected, rates = ClipColumns(), list[dict[str, str]](), Counter[int]()
    words = set[str]()
    with local.open("rb") as file:
        for key, members in members_by_key(local, where=tar).items():
            try:
                clip, offset, has_own_id = _clip(key, members, file, tar, rules)
            except ClipRefusedError as error:
                rejected.append(_refusal(key, tar, error))
            else:
                columns.add(clip)
                columns.offset.append(offset)
                rates[clip.sample_rate_hz] += 1
                if not has_own_id:
                    words.add(BY_TAR if rules.by_tar else KEYS)
            progress()
    if rules.fingerprint:
        words.add(LABELS + rules.fingerprint)
    sidecar = Sidecar(
        shard=tar.name,
        task=":".join([_base_task(rules), *sorted(words)]),
        size_bytes=local.stat().st_size,
        sha256=sha256_of(local),
        sample_rate_hz=next(iter(rates), 0),
        clips=columns,
        rejected=rejected,
        versions={"libsndfile": soundfile.__libsndfile_version__},
    )
    return Scan(sidecar, rates)


def _base_task(rules: LabelRules) -> str:
    text = json.dumps([SCAN_VERSION, rules.classes.mids, rules.classes.names])
    return TASK_PREFIX + hashlib.sha256(text.encode()).hexdigest()


def _refusal(key: str, tar: Location, error: ClipRefusedError) -> dict[str, str]:
    return {
        "clip_id": key,
        "path": tar.name,
        "source": f"{tar.name}, member {key}",
        "reason": error.reason,
        "detail": str(error),
    }


def _clip(
    key: str, members: Members, file: IO[bytes], tar: Location, rules: LabelRules
) -> tuple[PackedClip, int, bool]:
    """The clip, the first byte of its audio in the tar, and whether it has an id of its own."""
    check_keys(key, members)
    extension = _audio_extension(members)
    audio = read_member(members, extension, file) or b""
    num_samples, sample_rate_hz = _audio_header(audio)
    description = describe(key, members, extension, file, rules)
    labels = rules.labels_of(description, tar.stem)
    clip = PackedClip(
        clip_id=description.clip_id(tar.stem, by_tar=rules.by_tar),
        audio=audio,
        extension=extension,
        num_samples=num_samples,
        sample_rate_hz=sample_rate_hz,
        mids=tuple(rules.classes.mids[label] for label in labels),
        split=description.split,
        source=key,
    )
    return clip, members[extension][0].offset_data, bool(description.own_id)


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
    file = io.BytesIO(audio)
    claim = claim_of(file, kind_of_content(file))
    try:
        header = soundfile.info(file)
    except RuntimeError as error:
        raise ClipRefusedError("unreadable", reason_of(error)) from None
    if "MPEG" in header.subtype:  # whatever its name says
        raise ClipRefusedError("mp3", f"DALI does not decode mp3: {REPACK}")
    if header.subtype == "GSM610":
        noise = "DALI adds noise to GSM 6.10 of an odd number of blocks"
        raise ClipRefusedError("gsm", f"{noise}: {REPACK}")
    if claim.repair:
        problem = next(iter(claim.flags.values()), "the header does not say how long it is")
        raise ClipRefusedError("bad-header", f"{problem}: {REPACK}")
    if not header.frames:
        raise ClipRefusedError("empty", "the audio has no samples")
    if problem := lacks(file, claim):
        raise ClipRefusedError("truncated", problem)
    if len(claim.streams) > 1:
        raise ClipRefusedError("chained", f"DALI decodes the first of several streams: {REPACK}")
    if header.frames > MAX_CLIP_S * header.samplerate:
        raise ClipRefusedError("too-long", f"longer than {MAX_CLIP_S:g} s by its header")
    return header.frames, header.samplerate
