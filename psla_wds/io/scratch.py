"""Databases for what a data set has millions of, on disk for as long as the process lasts.

SQLite keeps each in a temporary file without a name, in the folder that TMPDIR names, else in
/var/tmp; it is gone when the process ends, however it ends. What fits into SQLite's cache, of 2 MB,
is never written.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import finalize

from psla_wds.errors import PslaError


def scratch_database(owner: object) -> sqlite3.Connection:
    """A new database, closed when its owner is gone."""
    # The owner may be deleted by the garbage collector, which runs in whichever thread is at work.
    database = sqlite3.connect("", check_same_thread=False)
    finalize(owner, database.close)
    database.execute("PRAGMA temp_store = FILE")
    database.execute("PRAGMA journal_mode = OFF")  # nothing is ever taken back
    return database


@contextmanager
def scratch_errors() -> Iterator[None]:
    """Report a full disk as an error that the user can mend."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise PslaError(
            f"cannot keep the list of clips on disk: {error}",
            where=os.environ.get("TMPDIR", "/var/tmp"),
            fix="make room there, or set TMPDIR to a folder that has room",
        ) from None


def to_bytes(text: str) -> bytes:
    """A text as bytes: SQLite's texts must be UTF-8, which names of files need not be."""
    return text.encode("utf-8", "surrogatepass")


def to_text(content: bytes) -> str:
    return content.decode("utf-8", "surrogatepass")
