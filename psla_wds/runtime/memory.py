"""How this process gets memory for large arrays."""

import ctypes
from contextlib import suppress

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # of glibc's malloc.h
LARGE_BYTES = 2**25
"""The most that M_MMAP_THRESHOLD may be."""


def keep_freed_memory(most_bytes: int | None = None) -> None:
    """Keep freed memory in the process, instead of giving it back to the system with each array.

    glibc asks the system for every array of more than 32 MiB, and often for smaller ones; the
    system then clears it page by page at its first use, which takes longer than the arithmetic of
    a layer, or than decoding. Other allocators ignore this.

    Args:
        most_bytes: memory to keep, none of it of arrays that have more than 32 MiB. Default: all,
            where batches have the same sizes again and again, so that no more is held than at the
            peak of one.
    """
    with suppress(AttributeError, OSError):  # another C library
        libc = ctypes.CDLL(None)
        if most_bytes is None:
            libc.mallopt(M_MMAP_MAX, 0)
        else:
            libc.mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1 if most_bytes is None else most_bytes)
