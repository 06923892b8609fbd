"""Which files in a folder are recordings: one rule for all commands that search folders."""

from posixpath import splitext

from psla_wds.audio.kinds import AUDIO_SUFFIXES

LEFTOVERS = {
    *("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"),
    *("Thumbs.db", "desktop.ini"),
}
"""Files and folders that systems and archives leave beside those of users."""


def is_leftover(name: str) -> bool:
    """Whether a file or folder, by its path from the folder that is searched, is hidden (as
    ._NAME, which macOS writes, and .ipynb_checkpoints are), a leftover, or within either."""
    return any(part.startswith(".") or part in LEFTOVERS for part in name.split("/"))


def is_audio(name: str) -> bool:
    """Whether a file, by its path from the folder that is searched, is a recording to read."""
    return splitext(name)[1].lower() in AUDIO_SUFFIXES and not is_leftover(name)
