"""WebDataset tars that others built, to be packed again."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO

from tyro.conf import Positional

from psla_wds.audio.kinds import AUDIO_SUFFIXES
from psla_wds.cli import LocationArg
from psla_wds.errors import ClipRefusedError
from psla_wds.io.locations import Location
from psla_wds.io.stores import at
from psla_wds.labels.class_list import ClassList, read_class_list
from psla_wds.labels.manifest import ByteRange, Clip
from psla_wds.shards.index_files import CLASS_LABELS
from psla_wds.shards.tar import tars_in
from sharding.foreign.labels import check_keys, describe
from sharding.foreign.tar_members import Members, kind_of, members_by_key
from sharding.sources.source import require, require_folder


@dataclass(frozen=True, kw_only=True)
class TarsSource:
    """WebDataset tars: KEY.wav or another audio format, with labels in KEY.json, .cls or .txt.

    Packs them again: shuffled, at one rate, in one codec. python -m sharding.index uses tars
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
        tars = tars_in(self.folder)
        require(bool(tars), "there are no tars here", self.folder, "check the path")
        for tar in tars:
            with at(tar).local_copy() as local, local.open("rb") as file:
                for key, members in members_by_key(local, where=tar).items():
                    yield _clip(tar, key, members, file, classes)


def _clip(tar: Location, key: str, members: Members, file: IO[bytes], classes: ClassList) -> Clip:
    source = f"{tar}, member {key}"
    try:
        check_keys(key, members)
        extension = _audio_extension(members)
        description = describe(key, members, extension, file, classes)
    except ClipRefusedError as error:
        refusal = (error.reason, str(error))
        return Clip(key, tar, (), "", source, refusal=refusal)
    audio = members[extension][0]
    return Clip(
        clip_id=description.clip_id,
        path=tar,
        labels=description.labels,
        split=description.split,
        source=source,
        part=ByteRange(audio.offset_data, audio.size),
    )


def _audio_extension(members: Members) -> str:
    audio = [extension for extension in members if f".{kind_of(extension)}" in AUDIO_SUFFIXES]
    if len(audio) != 1:
        found = f"{len(audio)} of the members {', '.join(members)} are audio"
        raise ClipRefusedError("two-audio" if audio else "no-audio", found)
    return audio[0]
