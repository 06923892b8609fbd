"""Errors a user can act on.

Every error says what is wrong, where, and how to fix it. Anything that is not a
`PslaError` is a bug in our code and keeps its traceback.
"""

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
"""What reading JSON or arrays raises that are not what was written."""


class PslaError(Exception):
    """Base of every error caused by data, configuration or environment."""

    def __init__(self, what: str, *, where: object = None, fix: str | None = None) -> None:
        lines = [what]
        if where is not None:
            lines.append(f"  where: {where}")
        if fix is not None:
            lines.append(f"  fix:   {fix}")
        super().__init__("\n".join(lines))


class ConfigError(PslaError):
    """A setting is unknown, out of range, or contradicts another."""


class ManifestError(PslaError):
    """A manifest row or a class list is malformed or names something that does not exist."""


class LabelError(PslaError):
    """An ontology or a label overlay is malformed, or does not fit the shards."""


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
