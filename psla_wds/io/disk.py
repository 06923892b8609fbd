"""Disks that fail: full, or without write access."""

from collections.abc import Iterator
from contextlib import contextmanager

from psla_wds.errors import PslaError
from psla_wds.io.locations import Location

GO_ON = "run the same command again: it goes on"


@contextmanager
def disk_errors(where: Location, what: str, *, then: str = GO_ON) -> Iterator[None]:
    """Tell of an `OSError` in the block as of one that the user can end."""
    try:
        yield
    except OSError as error:
        raise PslaError(
            f"cannot {what}: {error.strerror or error}",
            where=where,
            fix=f"make room or give write access, and {then}",
        ) from None
