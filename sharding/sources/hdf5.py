"""HDF5 files in the layouts of PANNs and PaSST."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tyro.conf import Positional

from psla_wds.cli import LocationArg
from psla_wds.errors import ManifestError
from psla_wds.labels.class_list import ClassList, read_class_list
from psla_wds.labels.manifest import Clip, Row
from sharding.sources.hdf5_files import (
    RATE_ATTRIBUTE,
    ROWS_AT_ONCE,
    names_of,
    open_hdf5,
    targets_of,
)
from sharding.sources.source import require

AUDIOSET_NAME = re.compile(r"Y([\w-]{11})")


@dataclass(frozen=True, kw_only=True)
class Hdf5Source:
    """Clips in HDF5 files, in the layout of PANNs (arrays audio_name, waveform, target) or PaSST
    (audio_name, mp3, target). The clip id is the row's name without suffix; for AudioSet's names,
    Y<id>.wav, the id."""

    files: Positional[tuple[Path, ...]]
    """HDF5 files on a disk, all of one split."""
    class_labels: LocationArg
    """CSV of the classes, index,mid,display_name, in the order of the targets."""
    split: str = ""
    """Name of the split, such as train."""

    def read(self) -> tuple[ClassList, Iterable[Clip]]:
        require(bool(self.files), "no HDF5 file is given", "hdf5 FILE", "name one or more")
        classes = read_class_list(self.class_labels)
        return classes, self._clips(classes)

    def _clips(self, classes: ClassList) -> Iterator[Clip]:
        for path in self.files:
            require(path.is_file(), "there is no such file", path, "copy or mount it here")
            with open_hdf5(path) as file:
                has_rate = "mp3" in file or RATE_ATTRIBUTE in file.attrs
                fix = "set it: h5py.File(FILE, 'a').attrs['sample_rate'] = 32000"
                require(has_rate, "the file does not say its sample_rate", path, fix)
                for row, (name, target) in enumerate(_rows(file, path, len(classes))):
                    yield self._clip(path, row, name, np.flatnonzero(target))

    def _clip(self, path: Path, row: int, name: str, labels: np.ndarray) -> Clip:
        stem = name.rpartition(".")[0] or name
        audioset = AUDIOSET_NAME.fullmatch(stem)
        absent = ("missing", "the row is empty: its packer did not find the audio")
        return Clip(
            clip_id=(audioset[1] if audioset else stem) or f"{path.stem}-{row}",
            path=path,
            labels=tuple(labels.tolist()),
            split=self.split,
            source=f"{path}, row {row}",
            part=Row(row),
            refusal=None if name else absent,
        )


def _rows(file: Any, path: Path, num_classes: int) -> Iterator[tuple[str, np.ndarray]]:
    for start in range(0, len(file["audio_name"]), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        try:
            targets = targets_of(file, rows, num_classes)
        except ValueError as error:
            raise ManifestError(
                f"target has {error}, the class list {num_classes} classes",
                where=path,
                fix="name the class list that the file was made with",
            ) from None
        yield from zip(names_of(file, rows), targets, strict=True)
