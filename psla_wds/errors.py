"""Errors that a user can act on.

Every error says what is wrong, where, and how to fix it. Any other exception than a `PslaError` is
a bug in our code and keeps its traceback.
"""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType, TracebackType
from typing import Any

from psla_wds.printable import printable

DAMAGE = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    OSError,
    EOFError,
    OverflowError,
    RecursionError,
)
"""Exceptions that malformed JSON or arrays raise."""


class PslaError(Exception):
    """Base of every error caused by data, configuration or environment: three lines at most."""

    def __init__(self, what: str, *, where: object = None, fix: str | None = None) -> None:
        lines = [printable(what)]
        if where is not None:
            lines.append(f"  where: {printable(str(where))}")
        if fix is not None:
            lines.append(f"  fix:   {printable(fix)}")
        super().__init__("\n".join(lines))

    @classmethod
    def relayed(cls, text: str) -> "PslaError":
        """An error with the lines of others."""
        error = cls.__new__(cls)
        Exception.__init__(error, text)
        return error

    def __reduce__(self) -> tuple[Any, ...]:
        """How another process gets it: by its lines, as they are."""
        return type(self).relayed, (str(self),)


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of the system where nothing more can be written."""
ADVICE = {
    "make room there, and run the command again": FULL,
    "give access to it, or choose another place": (errno.EACCES, errno.EPERM, errno.EROFS),
    "check the path": (
        *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY),
        *(errno.ENAMETOOLONG, errno.ELOOP, errno.ENXIO, errno.ENODEV, errno.ETXTBSY, errno.EBUSY),
    ),
    "see to the disk or the network that it needs, and run the command again": (
        *(errno.EIO, errno.ESTALE, errno.EREMOTEIO, errno.ENOTCONN, errno.ETIMEDOUT, errno.ENOLCK),
        *(errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EADDRINUSE),
        *(errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH),
    ),
    "raise the limit of open files: ulimit -n": (errno.EMFILE, errno.ENFILE),
    "end other programs, or raise the limits of memory and processes": (errno.ENOMEM, errno.EAGAIN),
}
"""Advice by error of the system; an `OSError` of another number is a bug."""


@contextmanager
def system_errors() -> Iterator[None]:
    """Report what the system refuses, by whichever call that shows, as a `PslaError`.

    Commands are run in it, so that only calls whose errors need other words have their own.
    """
    try:
        yield
    except MemoryError as error:
        raise PslaError(
            f"there is not enough memory: {error}" if str(error) else "there is not enough memory",
            where="the memory of this process",
            fix="use a machine with more, or smaller batches and fewer processes",
        ) from None
    except OSError as error:
        fix = next((fix for fix, numbers in ADVICE.items() if error.errno in numbers), None)
        if fix is None:
            raise
        # What writes files names them, so that a write without a name was one to stdout.
        unnamed = "stdout" if error.errno in FULL else "a file or connection of this command"
        what, where = f"the system reports: {error.strerror}", error.filename or unnamed
        raise PslaError(what, where=where, fix=fix) from None


def end_quietly() -> None:
    """Let Ctrl-C end a command without a traceback, also while `python -m` imports its modules,
    which takes a second. Nothing changes in a program of others that imports them."""
    if sys.argv[:1] != ["-m"]:
        return
    shown = sys.excepthook

    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not issubclass(kind, KeyboardInterrupt):
            shown(kind, error, trace)

    sys.excepthook = show


class ConfigError(PslaError):
    """A setting is unknown, out of range, or contradicts another."""


def optional_package(name: str, users: str, *, where: object, install: str) -> ModuleType:
    """A package that only some features need; `ConfigError` if it is not installed.

    Args:
        install: the packages to install, by their names on PyPI.
    """
    try:
        return import_module(name)
    except ImportError:
        raise ConfigError(
            f"{users} need the package {name.partition('.')[0]}",
            where=where,
            fix=f"python -m pip install {install}",
        ) from None


class ManifestError(PslaError):
    """A manifest row or a class list is malformed or names something that does not exist."""


class LabelError(PslaError):
    """An ontology, an overlay or a table of labels is malformed, or does not fit the shards."""


class ShardError(PslaError):
    """A tar shard is truncated, unreadable, or not in our layout."""


class StaleIndexError(ShardError):
    """The shard index no longer describes the shards on disk."""


class CheckpointError(PslaError):
    """A checkpoint is incomplete or was made for another model or configuration."""


class ScoreError(PslaError):
    """A score file is malformed, or does not fit what it is compared with."""


class AudioError(PslaError):
    """A recording cannot be tagged: unreadable, empty, or not finite."""


class ClipRefusedError(Exception):
    """The clip cannot be used; `reason` is one word for counting, the message has the details.

    Not a `PslaError`: others of the clips are used, so a build goes on.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
