"""Train an audio tagger.

    torchrun --nproc-per-node 8 train/main.py RECIPE --index SHARDS --eval-index SHARDS

RECIPE is a name, or the config.json of a run, which repeats that run. Without torchrun
(python -m train.main RECIPE ...) one process trains. RECIPE --help lists all settings.
"""

import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import tyro

from psla_wds import cli
from psla_wds.errors import ConfigError, PslaError
from train.config import TrainConfig, check_all_read, read_config
from train.recipes import RECIPES

PROG = "torchrun train/main.py"


def parse(arguments: Sequence[str]) -> TrainConfig:
    """The configuration: a recipe, or that of an earlier run, changed by the settings given."""
    words = [word for word in arguments[:1] if not word.startswith("-")]
    if words and words[0] not in RECIPES and not words[0].endswith(".json"):
        raise ConfigError(
            f"unknown recipe {words[0]}",
            where=PROG,
            fix=f"choose {', '.join(RECIPES)}, or the config.json of a run",
        )
    if not arguments or not arguments[0].endswith(".json"):
        config = tyro.extras.overridable_config_cli(
            RECIPES, args=arguments, prog=PROG, description=__doc__
        )
        recipe = RECIPES[words[0]][1]
    else:
        path, *settings = arguments
        recipe = read_config(Path(path))
        config = tyro.cli(TrainConfig, default=recipe, args=settings, prog=f"{PROG} {path}")
    check_all_read(config, recipe)
    return config


def main() -> None:
    if os.environ.get("LOCAL_RANK", "0") == "0":
        config = parse(sys.argv[1:])
    else:
        config = _parse_silently(sys.argv[1:])
    from train.start import train  # here, since torch takes seconds to import

    train(config)


def _parse_silently(arguments: Sequence[str]) -> TrainConfig:
    """Parse on a rank whose help and errors rank 0 prints already."""
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        try:
            return parse(arguments)
        except PslaError:
            sys.exit(2)


if __name__ == "__main__":
    cli.run(main)
