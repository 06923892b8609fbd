"""AudioSet: its segments CSV, and a folder of downloaded audio."""

import math
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
    """Folder of the audio, searched with its subfolders. File names are [Y]<id>, [Y]<id>_30.000,
    [Y]<id>_30.000_40.000, [Y]<id>_30.0-40.0 or [Y]<id>_30000_40000, also with whole seconds, and
    the suffix of any audio format."""
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
        for where, (youtube_id, start_s, end_s, mids) in _segments(self.segments):
            found = files.find(dict(file_names(youtube_id, start_s, end_s)))
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


def file_names(youtube_id: str, start_s: float, end_s: float) -> Iterator[tuple[str, bool]]:
    """File names without suffix that download tools give a segment, and whether the name marks it
    as cut."""
    times = {
        f"_{start_s:.3f}",
        f"_{start_s:.3f}_{end_s:.3f}",
        f"_{start_s * 1000:.0f}_{end_s * 1000:.0f}",
        f"_{start_s:g}",
        f"_{start_s:g}_{end_s:g}",
        f"_{start_s}-{end_s}",
    }
    for prefix, suffix in product(("Y", ""), ("", *sorted(times))):
        yield f"{prefix}{youtube_id}{suffix}", bool(suffix)


class _AudioFiles:
    """Audio files of a folder, in a database by name without suffix; downloaders leave many other
    files."""

    def __init__(self, folder: Location) -> None:
        self._folder = folder
        with scratch_errors():
            self._database = scratch_database(self)
            self._database.execute("CREATE TABLE files (stem, name)")
            self._database.executemany("INSERT INTO files VALUES (?, ?)", self._rows())
            self._database.execute("CREATE INDEX stems ON files (stem, name)")

    def _rows(self) -> Iterator[tuple[bytes, bytes]]:
        for name in files_below(self._folder):
            if is_audio(name):
                yield to_bytes(splitext(basename(name))[0]), to_bytes(name)

    def find(self, stems: dict[str, bool]) -> list[tuple[Location, bool]]:
        """Files with one of these names, and whether their name marks them as cut."""
        marks = ", ".join("?" * len(stems))
        wanted = f"SELECT stem, name FROM files WHERE stem IN ({marks}) ORDER BY name"
        with scratch_errors():
            found = self._database.execute(wanted, [*map(to_bytes, stems)]).fetchall()
        return [(self._folder / to_text(name), stems[to_text(stem)]) for stem, name in found]


def _are_copies(paths: list[Location]) -> bool:
    """Whether files have one name and size; a downloader puts one into each of its classes."""
    return len({path.name for path in paths}) == len({at(path).size() for path in paths}) == 1


def _several(youtube_id: str, paths: list[Location]) -> ManifestError:
    return ManifestError(
        f"there are {len(paths)} files for clip {youtube_id!r}",
        where=" and ".join(sorted(map(str, paths))),
        fix="keep one of them, or narrow --audio-root",
    )


def _segments(path: Location) -> Iterator[tuple[str, tuple[str, float, float, str]]]:
    form = 'write: YTID, start_seconds, end_seconds, "mid,mid"'
    for where, row in csv_values(path, comment="#"):
        require(len(row) == NUM_COLUMNS, "the row does not have four values", where, form)
        yield where, (row[0], seconds(row[1], where), seconds(row[2], where), row[3])
