"""Recordings that libsndfile does not read (m4a, webm, ...), by the ffmpeg program."""

import functools
import shutil
import subprocess
from pathlib import Path

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
    limits = ["-format_whitelist", DEMUXERS, "-t", str(MAX_RECORDING_S)]
    # file: keeps a name with a dash or a colon from being an option or an address.
    source = ["-i", f"file:{recording}", "-map", "0:a:0"]
    # Not W64, which holds any length too: libsndfile takes ffmpeg's floats in it for integers.
    target = ["-c:a", "pcm_f32le", "-f", "wav", "-rf64", "auto", "-y", f"file:{wav}"]
    command = ["ffmpeg", "-nostdin", "-v", "error", *limits, *source, *target]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"ffmpeg did not end within {TIMEOUT_S} s") from None
    if done.returncode or done.stderr:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"ffmpeg: {reason.replace(str(recording), recording.name)}")
