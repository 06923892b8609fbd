"""AudioSet: its segments CSV, and a folder of downloaded audio."""

import logging
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from posixpath import basename, splitext

from psla_wds.audio.folders import is_audio
from psla_wds.cli import LocationArg
from psla_wds.errors import ManifestError
from psla_wds.io.locations import Location, member
from psla_wds.io.scratch import scratch_database, scratch_errors, to_bytes, to_text
from psla_wds.io.stores import at
from psla_wds.labels.class_list import ClassList, read_class_list
from psla_wds.labels.manifest import Clip, resolve_labels
from sharding.sources.rows import csv_values, seconds
from sharding.sources.source import files_below, require, require_folder

NUM_COLUMNS = 4
NAMES = "ID, Title [ID], ID_30.000, ID_30, ID_30000, ID_000030, ID_30.000_40.000, ID_30_40, \
ID_30000_40000, ID_30.0-40.0, ID_30-40, ID-30-40"
"""Names that are found, for messages: of a segment from 30 s to 40 s."""
TITLE = re.compile(r".*(\[[^][]+\])", re.DOTALL)
"""Name that yt-dlp gives a video by default: its title, and its id in brackets."""
COMPARED_BYTES = 2**16
"""Bytes at the begin and at the end by which copies are recognised."""

logger = logging.getLogger("sharding.sources")


@dataclass(frozen=True, kw_only=True)
class AudioSetSource:
    """Clips listed in AudioSet's segments CSV: a file each, cut already or the whole video.

    A name with times (<id>_30.000_40.000.wav) is a cut clip. A file named by the id alone
    (<id>.wav) is a cut clip if it is at most a second longer than the row's segment; if it
    reaches to the segment's end, or a second before, it is the whole video, and cut by the row's
    start and end; of any other length it is refused.
    """

    segments: LocationArg
    """Segments CSV, such as balanced_train_segments.csv, which gives split balanced_train."""
    audio_root: LocationArg
    """Folder of the audio, searched with its subfolders. File names are ID, YID, "Title [ID]", or
    ID with times such as ID_30.000, ID_30.0-40.0 or ID_30000_40000, and the suffix of any audio
    format."""
    class_labels: LocationArg
    """CSV of the classes, class_labels_indices.csv: index,mid,display_name."""

    def read(self) -> tuple[ClassList, Iterable[Clip]]:
        classes = read_class_list(self.class_labels)
        return classes, self._clips(classes)

    def _clips(self, classes: ClassList) -> Iterator[Clip]:
        require_folder(self.audio_root, "set --audio-root")
        files = _AudioFiles(self.audio_root)
        name = self.segments.stem
        split = name.removesuffix("_segments") if name.endswith("_segments") else ""
        num_missing = 0
        for where, (youtube_id, start_s, end_s, mids) in _segments(self.segments):
            found = files.find(dict(file_names(youtube_id, start_s, end_s)))
            num_missing += not found
            if len(found) > 1 and not _are_copies([path for path, _ in found]):
                raise _several(youtube_id, [path for path, _ in found])
            path, is_cut = (
                found[0] if found else (member(self.audio_root, f"{youtube_id}.wav"), False)
            )
            yield Clip(
                clip_id=youtube_id,
                path=path,
                labels=resolve_labels(mids.split(","), classes, where),
                split=split,
                source=where,
                start_s=0.0 if is_cut else start_s,
                end_s=math.inf if is_cut else end_s,
                may_be_cut=not is_cut,
            )
        if num_missing:
            files.check_names(num_missing)


