"""Id, labels and split of a clip in a tar from elsewhere; pickles are never read."""

import json
from dataclasses import dataclass
from typing import IO, Any

from psla_wds.audio.decode import ClipRefusedError
from psla_wds.labels.class_list import ClassList
from psla_wds.labels.manifest import LabelError, label_positions
from sharding.foreign.tar_members import LABEL_EXTENSIONS, Members, is_text, kind_of

LABEL_KEYS = ("labels", "label", "mids", "tags")
ID_KEYS = ("clip_id", "id")


@dataclass(frozen=True)
class Description:
    """Description of a clip without its audio."""

    clip_id: str
    labels: tuple[int, ...]
    """Classes as positions in the class list."""
    split: str


def check_keys(key: str, members: Members) -> None:
    """Refuse a key with two members of one name."""
    twice = [extension for extension, found in members.items() if len(found) > 1]
    if twice:
        raise ClipRefusedError("duplicate-key", f"two members are named {key}.{twice[0]}")


def read_member(members: Members, extension: str, file: IO[bytes]) -> bytes | None:
    found = members.get(extension)
    if not found:
        return None
    file.seek(found[0].offset_data)
    return file.read(found[0].size)


def describe(
    key: str, members: Members, audio_extension: str, file: IO[bytes], classes: ClassList
) -> Description:
    """Id, labels and split in KEY.json, else labels in KEY.cls, else in KEY.txt."""
    prefix = audio_extension.removesuffix(kind_of(audio_extension))

    def read(kind: str) -> bytes | None:
        return read_member(members, prefix + kind, file) or read_member(members, kind, file)

    files = {kind: read(kind) for kind in LABEL_EXTENSIONS}
    metadata = _metadata(files["json"])
    return Description(
        clip_id=_text(metadata, ID_KEYS) or key,
        labels=_positions(_labels(metadata, files, classes), classes),
        split=_text(metadata, ("split",)),
    )


def _metadata(content: bytes | None) -> dict[str, Any]:
    if content is None:
        return {}
    try:
        metadata = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ClipRefusedError("bad-json", f"the .json cannot be read: {error}") from None
    if not isinstance(metadata, dict):
        raise ClipRefusedError("bad-json", "the .json is not an object")
    return metadata


def _text(metadata: dict[str, Any], keys: tuple[str, ...]) -> str:
    value = next((metadata[key] for key in keys if metadata.get(key) not in (None, "")), "")
    if not isinstance(value, str | int) or not is_text(str(value)):
        raise ClipRefusedError("bad-json", f"{keys[0]} is neither text nor a number")
    return str(value)


def _labels(metadata: dict[str, Any], files: dict[str, bytes | None], classes: ClassList) -> object:
    """Labels as written; a .cls is an index, even if a class has that number as its name."""
    given = (metadata.get(key) for key in LABEL_KEYS)
    found = next((value for value in given if value not in (None, "", [])), None)
    try:
        if found is None and files["cls"]:
            index = int(files["cls"])
            return classes.mids[index] if 0 <= index < len(classes) else index
        if found is None and files["txt"]:
            return files["txt"].decode().replace("\n", "|")
    except ValueError as error:
        raise ClipRefusedError("bad-label", f"the .cls or .txt cannot be read: {error}") from None
    return found


def _positions(labels: object, classes: ClassList) -> tuple[int, ...]:
    try:
        found = label_positions(labels, classes)
    except LabelError as error:
        raise ClipRefusedError(error.reason, str(error)) from None
    if not found:
        looked = f"the .json has none of {', '.join(LABEL_KEYS)}"
        raise ClipRefusedError("no-label", f"no .cls, no .txt, and {looked}")
    return found
