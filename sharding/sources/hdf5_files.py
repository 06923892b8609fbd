"""HDF5 files in the layouts of PANNs and PaSST: what they hold, row by row.

PANNs: `waveform` int16 (rows, samples), `target` bool (rows, classes), attribute `sample_rate`.
PaSST: `mp3`, bytes of a file a row, `target` uint8 (rows, classes / 8), packed bits.
Both: `audio_name`, bytes.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32

from psla_wds.audio.decode import MAX_CLIP_S
from psla_wds.errors import ConfigError, ManifestError

AUDIO_ARRAYS = ("waveform", "mp3")
RATE_ATTRIBUTE = "sample_rate"


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
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ManifestError(f"not an HDF5 file: {error}", where=path, fix="copy it again") from None
    with file:
        names = [name for name in AUDIO_ARRAYS if name in file]
        right = len(names) == 1 and all(
            isinstance(file.get(name, getlink=True), h5py.HardLink)
            and isinstance(file[name], h5py.Dataset)
            and not (file[name].is_virtual or file[name].external)
            for name in ("audio_name", "target", *names)
        )
        lengths = {len(file[name]) for name in ("audio_name", "target", *names)} if right else set()
        if len(lengths) != 1 or lengths.pop() > path.stat().st_size:  # each row has its own bytes
            raise ManifestError(
                "the file has not the arrays audio_name, target, and waveform or mp3, of equal "
                "length and in the file itself",
                where=path,
                fix="convert it to one of the layouts of PANNs and PaSST",
            )
        yield file


def names_of(file: Any, rows: slice) -> list[str]:
    """Names in these rows; empty if the packer found no audio and left the row out."""
    names = file["audio_name"][rows]
    return [bytes(name).rstrip(b"\0").decode(errors="replace") for name in names]


def targets_of(file: Any, rows: slice, num_classes: int) -> Bool[np.ndarray, "rows classes"]:
    """Targets of these rows; `ValueError` unless they have this many classes."""
    targets = file["target"][rows]
    if targets.dtype == np.uint8 and targets.ndim == 2 and targets.shape[1] != num_classes:
        padded = np.unpackbits(targets, axis=1)
        if targets.shape[1] != -(-num_classes // 8) or padded[:, num_classes:].any():
            raise ValueError(f"{8 * targets.shape[1]} packed bits")
        targets = padded[:, :num_classes]
    if targets.ndim != 2 or targets.shape[1] != num_classes:
        raise ValueError(f"shape {file['target'].shape}")
    return targets.astype(bool)


def read_row(path: Path, row: int) -> io.BytesIO | tuple[Float32[np.ndarray, "samples 1"], int]:
    """Bytes of the row's audio file, or its waveform in [-1, 1] and sample rate."""
    with open_hdf5(path) as file:
        if "mp3" in file:
            return io.BytesIO(np.asarray(file["mp3"][row], np.uint8).tobytes())
        rate_hz = int(file.attrs[RATE_ATTRIBUTE])
        if file["waveform"].shape[1] > MAX_CLIP_S * rate_hz:
            raise ValueError(f"rows are longer than {MAX_CLIP_S:g} s")
        pcm = file["waveform"][row]
        scale = 32768.0 if pcm.dtype == np.int16 else 1.0
        waveform = pcm.astype(np.float32)[:, None] / np.float32(scale)
        return waveform, rate_hz