def file_names(youtube_id: str, start_s: float, end_s: float) -> Iterator[tuple[str, bool]]:
    """File names without suffix that download tools give a segment, and whether the name marks it
    as cut."""
    times = {
        f"_{start_s:.3f}",
        f"_{start_s:.3f}_{end_s:.3f}",
        f"_{start_s * 1000:.0f}",
        f"_{start_s * 1000:.0f}_{end_s * 1000:.0f}",
        f"_{start_s:06.0f}",
        f"_{start_s:g}",
        f"_{start_s:g}_{end_s:g}",
        f"_{start_s:g}-{end_s:g}",
        f"-{start_s:g}-{end_s:g}",
        f"_{start_s}-{end_s}",
    }
    yield f"[{youtube_id}]", False
    for prefix, suffix in product(("Y", ""), ("", *sorted(times))):
        yield f"{prefix}{youtube_id}{suffix}", bool(suffix)


class _AudioFiles:
    """Audio files of a folder, in a database by name without suffix; downloaders leave many other
    files."""

    def __init__(self, folder: Location) -> None:
        self._folder = folder
        with scratch_errors():
            self._database = scratch_database(self)
            self._database.execute("CREATE TABLE files (stem, name, used)")
            self._database.executemany("INSERT INTO files VALUES (?, ?, 0)", self._rows())
            self._database.execute("CREATE INDEX stems ON files (stem, name)")

    def _rows(self) -> Iterator[tuple[bytes, bytes]]:
        for name in files_below(self._folder):
            if is_audio(name):
                stem = splitext(basename(name))[0]
                title = TITLE.fullmatch(stem)
                yield to_bytes(title[1] if title else stem), to_bytes(name)

    def find(self, stems: dict[str, bool]) -> list[tuple[Location, bool]]:
        """Files with one of these names, and whether their name marks them as cut."""
        marks = ", ".join("?" * len(stems))
        wanted = f"SELECT stem, name FROM files WHERE stem IN ({marks}) ORDER BY name"
        keys = [*map(to_bytes, stems)]
        with scratch_errors():
            found = self._database.execute(wanted, keys).fetchall()
            if found:
                self._database.execute(f"UPDATE files SET used = 1 WHERE stem IN ({marks})", keys)
        return [(self._folder / to_text(name), stems[to_text(stem)]) for stem, name in found]

    def check_names(self, num_missing: int) -> None:
        """Report files that fit no row, where rows have no file; `ManifestError` if no row has."""
        count = "SELECT count(*), sum(used), min(CASE WHEN used THEN NULL ELSE name END) FROM files"
        with scratch_errors():
            number, used, name = self._database.execute(count).fetchone()
        if not used:
            example = f", such as {basename(to_text(name))!a}" if number else ""
            raise ManifestError(
                f"of {number:,} audio files, none has a name of a clip in the list{example}",
                where=self._folder,
                fix=f"check --audio-root and --segments, or rename; names that are found: {NAMES}",
            )
        if used < number:
            logger.warning(
                "%s clips have no file, and %s of %s files are those of no clip, such as %s",
                f"{num_missing:,}",
                f"{number - used:,}",
                f"{number:,}",
                ascii(to_text(name)),
            )


def _are_copies(paths: list[Location]) -> bool:
    """Whether files have one name, size, begin and end; a downloader puts one into each of its
    classes."""
    return len({path.name for path in paths}) == len({*map(_sample_of, paths)}) == 1


def _sample_of(path: Location) -> tuple[int, bytes, bytes]:
    size = at(path).size() or 0
    part = min(size, COMPARED_BYTES)
    begin, end = (at(path).read_range(first, part) for first in (0, size - part))
    return size, begin, end


def _several(youtube_id: str, paths: list[Location]) -> ManifestError:
    return ManifestError(
        f"there are {len(paths)} files for clip {youtube_id!r}",
        where=" and ".join(sorted(map(str, paths))),
        fix="keep one of them, or narrow --audio-root; copies have one name and one content",
    )


def _segments(path: Location) -> Iterator[tuple[str, tuple[str, float, float, str]]]:
    form = 'write: YTID, start_seconds, end_seconds, "mid,mid"'
    for where, row in csv_values(path, comment="#"):
        require(len(row) == NUM_COLUMNS, "the row does not have four values", where, form)
        yield where, (row[0], seconds(row[1], where), seconds(row[2], where), row[3])
