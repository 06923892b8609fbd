"""Run a command: turn a `PslaError` into one readable message and exit status 2."""

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeAlias, TypeVar

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from psla_wds.errors import PslaError
from psla_wds.io.locations import Location, Url, parse_location
from psla_wds.printable import printable

Args = TypeVar("Args")

LocationArg: TypeAlias = Annotated[
    Location,
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH|URL",
        instance_from_str=lambda words: parse_location(words[0]),
        is_instance=lambda value: isinstance(value, (Path, Url)),
        str_from_instance=lambda location: [str(location)],
    ),
]
"""Type of an argument that names a local path or a URL."""

Shards: TypeAlias = Annotated[
    tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="SHARDS[:SPLIT,...]")
]
"""Type of an option that names sets of shards, and may be repeated."""


def parse(args: type[Args], description: str | None, *, prog: str) -> Args:
    """The arguments of a command, by its dataclass; options may come before or after words."""
    return tyro.cli(
        args, description=description, prog=prog, config=(tyro.conf.CascadeSubcommandArgs,)
    )


class _Lines(logging.Formatter):
    """A line for each record, whatever the names in it hold."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        record.message = printable(record.message)
        return super().formatMessage(record)


def run(main: Callable[[], None]) -> None:
    """Call `main`. Stderr gets the log and, for a `PslaError`, its three lines (exit status 2)."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Lines("%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for library in ("httpx", "httpx2"):  # which log each request that is made for hf://
        logging.getLogger(library).setLevel(logging.WARNING)
    try:
        main()
    except PslaError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # `... | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
