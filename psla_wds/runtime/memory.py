"""How this process gets memory for large arrays."""

import ctypes
from contextlib import suppress

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_freed_memory() -> None:
    """Keep freed memory in the process, instead of giving it back to the system with each array.

    glibc asks the system for every array of more than 32 MiB, and often for smaller ones; the
    system then clears it page by page at its first use, which takes longer than the arithmetic of
    a layer. Batches have the same sizes again and again, so that no more memory is held than at
    the peak of one. Other allocators ignore this.
    """
    with suppress(AttributeError, OSError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
