"""The manifest: the labelled clips of a data set, before they are packed."""

import hashlib
import logging
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from psla_wds.errors import ManifestError
from psla_wds.io.locations import Location
from psla_wds.labels.class_list import ClassList

MAX_CLIP_ID_BYTES = 200
"""A tar header holds names of 100 bytes; longer ones are legal up to a file system's 255."""
WHOLE_ID = ", clip id "
"""Words before the whole id of a clip in its `source`, where the id itself is shortened."""

logger = logging.getLogger("manifest")


@dataclass(frozen=True, slots=True)
class ByteRange:
    """The audio file of a clip within a tar."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Row:
    """The place of a clip in the arrays of an HDF5 file."""

    number: int


@dataclass(frozen=True, slots=True)
class Cell:
    """The place of a clip in a Parquet file."""

    group: int
    """Group of rows."""
    row: int
    """Row of the group."""
    column: int
    """Column of the audio's bytes."""


@dataclass(frozen=True, slots=True)
class Clip:
    """One labelled audio excerpt, and the file to cut it from."""

    clip_id: str
    path: Location
    labels: tuple[int, ...]
    """Positions in the class list: sorted, unique; empty if the clip is not labelled."""
    split: str
    """Split, such as train, val or eval; empty if the source names none."""
    source: str
    """File and line that the clip comes from, for messages."""
    start_s: float = 0.0
    end_s: float = math.inf
    may_be_cut: bool = False
    """The file is either this excerpt or the whole recording; its length shows which."""
    part: ByteRange | Row | Cell | None = None
    """Place of the clip within the file, if the file holds several."""
    refusal: tuple[str, str] | None = None
    """Reason and detail, if the source itself shows that the clip cannot be used."""
    suffix: str = ""
    """Suffix of the audio's name within that file, to tell whether it is wrong."""
    group: str = ""
    """Name that clips share which must stay in one split, such as that of their recording."""


class LabelError(ValueError):
    """Labels of a clip that are not in the class list, or that can be read in two ways."""

    def __init__(
        self, what: str, *, fix: str | Callable[[], str], reason: str = "bad-label"
    ) -> None:
        super().__init__(what)
        self.reason = reason
        """One word for counting: `bad-label` or `unknown-label`."""
        self._fix = fix

    @property
    def fix(self) -> str:
        """Advice; made only where it is read, since the nearest of many names takes long."""
        return self._fix if isinstance(self._fix, str) else self._fix()


def label_positions(value: object, classes: ClassList) -> tuple[int, ...]:
    """Classes that labels of any form mean: sorted, unique positions in the class list.

    A name or mid given twice counts once: the official code adds it twice when it mixes two clips,
    and once when it does not.

    Args:
        value: one label (a mid, a name, or an index as a number or text), several in a text with
            `|` between them or in a list, or a multi-hot list with a 0 or 1 for each class; None
            or nothing for a clip without labels.

    Raises `LabelError`, also where a value can be read in two ways.
    """
    return positions_of(label_entries(value, classes), classes)


def label_entries(value: object, classes: ClassList) -> list[Any]:
    """Labels of any form one by one, texts and indices as they are, multi-hot ones as mids."""
    entries = _entries(value, classes)
    if type(value) is not int and _is_multi_hot(entries, classes):
        return [mid for mid, entry in zip(classes.mids, entries, strict=True) if float(entry)]
    return entries


def positions_of(
    entries: Iterable[str | int],
    classes: ClassList,
    unknown: Callable[[str], None] | None = None,
) -> tuple[int, ...]:
    """Classes of labels from `label_entries`.

    Args:
        unknown: called with each label that is not in the class list, in place of an error.
    """
    entries, found, indices = list(entries), set[int](), set[int]()
    for entry in entries:
        try:
            position = _position(entry, classes)
        except LabelError as error:
            if unknown is None or error.reason != "unknown-label":
                raise
            unknown(str(entry))
            continue
        if isinstance(entry, int) or classes.named(entry) is None:
            if position in indices:
                raise LabelError(
                    f"index {position} is there twice in a list of {len(entries)}; a list of 0 and "
                    f"1 has an entry for each of the {len(classes)} classes",
                    fix="write each class once",
                )
            indices.add(position)
        found.add(position)
    return tuple(sorted(found))


def _entries(value: object, classes: ClassList) -> list[Any]:
    """Labels one by one: texts that are not empty, and numbers as they are."""
    entries: list[Any] = []
    if value is None:
        return entries
    for item in value if isinstance(value, list | tuple) else [value]:
        if isinstance(item, str):
            is_one = classes.named(item.strip()) is not None  # a name may have a |
            texts = [item] if is_one else item.split("|")
            entries += [text.strip() for text in texts if text.strip()]
        elif isinstance(item, int | float):  # bool too
            entries.append(item)
        else:
            raise _no_label(item)
    return entries


