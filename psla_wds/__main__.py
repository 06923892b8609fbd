"""All commands under one name: `psla-wds COMMAND ...`, or `python -m psla_wds COMMAND ...`."""

import sys
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path

from psla_wds import __version__
from psla_wds.commands import GROUPS, MODULES, ROOT, check_packages, source_of
from psla_wds.errors import ConfigError


def overview() -> str:
    """The commands in groups, each with the first line of its module."""
    width = max(map(len, MODULES))
    lines = ["usage: psla-wds COMMAND ...", "", "Train audio taggers over WebDataset shards."]
    for group, modules in GROUPS.items():
        lines += ["", f"{group}:"]
        lines += [f"  {name:{width}}  {_summary(module)}" for name, module in modules.items()]
    lines += ["", "Help on one of them: psla-wds COMMAND --help; --version prints the version."]
    return "\n".join(lines)


def _summary(module: str) -> str:
    with source_of(module).open(encoding="utf-8") as file:  # importing it would take a second
        return file.readline().strip().strip('"')


def main() -> None:
    """The console script."""
    name = sys.argv[1] if sys.argv[1:] else "--help"
    if name in ("-h", "--help", "--version"):
        text = f"psla-wds {__version__}" if name == "--version" else overview()
        try:
            print(text, flush=True)
        except OSError:  # which the import reports that takes a quarter of a second
            from psla_wds import cli

            cli.run(lambda: print(text))
    else:
        _leave_current_folder()
        del sys.argv[1]
        from psla_wds import cli  # here: it takes a quarter of a second

        cli.run(lambda: _run(name))


def _run(name: str) -> None:
    check_packages()
    if name not in MODULES:
        close = get_close_matches(name, ["--version", "--help", *MODULES], 1, 0.5)
        raise ConfigError(
            f"there is no command {name}",
            where="psla-wds",
            fix=f"type psla-wds {close[0]}" if close else "choose one that psla-wds --help lists",
        )
    module = MODULES[name]
    is_package = source_of(module).name == "__main__.py"
    import_module(f"{module}.__main__" if is_package else module).main()


def _leave_current_folder() -> None:
    """Import nothing from the current folder, where `python -m` looks first: many have a train.py
    there. Processes that are started from this one get its path."""
    first = Path(sys.path[0]).resolve()
    if first == Path.cwd() and first != ROOT:
        del sys.path[0]


if __name__ == "__main__":
    main()
