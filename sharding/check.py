"""Prove that tars, sidecars and index agree.

    psla-wds check SHARDS [--deep]

Compares the size and SHA-256 of every shard, every member's place and CRC-32, and the index with
the sidecars. --deep also reads every shard back through webdataset and decodes every clip; tars
that others built are scanned again instead, since webdataset may not read them as their index does.
"""

import json
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from isal.isal_zlib import crc32
from tyro.conf import Positional

from psla_wds import cli
from psla_wds.audio.files import reason_of
from psla_wds.audio.pcm import decode_pcm
from psla_wds.cli import LocationArg
from psla_wds.errors import ClipRefusedError, ManifestError, ShardError
from psla_wds.io.atomic_files import sha256_of
from psla_wds.io.locations import Location, is_http
from psla_wds.io.stores import at
from psla_wds.labels.class_list import ClassList, read_class_list
from psla_wds.printable import printable, typed
from psla_wds.progress import progress_bar
from psla_wds.shards.index import ShardIndex, combined_fingerprint
from psla_wds.shards.index_files import CLASS_LABELS, read_index
from psla_wds.shards.tar import Sidecar, key_of, read_sidecar, read_sidecars, tars_in
from sharding.foreign.labels import Description, LabelRules
from sharding.foreign.scan import (
    has_ids_by_tar,
    has_labels_elsewhere,
    is_foreign,
    scan_copy,
)
from sharding.packing.plan import NotPlannedError, compared

MAX_SHOWN = 20
"""Problems that are listed."""
MAX_REASON = 200
"""Length limit in characters of a reason that quotes a file."""


@dataclass(frozen=True)
class Args:
    shards: Positional[LocationArg]
    """Folder of the shards, or its URL; each tar behind a URL is downloaded while it is checked."""
    deep: bool = False
    """Read the shards through webdataset and decode every clip."""


def check(shards: Location, *, deep: bool) -> list[str]:
    """Faults of the shards in a folder, one line each; empty if there is none."""
    index = read_index(shards)
    problems = [f"{name}: not in the index" for name in _stray_tars(shards, index)]
    problems += _check_meta(shards, index)
    with progress_bar(desc="checking", total=len(index)) as bar:
        for number, tar in enumerate(index.shards):
            problems += [f"{tar.name}: {what}" for what in _check_shard(index, number, deep)]
            bar.update(np.count_nonzero(index.shard == number))
            bar.set_postfix(problems=len(problems), refresh=False)
    return problems


def _stray_tars(shards: Location, index: ShardIndex) -> list[str]:
    """Tars in the folder that the index lacks; the web cannot be listed."""
    if is_http(shards):
        return []
    return sorted({tar.name for tar in tars_in(shards)} - {tar.name for tar in index.shards})


def _check_meta(shards: Location, index: ShardIndex) -> Iterator[str]:
    """Faults of the index as a whole; faults of a sidecar are reported with its shard."""
    try:
        if read_class_list(shards / CLASS_LABELS) != index.classes:
            yield f"the index and {CLASS_LABELS} differ in classes"
        found = filter(None, read_sidecars(index.shards))
        sidecars = [(s.sha256, set(s.clips.split)) for s in compared(shards, found)]
    except (ManifestError, NotPlannedError) as error:
        yield str(error).splitlines()[0]
        return
    except ShardError:
        return
    if index.fingerprint != combined_fingerprint([sha256 for sha256, _ in sidecars]):
        yield "the index and the sidecars differ in the shards' fingerprint"
    if sorted(index.splits) != sorted(set[str]().union(*(splits for _, splits in sidecars))):
        yield "the index and the sidecars differ in the names of splits"
    repeated = index.clip_ids.repeated()
    if len(repeated):
        yield f"{len(repeated):,} clips are there twice, such as {index.clip_id(repeated[0])!r}"


def _check_shard(index: ShardIndex, number: int, deep: bool) -> Iterator[str]:
    tar = index.shards[number]
    size_bytes = at(tar).size()
    if size_bytes is None:
        yield "missing"
        return
    try:
        sidecar = read_sidecar(tar)
    except ShardError as error:
        yield f"damaged sidecar ({str(error).splitlines()[0]})"
        return
    if sidecar is None:
        yield "no sidecar"
        return
    if sidecar.shard != tar.name or size_bytes != sidecar.size_bytes:
        yield f"not the shard of its sidecar ({sidecar.shard}, {sidecar.size_bytes:,} bytes)"
        return
    yield from _compare_with_index(index, number, sidecar)
    with at(tar).local_copy() as local:
        yield from _check_content(local, sidecar, index.classes, deep)


