"""Data sets as they come: each source gives a class list and its clips."""

import csv
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tyro.conf import Positional

from psla_wds.errors import ManifestError
from psla_wds.labels import ClassList, read_class_list
from psla_wds.manifest import Clip, resolve_labels

AUDIOSET_COLUMNS = 4


class Source(Protocol):
    """Where labelled clips come from."""

    def read(self) -> tuple[ClassList, Iterable[Clip]]: ...


@dataclass(frozen=True, kw_only=True)
class ManifestSource:
    """Clips listed in a .jsonl or .csv file, one a row."""

    file: Positional[Path]
    """Columns or keys: path, labels, and optionally clip_id, start_s, end_s, split. Labels are
    mids, display names or indices: a list in JSONL, separated by | in CSV."""
    class_labels: Path
    """CSV of the classes: index,mid,display_name."""
    audio_root: Path | None = None
    """Folder that relative paths start from; that of the file unless set."""

    def read(self) -> tuple[ClassList, Iterable[Clip]]:
        classes = read_class_list(self.class_labels)
        return classes, self._clips(classes)

    def _clips(self, classes: ClassList) -> Iterator[Clip]:
        root = self.audio_root or self.file.parent
        _require(root.is_dir(), "the audio folder does not exist", root, "set --audio-root")
        for where, row in _manifest_rows(self.file):
            yield _clip_of_row(row, classes, root, where)


@dataclass(frozen=True, kw_only=True)
class AudioSetSource:
    """Clips listed in AudioSet's segments CSV, one file each, cut already."""

    segments: Path
    """Such as balanced_train_segments.csv."""
    audio_root: Path
    """Folder of the clips, searched with its subfolders. File names are Y<id>, <id>,
    <id>_30.000, <id>_30.000_40.000 or <id>_30000_40000, with any extension."""
    class_labels: Path
    """class_labels_indices.csv: index,mid,display_name."""

    def read(self) -> tuple[ClassList, Iterable[Clip]]:
        classes = read_class_list(self.class_labels)
        return classes, self._clips(classes)

    def _clips(self, classes: ClassList) -> Iterator[Clip]:
        _require(
            self.audio_root.is_dir(), "no such audio folder", self.audio_root, "set --audio-root"
        )
        files = {path.stem: path for path in sorted(_audio_files(self.audio_root))}
        name = self.segments.stem
        split = name.removesuffix("_segments") if name.endswith("_segments") else ""
        for where, (youtube_id, start, end, mids) in _segment_rows(self.segments):
            names = _audioset_names(youtube_id, start, end)
            path = next((files[name] for name in names if name in files), None)
            yield Clip(
                clip_id=youtube_id,
                path=path or self.audio_root / f"{names[0]}.wav",
                labels=resolve_labels(mids.split(","), classes, where),
                split=split,
                source=where,
            )


@dataclass(frozen=True, kw_only=True)
class FolderSource:
    """A folder per class, with the clips of the class in it."""

    folder: Positional[Path]
    """Its subfolders are the classes, named by mid, display name or, without --class-labels,
    by themselves."""
    class_labels: Path | None = None
    """CSV of the classes: index,mid,display_name."""

    def read(self) -> tuple[ClassList, Iterable[Clip]]:
        _require(self.folder.is_dir(), "there is no such folder", self.folder, "check the path")
        folders = sorted(p for p in self.folder.iterdir() if p.is_dir() and p.name[0] != ".")
        _require(
            bool(folders), "the folder has no subfolder", self.folder, "make one for each class"
        )
        names = tuple(folder.name for folder in folders)
        if self.class_labels:
            classes = read_class_list(self.class_labels)
        else:
            classes = ClassList(names, names)
        return classes, self._clips(folders, classes)

    def _clips(self, folders: list[Path], classes: ClassList) -> Iterator[Clip]:
        for folder in folders:
            labels = resolve_labels([folder.name], classes, str(folder))
            for path in sorted(_audio_files(folder)):
                yield Clip(
                    clip_id=path.relative_to(self.folder).as_posix(),
                    path=path,
                    labels=labels,
                    split="",
                    source=str(path),
                )


