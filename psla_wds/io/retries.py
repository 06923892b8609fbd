"""Trying again what a disk or a store could not do at once."""

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

logger = logging.getLogger("reader")
T = TypeVar("T")

RETRY_PAUSES_S = (0.1, 0.5, 2.0, 8.0)
"""Before a read that failed is tried again: networks and file servers recover."""
JITTER = random.Random()
"""Its own, so that what a training script does with `random` stays what it is."""


class ReadError(Exception):
    """In one line what is wrong with a read that may go well when tried again."""


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
        # When a store fails, many readers fail at once: they shall not all come back at once.
        pause(pause_s * JITTER.uniform(0.5, 1.5))
    return read()
