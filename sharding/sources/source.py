"""What every source is, and how it looks at folders."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol, runtime_checkable

from psla_wds import ffmpeg
from psla_wds.errors import ManifestError
from psla_wds.labels import ClassList
from psla_wds.manifest import Clip

AUDIO_SUFFIXES = {
    ".aif",
    ".aiff",
    ".au",
    ".caf",
    ".flac",
    ".mp3",
    ".oga",
    ".ogg",
    ".opus",
    ".wav",
    *ffmpeg.SUFFIXES,
}


@runtime_checkable
class Source(Protocol):
    """Where labelled clips come from."""

    def read(self) -> tuple[ClassList, Iterable[Clip]]: ...


def require(condition: bool, what: str, where: object, fix: str) -> None:
    if not condition:
        raise ManifestError(what, where=where, fix=fix)


def require_folder(folder: Path, fix: str) -> None:
    require(folder.is_dir(), "there is no such folder", folder, fix)


def files_below(folder: Path) -> Iterator[Path]:
    """Every file that is not hidden, in no order; `ManifestError` if a folder cannot be read."""
    for parent, _, names in os.walk(folder, onerror=_refuse, followlinks=True):
        for name in names:
            path = Path(parent, name)
            if name[0] != "." and path.is_file():
                yield path


def _refuse(error: OSError) -> None:
    raise ManifestError(
        f"the folder cannot be read: {error.strerror}",
        where=error.filename,
        fix="give read access, or move it out of the data set",
    ) from None
