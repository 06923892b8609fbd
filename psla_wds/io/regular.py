"""Files of strangers: only regular ones are opened, and small ones only up to a size.

A pipe would be waited for without end, and a device such as /dev/zero need not have one.
"""

import errno
import io
import os
import stat
from pathlib import Path

CONFIG_BYTES = 2**20
"""Limit of files of settings, which name no classes (1 MiB). Parsed JSON takes up to 25 times its
size in memory."""
CLASSES_BYTES = 2**25
"""Limit of files with entries for classes: 512 bytes for each of 65,536 (32 MiB)."""
SMALL_BYTES = 2**28
"""Limit of other files that are read as a whole, with entries for clips or shards (256 MiB)."""
ANY_BYTES = 2**63 - 1


def open_regular(path: Path, *, max_bytes: int = ANY_BYTES) -> io.BufferedReader:
    """A regular file, or a link to one, open for reading; `OSError` if it is none, or larger."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_size <= max_bytes:
        return open(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    raise OSError(errno.EFBIG, f"larger than {max_bytes:,} bytes", str(path))


def open_text(path: Path, *, max_bytes: int = ANY_BYTES) -> io.TextIOWrapper:
    """A regular file as UTF-8 text, with or without a byte order mark; line ends are kept."""
    return io.TextIOWrapper(open_regular(path, max_bytes=max_bytes), "utf-8-sig", newline="")


def read_small(path: Path, *, max_bytes: int = SMALL_BYTES) -> bytes:
    """The content of a regular file of a bounded size; `OSError`."""
    with open_regular(path, max_bytes=max_bytes) as file:
        return file.read()


def read_text(path: Path, *, max_bytes: int = CLASSES_BYTES) -> str:
    """The text of a regular file of a bounded size; `OSError`, or `ValueError` if not UTF-8."""
    return read_small(path, max_bytes=max_bytes).decode()
