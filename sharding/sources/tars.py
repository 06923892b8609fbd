"""WebDataset tars that others built, to be packed again."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass, replace
from typing import IO

from tyro.conf import Positional

from psla_wds.audio.kinds import AUDIO_SUFFIXES
from psla_wds.cli import LocationArg
from psla_wds.errors import ClipRefusedError
from psla_wds.io.locations import Location
from psla_wds.io.scratch import scratch_database, scratch_errors
from psla_wds.io.stores import at
from psla_wds.labels.class_list import ClassList, read_class_list
from psla_wds.labels.manifest import ByteRange, Clip
from psla_wds.progress import progress_bar
from psla_wds.shards.index_files import CLASS_LABELS
from psla_wds.shards.tar import tars_in
from sharding.foreign.labels import Description, LabelRules, check_keys, describe
from sharding.foreign.tar_members import Members, kind_of, members_by_key, require_plain
from sharding.sources.label_table import LabelOptions, LabelTable
from sharding.sources.source import require, require_folder

FIRST = ("aif", "aiff", "au", "caf", "flac", "mp3", "oga", "ogg", "opus", "wav")
"""Extensions of audio to take where a clip also has a video, for instance."""


Refusal = tuple[str, str]
"""Reason and detail."""


@dataclass(frozen=True, kw_only=True)
class TarsSource(LabelOptions):
    """WebDataset tars: KEY.wav or another audio format, with labels in KEY.json, .cls or .txt, or
    in a table beside the tars.

    Packs them again: shuffled, at one rate, in one codec. psla-wds index uses tars
    unchanged.
    """

    folder: Positional[LocationArg]
    """Folder of the tars, or its URL."""
    class_labels: LocationArg | None = None
    """CSV of the classes: index,mid,display_name. Default: the one in the folder."""

    def read(self) -> tuple[ClassList, Iterable[Clip]]:
        require_folder(self.folder, "check the path")
        classes = read_class_list(self.class_labels or self.folder / CLASS_LABELS)
        return classes, self._clips(classes)

    def _clips(self, classes: ClassList) -> Iterator[Clip]:
        tars, rules = tars_in(self.folder), self.rules(classes)
        require_plain(self.folder)
        require(bool(tars), "there are no tars here", self.folder, "check the path")
        found = _Found()
        for number, tar in enumerate(progress_bar(tars, desc="reading tars", unit="tar")):
            with at(tar).local_copy() as local, local.open("rb") as file:
                for key, members in members_by_key(local, where=tar).items():
                    found.add(number, *_found(key, members, file, rules))
        rules = replace(rules, by_tar=found.ids_repeat)
        for number, description, part, refusal in found:
            yield _clip(tars[number], description, part, refusal, rules)
        if isinstance(rules.elsewhere, LabelTable):
            rules.elsewhere.warn_of_unused()


class _Found:
    """What the tars hold, on disk until it is known whether their keys repeat."""

    def __init__(self) -> None:
        self.ids_repeat = False
        with scratch_errors():
            self._database = scratch_database(self)
            self._database.execute("CREATE TABLE ids (id PRIMARY KEY) WITHOUT ROWID")
            self._database.execute("CREATE TABLE found (clip)")

    def add(
        self, tar: int, clip: Description, part: ByteRange | None, refusal: Refusal | None
    ) -> None:
        with scratch_errors():
            insert = "INSERT OR IGNORE INTO ids VALUES (?)"
            added = self._database.execute(insert, (clip.clip_id("", by_tar=False),))
            self.ids_repeat |= not added.rowcount
            row = json.dumps([tar, astuple(clip), part and astuple(part), refusal])
            self._database.execute("INSERT INTO found VALUES (?)", (row,))

    def __iter__(self) -> Iterator[tuple[int, Description, ByteRange | None, Refusal | None]]:
        with scratch_errors():
            for (row,) in self._database.execute("SELECT clip FROM found"):
                tar, (key, name, own_id, labels, *rest), part, refusal = json.loads(row)
                clip = Description(key, name, own_id, tuple(labels), *rest)
                yield tar, clip, part and ByteRange(*part), refusal and (refusal[0], refusal[1])


def _found(
    key: str, members: Members, file: IO[bytes], rules: LabelRules
) -> tuple[Description, ByteRange | None, Refusal | None]:
    try:
        check_keys(key, members)
        extension = _audio_extension(members)
        description = describe(key, members, extension, file, rules)
    except ClipRefusedError as error:
        return Description(key, key, "", (), "", ""), None, (error.reason, str(error))
    audio = members[extension][0]
    return description, ByteRange(audio.offset_data, audio.size), None


def _clip(
    tar: Location,
    description: Description,
    part: ByteRange | None,
    refusal: Refusal | None,
    rules: LabelRules,
) -> Clip:
    labels: tuple[int, ...] = ()
    try:
        if not refusal:
            labels = rules.labels_of(description, tar.stem)
    except ClipRefusedError as error:
        refusal = (error.reason, str(error))
    return Clip(
        clip_id=description.clip_id(tar.stem, by_tar=rules.by_tar),
        path=tar,
        labels=labels,
        split=description.split,
        source=f"{tar}, member {description.key}",
        part=part,
        refusal=refusal,
        suffix=description.suffix,
    )


def _audio_extension(members: Members) -> str:
    audio = [extension for extension in members if f".{kind_of(extension)}" in AUDIO_SUFFIXES]
    if len(audio) > 1:
        audio = [extension for extension in audio if kind_of(extension) in FIRST] or audio
    if len(audio) != 1:
        found = f"{len(audio)} of the members {', '.join(members)} are audio"
        raise ClipRefusedError("two-audio" if audio else "no-audio", found)
    return audio[0]
