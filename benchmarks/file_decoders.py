"""Decoding of one file at a time, and the way with the ffmpeg program: for `bench_shard`."""

import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from benchmarks import harness
from psla_wds.audio.decode import Excerpt, load_clip
from psla_wds.runtime.memory import keep_freed_memory
from sharding.packing.shard import KEPT_BYTES

RATE_HZ, CLIP_S, LONG_S = 16_000, 10.0, 600
ROUND_CLIPS = 30
MAX_DIFFERENCE = 0.02
"""Share of the RMS by which two decoders of a lossy file may differ."""


@dataclass(frozen=True)
class Kind:
    """A kind of file, and the arguments that make ffmpeg write it."""

    name: str
    file: str
    arguments: str
    start_s: float = 0.0
    by_program: bool = True
    """Whether libsndfile cannot read it, so that it took the program."""


KINDS = (
    Kind("10 s m4a (AAC)", "a.m4a", "-c:a aac -b:a 128k"),
    Kind("10 s webm (Opus)", "a.webm", "-c:a libopus -b:a 96k -ar 48000"),
    Kind("10 s of a 10 min m4a", "long.m4a", "-c:a aac -b:a 128k", start_s=300.0),
    Kind("10 s mp3", "a.mp3", "-c:a libmp3lame -b:a 128k", by_program=False),
    Kind("10 s flac", "a.flac", "-c:a flac", by_program=False),
    Kind("10 s wav", "b.wav", "-c:a pcm_s16le", by_program=False),
)


def make_kinds(folder: Path, clip: Path) -> None:
    """A file of each kind from one clip of 10 s; the long one repeats it."""
    for kind in KINDS:
        repeats = ["-stream_loop", str(round(LONG_S / CLIP_S) - 1)] if kind.start_s else []
        command = ["ffmpeg", "-nostdin", "-v", "error", "-y", *repeats, "-i", str(clip)]
        subprocess.run([*command, *kind.arguments.split(), str(folder / kind.file)], check=True)


def ours(path: Path, start_s: float) -> np.ndarray:
    return load_clip(path, Excerpt(start_s, start_s + CLIP_S), sample_rate_hz=RATE_HZ)


def by_libsndfile(source: Path | int, start_s: float) -> np.ndarray:
    """Decode, mix and resample without a check."""
    with soundfile.SoundFile(source, closefd=False) as file:
        file.seek(round(start_s * file.samplerate))
        waveform = file.read(round(CLIP_S * file.samplerate), dtype="float32", always_2d=True)
        mono = sum(waveform.T) / np.float32(waveform.shape[1])
        return soxr.resample(mono, file.samplerate, RATE_HZ, quality="HQ")


def by_program(path: Path, start_s: float) -> np.ndarray:
    """The whole file by the program into a temporary file, of which the clip is read."""
    with tempfile.TemporaryFile() as file:
        command = ["ffmpeg", "-nostdin", "-v", "error", "-i", str(path), "-map", "0:a:0"]
        command += ["-c:a", "pcm_f32be", "-f", "au", "pipe:1"]
        subprocess.run(command, stdout=file, check=True)
        file.seek(0)
        return by_libsndfile(file.fileno(), start_s)


def decoding_rows(folder: Path, repeats: int) -> list[dict[str, Any]]:
    """Rows of all kinds: first the way without this project, then this project."""
    keep_freed_memory(KEPT_BYTES)  # as a worker that packs
    rows = []
    for kind in KINDS:
        path = folder / kind.file
        other: Callable[[Path, float], np.ndarray] = (
            by_program if kind.by_program else by_libsndfile
        )
        check_same(kind.name, other(path, kind.start_s), ours(path, kind.start_s))
        name = "ffmpeg program, libsndfile" if kind.by_program else "libsndfile"
        bodies = {name: other, "psla-wds": ours}
        ways = {
            f"{kind.name}: {way}": harness.timed(partial(decode_some, body, path, kind.start_s))
            for way, body in bodies.items()
        }
        rows += harness.compare(ways, repeats=repeats)
    return rows


def decode_some(decode: Callable[[Path, float], np.ndarray], path: Path, start_s: float) -> int:
    for _ in range(ROUND_CLIPS):
        decode(path, start_s)
    return ROUND_CLIPS


def check_same(name: str, one: np.ndarray, other: np.ndarray) -> None:
    """Raise `ValueError` unless two decoders gave the same sound, but for one frame at the end."""
    length = min(len(one), len(other))
    difference = np.sqrt(np.mean((one[:length] - other[:length]) ** 2) / np.mean(one**2))
    if abs(len(one) - len(other)) > 0.05 * RATE_HZ or difference > MAX_DIFFERENCE:
        raise ValueError(f"{name}: decoders differ by {difference:.1%}")
