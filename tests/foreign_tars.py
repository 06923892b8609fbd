"""Tars as others build them: by webdataset's writer, or member by member."""

import io
import tarfile
from pathlib import Path

import numpy as np
import soundfile
import webdataset
from conftest import TINY_CLASSES

RATE_HZ = 16_000


def audio_of(number: int, extension: str, channels: int = 1, rate_hz: int = RATE_HZ) -> bytes:
    """Noise around a tone. With two channels their sum is even, so that their mean is exact."""
    rng = np.random.default_rng(number)
    time_s = np.arange(round(rate_hz * rng.uniform(0.3, 0.6))) / rate_hz
    tone = 8000 * np.sin(2 * np.pi * 300 * 4 ** (number % 4) * time_s)
    pcm = (tone + 1000 * rng.standard_normal(len(time_s))).astype(np.int16)
    if channels == 2:
        offset = rng.integers(-500, 500, len(pcm)).astype(np.int16)
        pcm = np.stack([pcm + offset, pcm - offset], axis=1)
    buffer = io.BytesIO()
    soundfile.write(buffer, pcm, rate_hz, format=extension.upper())
    return buffer.getvalue()


def write_tars(folder: Path, samples: list[dict], per_tar: int = 8) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with webdataset.ShardWriter(f"{folder}/part-%03d.tar", maxcount=per_tar, verbose=0) as writer:
        for sample in samples:
            writer.write(sample)
    return folder


def write_members(tar: Path, members: dict[str, bytes]) -> Path:
    tar.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(tar, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return tar.parent


def write_class_labels(path: Path) -> Path:
    lines = [f'{i},/t/{i},"{name}"\n' for i, name in enumerate(TINY_CLASSES)]
    path.write_text("index,mid,display_name\n" + "".join(lines))
    return path


GOOD = {"good.wav": audio_of(0, "wav"), "good.txt": b"low"}
