"""What a WAV file claims to hold: libsndfile reads what is there of one that was cut short."""

import io
import os
from contextlib import nullcontext
from pathlib import Path

UNKNOWN_BYTES = 2**31 - 2**16
"""Programs that write WAV into a pipe have its header claim that or more: they cannot know."""
SLACK_BYTES = 4096
"""Headers that claim a little too much are common, and nothing is missing."""


def is_cut_short(source: Path | io.BytesIO) -> bool:
    """Whether a file ends before its header says so; False of what is no WAV file."""
    with source.open("rb") if isinstance(source, Path) else nullcontext(source) as file:
        return _claimed_bytes(file) > file.seek(0, os.SEEK_END) + SLACK_BYTES


def _claimed_bytes(file: io.BufferedIOBase) -> int:
    """Where the sound ends by the header; 0 if that does not know."""
    file.seek(0)
    if file.read(4) != b"RIFF":
        return 0
    file.seek(12)
    while len(chunk := file.read(8)) == 8:
        size = int.from_bytes(chunk[4:], "little")
        if chunk[:4] == b"data":
            return file.tell() + size if size < UNKNOWN_BYTES else 0
        file.seek(size + size % 2, os.SEEK_CUR)
    return 0
