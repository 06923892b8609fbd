"""Id, labels and split of a clip in a tar from elsewhere; pickles are never read."""

import json
from dataclasses import dataclass
from typing import IO, Any, Protocol, runtime_checkable

from psla_wds.errors import ClipRefusedError
from psla_wds.labels.class_list import ClassList
from psla_wds.labels.manifest import LabelError, label_positions
from sharding.foreign.tar_members import LABEL_EXTENSIONS, Members, is_text, kind_of

LABEL_KEYS = ("labels", "label", "mids", "tags", "tag")
ID_KEYS = ("clip_id", "id")
MAX_SHOWN = 20


@dataclass(frozen=True)
class Description:
    """Description of a clip without its audio."""

    key: str
    name: str
    """Name of the audio member without its suffix: the key, except for names with several dots."""
    own_id: str
    """Id that the JSON gives the clip; "" if it gives none."""
    labels: tuple[int, ...]
    """Classes as positions in the class list; none if they are not in the tar."""
    unlabelled: str
    """Where labels were looked for, if there are none."""
    split: str
    suffix: str = ""
    """Suffix of the audio member."""

    def clip_id(self, tar: str, *, by_tar: bool) -> str:
        """The id of its own, else the key.

        Args:
            tar: name of the tar without its suffix.
            by_tar: whether the key follows that name, since others of the tars have it too.
        """
        return self.own_id or (f"{tar}/{self.key}" if by_tar else self.key)


@runtime_checkable
class LabelsElsewhere(Protocol):
    """Labels that are not in the tars."""

    def find(self, clip: Description, tar: str, *, by_tar: bool) -> tuple[int, ...]:
        """Classes of a clip; `ClipRefusedError` if they are not known."""
        ...


@dataclass(frozen=True)
class LabelRules:
    """Rules by which clips of tars get ids and labels."""

    classes: ClassList
    key: str = ""
    """The only key of the JSON to look at for labels. Default: the first of `LABEL_KEYS`."""
    elsewhere: LabelsElsewhere | None = None
    fingerprint: str = ""
    """Hash of `key` and `elsewhere`; "" for neither."""
    by_tar: bool = False
    """Whether ids of clips without one of their own begin with the name of the tar."""

    def labels_of(self, clip: Description, tar: str) -> tuple[int, ...]:
        """Classes of a clip; `ClipRefusedError` if it has none."""
        if self.elsewhere:
            return self.elsewhere.find(clip, tar, by_tar=self.by_tar)
        if not clip.labels:
            raise ClipRefusedError("no-label", clip.unlabelled)
        return clip.labels


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
    key: str, members: Members, audio_extension: str, file: IO[bytes], rules: LabelRules
) -> Description:
    """Id and split in KEY.json; labels there, else in KEY.cls, else in KEY.txt, unless they are
    elsewhere."""
    kind = kind_of(audio_extension)
    prefix = audio_extension.removesuffix(kind)

    def read(kind: str) -> bytes | None:
        return read_member(members, prefix + kind, file) or read_member(members, kind, file)

    files = {kind: read(kind) for kind in LABEL_EXTENSIONS}
    metadata = _metadata(files["json"])
    return Description(
        key=key,
        name=f"{key}.{audio_extension}".removesuffix(f".{kind}"),
        own_id=_text(metadata, ID_KEYS),
        labels=() if rules.elsewhere else _positions(metadata, files, rules),
        unlabelled=_where_looked(metadata, files, rules.key),
        split=_text(metadata, ("split",)),
        suffix=f".{kind}",
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


def _labels(metadata: dict[str, Any], files: dict[str, bytes | None], rules: LabelRules) -> object:
    """Labels as written; a .cls is an index, even if a class has that number as its name."""
    given = (metadata.get(key) for key in ([rules.key] if rules.key else LABEL_KEYS))
    found = next((value for value in given if value not in (None, "", [])), None)
    if found is not None or rules.key:
        return found
    try:
        if files["cls"]:
            index, mids = int(files["cls"]), rules.classes.mids
            return mids[index] if 0 <= index < len(mids) else index
        if files["txt"]:
            return files["txt"].decode().replace("\n", "|")
    except ValueError as error:
        raise ClipRefusedError("bad-label", f"the .cls or .txt cannot be read: {error}") from None
    return None


def _positions(
    metadata: dict[str, Any], files: dict[str, bytes | None], rules: LabelRules
) -> tuple[int, ...]:
    try:
        return label_positions(_labels(metadata, files, rules), rules.classes)
    except LabelError as error:
        raise ClipRefusedError(error.reason, str(error)) from None


def _where_looked(metadata: dict[str, Any], files: dict[str, bytes | None], key: str) -> str:
    """Where labels were looked for, and the keys of the JSON, to find a better one among them."""
    if files["json"] is None:
        return "no .json" if key else "no .json, no .cls and no .txt"
    keys = ", ".join(f"{name:.80}" for name in list(metadata)[:MAX_SHOWN] if is_text(name))
    none = f"the .json has no label in {key or ', '.join(LABEL_KEYS)}, only {keys or 'no key'}"
    advice = "--label-key names the key of the labels"
    return f"{none}: {advice}" if key else f"no .cls, no .txt, and {none}: {advice}"
