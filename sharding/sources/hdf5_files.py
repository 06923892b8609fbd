"""HDF5 files in the layouts of PANNs and PaSST: what they hold, row by row.

PANNs: `waveform` int16 (rows, samples), `target` bool (rows, classes), attribute `sample_rate`.
PaSST: `mp3`, bytes of a file a row, `target` uint8 (rows, classes / 8), packed bits.
Both: `audio_name`, bytes.
"""

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32

from psla_wds.audio.decode import MAX_CLIP_S, MAX_RATE_HZ
from psla_wds.errors import DAMAGE, ConfigError, ManifestError

AUDIO_ARRAYS = ("waveform", "mp3")
RATE_ATTRIBUTE = "sample_rate"
MOST_ROW_BYTES = {"audio_name": 2**16, "target": 2**17}
"""Most bytes of a row of these arrays; in memory, a class takes a byte or a bit."""
MOST_AUDIO_BYTES = 8 * int(MAX_CLIP_S * MAX_RATE_HZ)
MOST_CHUNK_BYTES = 2**28
"""Most bytes of a chunk, which is decompressed as a whole."""
ROWS_AT_ONCE = 1000
"""Rows whose names and targets are in memory (up to 192 MiB)."""


@contextmanager
def open_hdf5(path: Path) -> Iterator[Any]:
    """Open the file after checking its layout. All arrays must be in the file itself: a link or
    external storage could name any other file."""
    try:
        import h5py  # here, since it is an extra
    except ImportError:
        raise ConfigError(
            "HDF5 files need h5py, which is not installed",
            where=path,
            fix="python -m pip install h5py",
        ) from None
    with _reader_errors(path), h5py.File(path, "r") as file:
        names = [name for name in AUDIO_ARRAYS if name in file]
        arrays = ("audio_name", "target", *names)
        right = len(names) == 1 and all(_is_plain(file, name, h5py) for name in arrays)
        lengths = {len(file[name]) for name in arrays} if right else set()
        if len(lengths) != 1 or lengths.pop() > path.stat().st_size:  # each row has its own bytes
            raise ManifestError(
                "the file has not the arrays audio_name, target, and waveform or mp3, of equal "
                "length, in the file itself, with rows and chunks of a bounded size",
                where=path,
                fix="convert it to one of the layouts of PANNs and PaSST",
            )
        yield file


def _is_plain(file: Any, name: str, h5py: Any) -> bool:
    """Whether a name is an array in the file itself, whose rows take no more memory than clips."""
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        return False
    array = file[name]
    if not isinstance(array, h5py.Dataset) or array.is_virtual or array.external:
        return False
    most = MOST_ROW_BYTES.get(name, MOST_AUDIO_BYTES)
    chunk = math.prod(array.chunks or ()) * array.dtype.itemsize
    row = math.prod(array.shape[1:]) * array.dtype.itemsize
    return 1 <= array.ndim <= 2 and row <= most and chunk <= MOST_CHUNK_BYTES


@contextmanager
def _reader_errors(path: Path) -> Iterator[None]:
    """Report what damage in a file leads h5py to, whatever its type."""
    try:
        yield
    except (*DAMAGE, RuntimeError, MemoryError) as error:
        raise ManifestError(
            f"not an HDF5 file, or a damaged one: {str(error) or type(error).__name__:.200}",
            where=path,
            fix="copy it again",
        ) from None


def names_of(file: Any, rows: slice) -> list[str]:
    """Names in these rows; empty if the packer found no audio and left the row out."""
    names = file["audio_name"][rows]
    return [bytes(name).rstrip(b"\0").decode(errors="replace") for name in names]


def targets_of(file: Any, rows: slice, num_classes: int) -> Bool[np.ndarray, "rows classes"]:
    """Targets of these rows; `ValueError` unless they have this many classes."""
    array = file["target"]
    width = array.shape[1] if array.ndim == 2 else 0
    is_packed = array.dtype == np.uint8 and width != num_classes
    if width != (-(-num_classes // 8) if is_packed else num_classes):
        raise ValueError(f"{8 * width} packed bits" if is_packed else f"shape {array.shape}")
    targets = array[rows]
    if is_packed:
        padded = np.unpackbits(targets, axis=1)
        if padded[:, num_classes:].any():
            raise ValueError(f"{8 * width} packed bits")
        targets = padded[:, :num_classes]
    return targets.astype(bool)


def read_row(path: Path, row: int) -> io.BytesIO | tuple[Float32[np.ndarray, "samples 1"], int]:
    """Bytes of the row's audio file, or its waveform in [-1, 1] and sample rate."""
    with open_hdf5(path) as file:
        if "mp3" in file:
            return io.BytesIO(np.asarray(file["mp3"][row], np.uint8).tobytes())
        rate_hz = int(file.attrs[RATE_ATTRIBUTE])
        if file["waveform"].shape[1] > MAX_CLIP_S * min(rate_hz, MAX_RATE_HZ):
            raise ValueError(f"rows are longer than {MAX_CLIP_S:g} s")
        pcm = file["waveform"][row]
        scale = 32768.0 if pcm.dtype == np.int16 else 1.0
        waveform = pcm.astype(np.float32)[:, None] / np.float32(scale)
        return waveform, rate_hz
