"""Which weights gave scores, as it stands in a score file."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

WRITTEN = re.compile(r"(?P<sha256>[0-9a-f]{64}) (?P<epoch>[0-9]{1,9})")


@dataclass(frozen=True)
class Origin:
    """A checkpoint that gave scores."""

    sha256: str
    """Of its file."""
    epoch: int
    """Epochs trained; of an average, the last that went in; 0 where the file does not say."""

    def __str__(self) -> str:
        """As it stands in a score file."""
        return f"{self.sha256} {self.epoch}"


def read_origins(written: Iterable[object]) -> tuple[Origin, ...]:
    """What a score file says of its weights; ValueError if it is nothing of the kind."""
    found = [WRITTEN.fullmatch(text) if isinstance(text, str) else None for text in written]
    if None in found:
        raise ValueError("what it says of its weights cannot be read")
    return tuple(Origin(match["sha256"], int(match["epoch"])) for match in found if match)
