"""Recordings that libsndfile does not read (m4a, webm, ...), by the ffmpeg program."""

import functools
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

SUFFIXES = (".3gp", ".aac", ".amr", ".m4a", ".mka", ".mkv", ".mp4", ".webm", ".wma")
DEMUXERS = "aac,amr,asf,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2"
"""No playlist is among them, which could name any other file."""
MAX_RECORDING_S = 6 * 3600
TIMEOUT_S = 600


@functools.cache
def version() -> str | None:
    """Version of the ffmpeg on PATH, None if there is none."""
    program = shutil.which("ffmpeg")
    if program is None:
        return None
    done = subprocess.run([program, "-version"], capture_output=True, text=True, check=False)
    return " ".join(done.stdout.split()[2:3])


def convert(recording: Path, wav: Path) -> None:
    """Write the first audio track as a file of 32-bit floats, in its own rate and channels.

    Raises `RuntimeError` with ffmpeg's reason.
    """
    # Not W64, which holds any length too: libsndfile takes ffmpeg's floats in it for integers.
    target = ["-c:a", "pcm_f32le", "-f", "wav", "-rf64", "auto", "-y", f"file:{wav}"]
    try:
        done = subprocess.run(
            [*_reading(recording), "-t", str(MAX_RECORDING_S), *target],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"ffmpeg did not end within {TIMEOUT_S} s") from None
    if done.returncode or done.stderr:
        raise _failure(done.stderr, recording)


@contextmanager
def decoding(recording: Path) -> Iterator[int]:
    """A pipe that the first audio track comes out of while it is decoded, as a file of 32-bit
    floats of any length, in its own rate and channels.

    Raises `RuntimeError` with ffmpeg's reason, at the end of the block if it failed.
    """
    command = [*_reading(recording), "-c:a", "pcm_f32be", "-f", "au", "pipe:1"]
    with (
        tempfile.TemporaryFile() as messages,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=messages) as process,
    ):
        assert process.stdout is not None
        try:
            yield process.stdout.fileno()
        except RuntimeError:  # nothing came, or half a file: ffmpeg knows why
            process.stdout.close()
            process.wait()
            raise _failure(_text_of(messages), recording) from None
        except BaseException:
            process.kill()
            raise
        process.stdout.close()
        if process.wait() or _text_of(messages):
            raise _failure(_text_of(messages), recording)


def _text_of(messages: IO[bytes]) -> str:
    messages.seek(0)
    return messages.read().decode(errors="replace")


def _reading(recording: Path) -> list[str]:
    """A command's begin; what ffmpeg may open is limited, and only its first audio track taken."""
    # file: keeps a name with a dash or a colon from being an option or an address.
    source = ["-format_whitelist", DEMUXERS, "-i", f"file:{recording}", "-map", "0:a:0"]
    return ["ffmpeg", "-nostdin", "-v", "error", *source]


def _failure(messages: str, recording: Path) -> RuntimeError:
    reason = (messages.strip().splitlines() or ["no message"])[-1]
    return RuntimeError(f"ffmpeg: {reason.replace(str(recording), recording.name)}")
