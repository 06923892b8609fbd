"""Train an audio tagger.

    psla-wds train RECIPE --index SHARDS --eval-index SHARDS --run-dir RUN
    torchrun --standalone --nproc-per-node 8 -m psla_wds train RECIPE ...

The first form trains in one process, the second in 8; in a checkout, torchrun train/main.py does
the same. RECIPE is a name from the list below, or the config.json of a run, which repeats that run.
Every setting is an option, which psla-wds train RECIPE --help lists.
"""

import logging
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout

from psla_wds import cli
from psla_wds.commands import called_as
from psla_wds.errors import ConfigError, PslaError
from train.config import TrainConfig, given_settings
from train.recipes import RECIPES, configure

logger = logging.getLogger("train")


def parse(arguments: Sequence[str]) -> TrainConfig:
    """The configuration: a recipe or that of an earlier run, changed by the settings given."""
    prog = called_as("train")
    name, *settings = arguments or ("",)
    if name in ("-h", "--help"):
        summaries = {name: summary for name, (summary, _) in RECIPES.items()}
        cli.show_choices(prog, "RECIPE", __doc__, summaries)
    if not name or name.startswith("-"):
        raise ConfigError(
            "a recipe comes first", where=prog, fix=f"{prog} --help lists the recipes"
        )
    description = RECIPES[name][0] if name in RECIPES else __doc__
    return configure(name, settings, where=prog, prog=f"{prog} {name}", description=description)


def main() -> None:
    if os.environ.get("LOCAL_RANK", "0") == "0":
        asked = parse(sys.argv[1:])
        from train.fit import as_flags, fitted  # after --help, which needs no numpy

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
            from train.fit import fitted

            return fitted(parse(arguments), given_settings(arguments))
        except PslaError:
            sys.exit(2)


if __name__ == "__main__":
    cli.run(main)
