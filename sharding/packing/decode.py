"""Waveform of a clip, whether it lies in its own file, a tar, an HDF5 or a Parquet file."""

import io
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from psla_wds.audio.decode import Excerpt, load_clip, resample
from psla_wds.audio.files import Notes
from psla_wds.errors import ClipRefusedError, PslaError
from psla_wds.io.locations import Location
from psla_wds.io.stores import at
from psla_wds.labels.manifest import ByteRange, Cell, Clip, Row
from sharding.sources.hdf5_files import read_row
from sharding.sources.parquet_files import read_cell


def decode(
    clip: Clip,
    *,
    sample_rate_hz: int,
    max_s: float = math.inf,
    notes: Notes | None = None,
) -> Float32[np.ndarray, " samples"]:
    """One channel in [-1, 1], at most `max_s` seconds; `ClipRefusedError` if it cannot be used.

    Args:
        notes: takes what is odd about the audio.
    """
    if clip.refusal:
        raise ClipRefusedError(*clip.refusal)
    notes = notes or Notes()
    if isinstance(clip.part, Row):
        with at(clip.path).local_copy() as path:
            return _decode_row(path, clip.part, max_s, sample_rate_hz, notes)
    with _opened(clip) as source:
        excerpt = Excerpt(clip.start_s, clip.end_s, clip.may_be_cut, max_s)
        return load_clip(
            source, excerpt, sample_rate_hz=sample_rate_hz, notes=notes, suffix=clip.suffix
        )


@contextmanager
def _opened(clip: Clip) -> Iterator[Path | io.BytesIO]:
    """The clip's file on a disk, or its bytes within a tar or a Parquet file."""
    if isinstance(clip.part, ByteRange | Cell):
        yield io.BytesIO(_part_of(clip.path, clip.part))
        return
    try:
        with at(clip.path).local_copy() as path:
            if not os.path.isfile(path):  # unlike Path.is_file, false for names that are too long
                raise FileNotFoundError
            yield path
    except FileNotFoundError:
        raise ClipRefusedError("missing", "there is no such file") from None


def _part_of(path: Location, part: ByteRange | Cell) -> bytes:
    try:
        if isinstance(part, ByteRange):
            return at(path).read_range(part.offset, part.size)
        content = read_cell(path, part)
    except OSError as error:
        raise ClipRefusedError("unreadable", error.strerror or str(error)) from None
    if content is None:
        raise ClipRefusedError("missing", "the row has no bytes of audio; paths are not followed")
    return content


def _decode_row(
    path: Path, row: Row, max_s: float, sample_rate_hz: int, notes: Notes
) -> Float32[np.ndarray, " samples"]:
    try:
        audio = read_row(path, row.number)
    except (PslaError, OSError, ValueError, IndexError) as error:
        raise ClipRefusedError("unreadable", str(error).splitlines()[0]) from None
    if isinstance(audio, io.BytesIO):
        return load_clip(audio, Excerpt(max_s=max_s), sample_rate_hz=sample_rate_hz, notes=notes)
    waveform, source_rate_hz = audio
    num_samples = round(min(max_s * source_rate_hz, len(waveform)))
    blocks = resample([waveform[:num_samples]], source_rate_hz, sample_rate_hz, notes)
    return np.concatenate(list(blocks))