def _check_content(tar: Path, sidecar: Sidecar, classes: ClassList, deep: bool) -> Iterator[str]:
    if sha256_of(tar) != sidecar.sha256:
        yield "the SHA-256 differs"
        deep = True  # to name what is damaged
    try:
        if is_foreign(sidecar):
            yield from _check_foreign(tar, sidecar, classes if deep else None)
            return
        yield from _check_members(tar, sidecar)
        if deep:
            yield from _read_back(tar, sidecar)
    except WebdatasetError as error:
        yield f"webdataset cannot read it: {error}"
    except (tarfile.TarError, OSError) as error:
        yield f"not a whole tar: {error}"


def _compare_with_index(index: ShardIndex, number: int, sidecar: Sidecar) -> Iterator[str]:
    clips, rows = sidecar.clips, np.flatnonzero(index.shard == number)
    if len(rows) != len(clips.clip_id):
        yield f"the index has {len(rows)} clips, the sidecar {len(clips.clip_id)}"
        return
    if index.shard_sizes[number] != sidecar.size_bytes:
        yield "the index and the sidecar differ in size"
    if clips.clip_id and index.sample_rate_hz != sidecar.sample_rate_hz:
        yield "the index and the sidecar differ in sample rate"
    if [index.splits[split] for split in index.split[rows]] != clips.split:
        yield "the index and the sidecar differ in splits"
    for name in ("offset", "size", "crc32", "num_samples"):
        if getattr(index, name)[rows].tolist() != getattr(clips, name):
            yield f"the index and the sidecar differ in {name}"
    if [index.clip_id(row) for row in rows] != clips.clip_id:
        yield "the index and the sidecar differ in clip ids"
    mids = [[index.classes.mids[label] for label in index.labels(row)] for row in rows]
    if mids != clips.mids:
        yield "the index and the sidecar differ in labels"


def _check_members(tar: Path, sidecar: Sidecar) -> Iterator[str]:
    """Faults of members: each clip has two, at the places and with the bytes of the sidecar."""
    clips = sidecar.clips
    members = [(m.name.partition("."), m.offset_data, m.size, m.isreg()) for m in _members(tar)]
    audio = {m[0][0]: m for m in members if m[0][2] != "json"}
    described = {m[0][0] for m in members if m[0][2] == "json"}
    keys = [key_of(clip_id) for clip_id in clips.clip_id]
    if len(members) != 2 * len(keys):
        yield f"has {len(members)} members for {len(keys)} clips, which take two each"
    for key in sorted((audio.keys() | described) - set(keys)):
        yield f"member {key} is not in the sidecar"
    with tar.open("rb") as file:
        for key, offset, size, expected in zip(
            keys, clips.offset, clips.size, clips.crc32, strict=True
        ):
            if key not in audio or key not in described:
                yield f"member {key} is missing, or its .json is"
            elif audio[key][1:] != (offset, size, True):
                yield f"member {key} is not where the sidecar says"
            else:
                file.seek(offset)
                if crc32(file.read(size)) != expected:
                    yield f"member {key} is damaged: its CRC-32 differs"


def _members(tar: Path) -> list[tarfile.TarInfo]:
    try:
        with tarfile.open(tar, "r:") as archive:  # not unpacked: a header could claim any memory
            members = list(archive)
    except (
        ValueError,
        OverflowError,
    ) as error:  # raised by tarfile for header fields that are not numbers
        raise tarfile.ReadError(str(error)[:MAX_REASON]) from None
    sparse = [member.name for member in members if member.issparse()]
    if sparse:  # its size is only claimed, and readers allocate it
        raise tarfile.ReadError(f"member {sparse[0]} is sparse")
    return members


def _read_back(tar: Path, sidecar: Sidecar) -> Iterator[str]:
    """Faults that a user of webdataset would meet: order, decoding and labels of every clip."""
    import webdataset  # here, since it imports torch, which the quick check does not need

    clips = sidecar.clips
    number_read = 0
    with tar.open("rb") as file:
        # A descriptor: a name could be a list to webdataset, or `pipe:` and a command, or be
        # changed by it where it has a line break.
        urls = [f"/dev/fd/{file.fileno()}"]
        samples = webdataset.WebDataset(urls, shardshuffle=False, empty_check=False)
        for number, sample in enumerate(_read_by_webdataset(samples)):
            number_read += 1
            if number >= len(clips.clip_id) or sample["__key__"] != key_of(clips.clip_id[number]):
                yield f"webdataset reads {sample['__key__']} at position {number}"
                return
            yield from _check_sample(sample, sidecar, number)
    if number_read != len(clips.clip_id):
        yield f"webdataset reads {number_read} of {len(clips.clip_id)} clips"