def _is_multi_hot(entries: list[Any], classes: ClassList) -> bool:
    """Whether labels are a 0 or 1 for each class; `LabelError` if they can be both that and indices
    or names."""
    texts = [entry for entry in entries if isinstance(entry, str)]
    no_indices = [entry for entry in entries if isinstance(entry, bool | float)]
    is_binary = bool(entries) and all(entry in (0, 1, "0", "1") for entry in entries)
    fits = is_binary and len(entries) == len(classes)
    if no_indices:
        if not is_binary:
            raise _no_label(no_indices[0])
        if not fits:
            raise LabelError(
                f"a list of {len(entries)} times 0 or 1 for {len(classes)} classes",
                fix="write an entry for each class, or names",
            )
        return True
    if not fits or (texts and len(classes) <= 2):
        return False
    if any(classes.named(text) is not None for text in texts):
        other = "names"
    elif len(set(entries)) == len(entries) and max(entries) < len(classes):
        other = "indices"
    else:
        return True
    raise LabelError(
        f"{entries!r:.80} can be {other} of classes, or a 0 or 1 for each of {len(classes)}",
        fix="write names or mids",
    )


def _position(entry: str | int, classes: ClassList) -> int:
    position = classes.find(str(entry))
    if position is None:
        raise LabelError(
            f"label {str(entry)!r:.80} is not in the class list of {len(classes)} classes",
            fix=lambda: _nearest(str(entry), classes),
            reason="unknown-label",
        )
    if isinstance(entry, int) and 0 <= entry < len(classes) and entry != position:
        raise LabelError(
            f"{entry} can be the index of {classes.names[entry]!r}, or the name of the class with "
            f"the index {position}",
            fix="write names or mids",
        )
    return position


def _nearest(label: str, classes: ClassList) -> str:
    for separator in ",;/":
        parts = [part.strip() for part in label.split(separator)]
        if len(parts) > 1 and all(classes.find(part) is not None for part in parts):
            return f"separate labels by |, as in {'|'.join(parts)}"
    nearest = classes.nearest(label)
    return f"did you mean {nearest!r}?" if nearest else "add it to --class-labels"


def _no_label(item: object) -> LabelError:
    return LabelError(
        f"a label is neither text nor an index: {item!r:.80}", fix='write ["mid", ...]'
    )


def resolve_labels(value: object, classes: ClassList, where: str) -> tuple[int, ...]:
    """As `label_positions`; errors say where the labels are."""
    try:
        return label_positions(value, classes)
    except LabelError as error:
        raise ManifestError(str(error), where=where, fix=error.fix) from None


def shortened(clip: Clip) -> Clip:
    """The clip, with an id of at most `MAX_CLIP_ID_BYTES`: as much of a longer one as fits before
    a hash of the whole, which `source` keeps."""
    short = short_id(clip.clip_id)
    if short == clip.clip_id:
        return clip
    return replace(clip, clip_id=short, source=f"{clip.source}{WHOLE_ID}{clip.clip_id}")


def short_id(clip_id: str) -> str:
    """The id under which a clip is packed."""
    encoded = clip_id.encode()
    if len(encoded) <= MAX_CLIP_ID_BYTES:
        return clip_id
    mark = "~" + hashlib.blake2b(encoded, digest_size=8).hexdigest()
    return encoded[: MAX_CLIP_ID_BYTES - len(mark)].decode(errors="ignore") + mark


def checked(clips: Iterable[Clip]) -> Iterator[Clip]:
    """Yield the clips, long ids shortened; raise `ManifestError` at the first whose id is empty,
    whose text is not UTF-8 or whose times are not valid."""
    num_shortened = 0
    for clip in clips:
        try:
            f"{clip.clip_id}{clip.split}{clip.path}".encode()
        except UnicodeEncodeError:
            raise ManifestError(
                "the clip's id, split or path is not text that UTF-8 can hold",
                where=ascii(clip.source),
                fix="rename it",
            ) from None
        if not clip.clip_id:
            raise ManifestError(
                "the clip id is empty", where=clip.source, fix="give the clip a clip_id"
            )
        if not 0 <= clip.start_s < clip.end_s:
            raise ManifestError(
                f"the clip runs from {clip.start_s} s to {clip.end_s} s",
                where=clip.source,
                fix="start_s must be at least 0 and less than end_s",
            )
        short = shortened(clip)
        num_shortened += short is not clip
        yield short
    if num_shortened:
        logger.warning(
            "%d clip ids of more than %d bytes are shortened; the clip's JSON has the whole",
            num_shortened,
            MAX_CLIP_ID_BYTES,
        )
