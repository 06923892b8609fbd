"""Train an audio tagger.

RECIPE is a name from the list below, or the config.json of a run, which repeats that run; its
settings are listed by RECIPE --help. To train in one process: python -m train.main RECIPE ...

    torchrun --nproc-per-node 8 train/main.py RECIPE --index SHARDS --eval-index SHARDS
"""

import logging
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout

import tyro

from psla_wds import cli
from psla_wds.errors import PslaError
from train.config import TrainConfig
from train.recipes import RECIPES, configure

logger = logging.getLogger("train")

PROG = "torchrun train/main.py"


def parse(arguments: Sequence[str]) -> TrainConfig:
    """The configuration: a recipe or that of an earlier run, changed by the settings given."""
    if not arguments or arguments[0].startswith("-"):
        tyro.extras.overridable_config_cli(  # prints the help, or that a recipe is missing
            RECIPES, args=arguments, prog=PROG, description=__doc__
        )
    name, *settings = arguments
    description = RECIPES[name][0] if name in RECIPES else __doc__
    return configure(name, settings, where=PROG, prog=f"{PROG} {name}", description=description)


def main() -> None:
    if os.environ.get("LOCAL_RANK", "0") == "0":
        asked = parse(sys.argv[1:])
        from train.fit import as_flags, fitted, given_settings  # after --help, which needs no numpy

        config = fitted(asked, given_settings(sys.argv))
        if config != asked:
            logger.info("fitted to the clips: %s", as_flags(config))
    else:
        config = _parse_silently(sys.argv[1:])
    from train.start import train  # here, since torch takes seconds to import

    train(config)


def _parse_silently(arguments: Sequence[str]) -> TrainConfig:
    """The configuration, on a rank whose help and errors rank 0 prints already."""
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        try:
            from train.fit import fitted, given_settings

            return fitted(parse(arguments), given_settings(arguments))
        except PslaError:
            sys.exit(2)


if __name__ == "__main__":
    cli.run(main)
