"""The ffmpeg program, for recordings that libsndfile cannot read (m4a, webm, ...)."""

import functools
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SUFFIXES = (".3gp", ".aac", ".amr", ".m4a", ".mka", ".mkv", ".mp4", ".webm", ".wma")
DEMUXERS = "aac,amr,asf,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2"
"""Formats that ffmpeg may open: no playlists, since they could name any other file."""
MAX_RECORDING_S, MAX_CPU_S = 6 * 3600, 600
"""Limits of decoding into a temporary file; the rest of a longer recording is left out."""


@functools.cache
def version() -> str | None:
    """Version of the ffmpeg on PATH; None if it is not installed."""
    program = shutil.which("ffmpeg")
    if program is None:
        return None
    done = subprocess.run([program, "-version"], capture_output=True, text=True, check=False)
    return " ".join(done.stdout.split()[2:3])


@contextmanager
def decoded(recording: Path, *, seekable: bool) -> Iterator[int]:
    """Descriptor of an AU file of 32-bit floats: the first audio track, in its rate and channels.

    Args:
        seekable: whether to decode into a temporary file first, instead of into a pipe, whose
            length is not limited.

    Raises `RuntimeError` with ffmpeg's reason; for a pipe at the end of the block.
    """
    if not seekable:
        with _pipe(recording, []) as pipe:
            yield pipe
        return
    with tempfile.TemporaryFile() as file:
        limits = ["-t", str(MAX_RECORDING_S), "-timelimit", str(MAX_CPU_S)]
        with _pipe(recording, limits) as pipe, open(pipe, "rb", closefd=False) as sound:
            shutil.copyfileobj(sound, file)
        file.seek(0)
        yield file.fileno()


@contextmanager
def _pipe(recording: Path, limits: list[str]) -> Iterator[int]:
    # Without file:, a name with a dash or a colon could be an option or an address.
    source = ["-format_whitelist", DEMUXERS, "-i", f"file:{recording}", "-map", "0:a:0"]
    target = [*limits, "-c:a", "pcm_f32be", "-f", "au", "pipe:1"]
    with (
        tempfile.TemporaryFile() as messages,
        subprocess.Popen(
            ["ffmpeg", "-nostdin", "-v", "error", *source, *target],
            stdout=subprocess.PIPE,
            stderr=messages,
        ) as process,
    ):
        assert process.stdout is not None
        problem: RuntimeError | None = None
        try:
            yield process.stdout.fileno()
        except RuntimeError as error:  # nothing or half a file came: ffmpeg may say why
            problem = error
        except BaseException:
            process.kill()
            raise
        process.stdout.close()
        status = process.wait()
        messages.seek(0)
        if said := messages.read().decode(errors="replace").strip():
            reason = re.sub(" @ 0x[0-9a-f]+", "", said.splitlines()[-1])  # the same each time
            problem = RuntimeError(f"ffmpeg: {reason.replace(str(recording), recording.name)}")
        elif status:
            problem = RuntimeError(f"ffmpeg ended with status {status}")
        if problem:
            raise problem
