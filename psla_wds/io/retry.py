"""Reads that fail for a moment, on a disk or in a store, are tried again."""

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

logger = logging.getLogger("reader")
T = TypeVar("T")

RETRY_PAUSES_S = (0.1, 0.5, 2.0, 8.0)
"""Pauses before a failed read is tried again: networks and file servers recover."""
JITTER = random.Random()
"""A generator of its own: what a training script does with `random` stays as it is."""


class ReadError(Exception):
    """A read failed, and may succeed when tried again; the message is one line."""


def retry(
    read: Callable[[], T],
    where: Callable[[], object],
    *,
    pause: Callable[[float], object] = time.sleep,
) -> T:
    """What `read` returns, tried again with growing pauses while it raises `ReadError`."""
    for pause_s in RETRY_PAUSES_S:
        try:
            return read()
        except ReadError as failure:
            logger.warning("%s: %s; trying again", where(), failure)
        # When a store fails, many readers fail at once: they must not all come back at once.
        pause(pause_s * JITTER.uniform(0.5, 1.5))
    return read()