class WebdatasetError(Exception):
    """webdataset's message about a tar that it cannot read."""


def _read_by_webdataset(samples: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    try:
        yield from samples
    except ValueError as error:  # two members of one name, for instance
        raise WebdatasetError(str(error.args[0])[:MAX_REASON]) from None


def _check_sample(sample: dict[str, Any], sidecar: Sidecar, number: int) -> Iterator[str]:
    clips, key = sidecar.clips, sample["__key__"]
    audio = next((v for k, v in sample.items() if k != "json" and not k.startswith("_")), b"")
    columns: dict[str, list[Any]] = {
        "clip_id": clips.clip_id,
        "labels": clips.mids,
        "split": clips.split,
    }
    try:
        metadata = json.loads(sample["json"])
        differing = [name for name, column in columns.items() if metadata[name] != column[number]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        yield f"{key} cannot be decoded: {error}"
        return
    yield from _check_audio(key, audio, (clips.num_samples[number], sidecar.sample_rate_hz))
    if differing:
        yield f"{key} has another {', '.join(differing)} in its .json than in the sidecar"


def _check_audio(name: str, audio: bytes, length: tuple[int, int]) -> Iterator[str]:
    """Faults of decoding a clip, which must give this number of samples at this rate."""
    try:
        pcm, sample_rate_hz = decode_pcm(audio)
    except RuntimeError as error:
        yield f"{name} cannot be decoded: {reason_of(error)}"
        return
    if (len(pcm), sample_rate_hz) != length:
        yield f"{name} decodes to {len(pcm)} samples at {sample_rate_hz} Hz"


def _check_foreign(tar: Path, sidecar: Sidecar, classes: ClassList | None) -> Iterator[str]:
    """Faults of a foreign tar: clips must match the sidecar; given classes, a new scan must give
    the sidecar again, and every clip must decode."""
    clips = sidecar.clips
    with tar.open("rb") as file:
        for number, clip_id in enumerate(clips.clip_id):
            file.seek(clips.offset[number])
            audio = file.read(clips.size[number])
            if crc32(audio) != clips.crc32[number]:
                yield f"clip {clip_id} is damaged: its CRC-32 differs"
            if classes:
                length = (clips.num_samples[number], sidecar.sample_rate_hz)
                yield from _check_audio(clip_id, audio, length)
    try:
        again = _scanned(tar, sidecar, classes) if classes else sidecar
    except ShardError as error:
        yield str(error).splitlines()[0]
        return
    for name, column in vars(again.clips).items():
        if column != getattr(clips, name):
            yield f"a new scan and the sidecar differ in {name}"


def _scanned(tar: Path, sidecar: Sidecar, classes: ClassList) -> Sidecar:
    rules = LabelRules(classes, by_tar=has_ids_by_tar(sidecar))
    if has_labels_elsewhere(sidecar):
        rules = replace(rules, elsewhere=_KnownLabels(sidecar, classes))
    return scan_copy(tar, Path(sidecar.shard), rules).sidecar


class _KnownLabels:
    """Labels that a sidecar has from a table, or from a key of the JSON, that is not known here."""

    def __init__(self, sidecar: Sidecar, classes: ClassList) -> None:
        clips, position = sidecar.clips, {mid: i for i, mid in enumerate(classes.mids)}
        self._labels = {
            clip_id: tuple(position[mid] for mid in mids if mid in position)
            for clip_id, mids in zip(clips.clip_id, clips.mids, strict=True)
        }

    def find(self, clip: Description, tar: str, *, by_tar: bool) -> tuple[int, ...]:
        labels = self._labels.get(clip.clip_id(tar, by_tar=by_tar))
        if labels is None:
            raise ClipRefusedError("no-label", "the sidecar has none")
        return labels


def main() -> None:
    args = cli.parse(Args, __doc__, prog="check")
    problems = check(args.shards, deep=args.deep)
    if problems:
        print(*map(printable, problems[:MAX_SHOWN]), sep="\n")
        more = f" (the first of {len(problems):,} problems)" if len(problems) > 1 else ""
        raise ShardError(
            f"{problems[0]}{more}",
            where=args.shards,
            fix="delete the tars named and their sidecars, and run the same psla-wds build again; "
            "tars built elsewhere: copy them again, then psla-wds index",
        )
    print(
        f"checked {args.shards}: tars, sidecars and index agree; next: "
        f"psla-wds train RECIPE --index {typed(args.shards)}"
    )


if __name__ == "__main__":
    cli.run(main)
