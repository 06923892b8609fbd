"""The manifest: the labelled clips of a data set, before they are packed."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from psla_wds.errors import ManifestError
from psla_wds.io.locations import Location
from psla_wds.labels.class_list import ClassList

MAX_CLIP_ID_BYTES = 200
"""A tar header holds names of 100 bytes; longer ones are legal up to a file system's 255."""


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
    part: ByteRange | Row | None = None
    """Place of the clip within the file, if the file holds several."""
    refusal: tuple[str, str] | None = None
    """Reason and detail, if the source itself shows that the clip cannot be used."""


def resolve_labels(labels: Iterable[str], classes: ClassList, where: str) -> tuple[int, ...]:
    """Classes of these mids, names or indices: sorted, unique; empty texts are ignored.

    A label given twice counts once: the official code adds it twice when it mixes two clips, and
    once when it does not.
    """
    found = set()
    for label in filter(None, (text.strip() for text in labels)):
        position = classes.find(label)
        if position is None:
            nearest = classes.nearest(label)
            raise ManifestError(
                f"label {label!r} is not in the class list of {len(classes)} classes",
                where=where,
                fix=f"did you mean {nearest!r}?" if nearest else "add it to --class-labels",
            )
        found.add(position)
    return tuple(sorted(found))


def checked(clips: Iterable[Clip]) -> Iterator[Clip]:
    """Yield the clips whose id is short enough, whose text is UTF-8 and whose times are valid;
    raise `ManifestError` at the first other clip."""
    for clip in clips:
        try:
            f"{clip.clip_id}{clip.split}{clip.path}".encode()
        except UnicodeEncodeError:
            raise ManifestError(
                "the clip's id, split or path is not text that UTF-8 can hold",
                where=ascii(clip.source),
                fix="rename it",
            ) from None
        length = len(clip.clip_id.encode())
        if not 1 <= length <= MAX_CLIP_ID_BYTES:
            raise ManifestError(
                f"a clip id has 1 to {MAX_CLIP_ID_BYTES} bytes, this one {length}",
                where=clip.source,
                fix="give the clip a shorter clip_id",
            )
        if not 0 <= clip.start_s < clip.end_s:
            raise ManifestError(
                f"the clip runs from {clip.start_s} s to {clip.end_s} s",
                where=clip.source,
                fix="start_s must be at least 0 and less than end_s",
            )
        yield clip
