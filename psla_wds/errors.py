"""Errors that a user can act on.

Every error says what is wrong, where, and how to fix it. Any other exception than a `PslaError` is
a bug in our code and keeps its traceback.
"""

from importlib import import_module
from types import ModuleType

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


class ConfigError(PslaError):
    """A setting is unknown, out of range, or contradicts another."""


def optional_package(name: str, users: str, *, where: object, install: str) -> ModuleType:
    """A package that only some features need; `ConfigError` if it is not installed."""
    try:
        return import_module(name)
    except ImportError:
        raise ConfigError(
            f"{users} need the package {name.partition('.')[0]}",
            where=where,
            fix=f"python -m pip install -c constraints.txt {install}",
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