def _require(condition: bool, what: str, where: object, fix: str) -> None:
    if not condition:
        raise ManifestError(what, where=where, fix=fix)


def _audio_files(folder: Path) -> Iterator[Path]:
    """Every file that is not hidden; one that is no audio is refused by name when packed."""
    return (p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))


def _clip_of_row(row: dict[str, Any], classes: ClassList, root: Path, where: str) -> Clip:
    for key in ("path", "labels"):
        _require(bool(row.get(key)), f"the row has no {key}", where, "fill in path and labels")
    labels = row["labels"]
    _require(isinstance(labels, str | list), "labels are no text and no list", where, "write [...]")
    path = str(row["path"])
    try:
        start_s, end_s = (float(row.get(k) or d) for k, d in (("start_s", 0), ("end_s", math.inf)))
    except (ValueError, TypeError, OverflowError) as error:
        raise ManifestError(
            f"start_s or end_s: {error}", where=where, fix="write seconds, such as 30.0"
        ) from None
    return Clip(
        clip_id=str(row.get("clip_id") or path),
        path=root / path,
        labels=resolve_labels(
            labels.split("|") if isinstance(labels, str) else map(str, labels), classes, where
        ),
        split=str(row.get("split") or ""),
        source=where,
        start_s=start_s,
        end_s=end_s,
    )


def _lines(path: Path) -> Iterator[str]:
    _require(path.is_file(), "there is no such file", path, "check the path")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from file
    except UnicodeDecodeError as error:
        raise ManifestError(
            f"the file is not UTF-8: {error}", where=path, fix="convert it: iconv -t utf-8"
        ) from None


def _manifest_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    known = path.suffix in (".jsonl", ".csv")
    _require(known, "the manifest is neither .jsonl nor .csv", path, "rename or convert it")
    return _jsonl_rows(path) if path.suffix == ".jsonl" else _csv_rows(path)


def _jsonl_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(_lines(path), 1):
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ManifestError(
                f"the line is not JSON: {error}", where=where, fix="write one object a line"
            ) from None
        _require(isinstance(row, dict), "the line is no object", where, "write {...}")
        yield where, row


def _csv_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    reader = csv.DictReader(_lines(path), skipinitialspace=True)
    columns = set(reader.fieldnames or ())
    _require(
        {"path", "labels"} <= columns,
        "the first line must name the columns path and labels",
        path,
        "add a header: path,labels",
    )
    for row in reader:
        where = f"{path}, line {reader.line_num}"
        complete = None not in row and None not in row.values()
        _require(complete, "the row has too many or too few values", where, "quote commas")
        yield where, row


def _segment_rows(path: Path) -> Iterator[tuple[str, tuple[str, float, float, str]]]:
    reader = csv.reader(_lines(path), skipinitialspace=True)
    for row in reader:
        where = f"{path}, line {reader.line_num}"
        if not row or row[0].startswith("#"):
            continue
        form = 'write: YTID, start_seconds, end_seconds, "mid,mid"'
        _require(len(row) == AUDIOSET_COLUMNS, "the row has not four values", where, form)
        try:
            yield where, (row[0], float(row[1]), float(row[2]), row[3])
        except ValueError as error:
            raise ManifestError(f"start or end: {error}", where=where, fix=form) from None


def _audioset_names(youtube_id: str, start_s: float, end_s: float) -> list[str]:
    """Names under which the field's download tools save a clip, the most usual first."""
    return [
        f"Y{youtube_id}",
        youtube_id,
        f"{youtube_id}_{start_s:.3f}_{end_s:.3f}",
        f"{youtube_id}_{start_s:.3f}",
        f"{youtube_id}_{start_s * 1000:.0f}_{end_s * 1000:.0f}",
        f"Y{youtube_id}_{start_s:.3f}_{end_s:.3f}",
    ]
