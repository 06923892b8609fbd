"""The commands by name, and whether Python finds our packages, whose names others use too."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

from psla_wds.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
GROUPS = {
    "Data": {
        "build": "sharding.build",
        "check": "sharding.check",
        "info": "sharding.info",
        "stats": "sharding.stats",
        "index": "sharding.index",
        "labels": "sharding.labels",
        "overlay": "sharding.overlay",
        "enhance": "eval.enhance",
        "synthesize": "sharding.synthesize",
    },
    "Training": {
        "train": "train.main",
        "average": "eval.average",
        "gallery": "eval.gallery",
        "study": "train.study",
    },
    "Evaluation": {
        "predict": "eval.predict",
        "ensemble": "eval.ensemble",
        "score": "eval.score",
        "compare": "eval.compare",
        "figures": "eval.figures",
    },
    "Use": {
        "tag": "eval.tag",
        "thresholds": "eval.thresholds",
        "export": "eval.export",
    },
}
MODULES = {name: module for group in GROUPS.values() for name, module in group.items()}
"""Modules of the commands, which `python -m` starts as well."""


def source_of(module: str) -> Path:
    """File of a command that `python -m module` runs."""
    path = ROOT / module.replace(".", "/")
    return path / "__main__.py" if path.is_dir() else path.with_suffix(".py")


def called_as(name: str) -> str:
    """How a command was started, for usage and errors, such as `psla-wds train`."""
    by_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    module = spec.name.removesuffix(".__main__") if spec else ""
    if module == MODULES[name]:
        return f"{'torchrun' if by_torchrun else 'python'} -m {module}"
    if by_torchrun and module == "psla_wds":
        return f"torchrun -m psla_wds {name}"
    if Path(sys.argv[0]).resolve() == source_of(MODULES[name]):
        return f"{'torchrun' if by_torchrun else 'python'} {'/'.join(Path(sys.argv[0]).parts[-2:])}"
    return f"psla-wds {name}"


def check_packages() -> None:
    """`ConfigError` if Python finds something else under the name of one of our packages."""
    for package in ("sharding", "train", "eval"):
        spec, ours = find_spec(package), ROOT / package
        found = Path(spec.origin).parent if spec and spec.origin else ours
        if found.name != package or not found.samefile(ours):
            error = ConfigError(
                f"Python finds another {package} before the one of psla-wds",
                where=spec and spec.origin,
                fix="type psla-wds COMMAND, which does not look into the current folder, or go to "
                "another one; take the folder out of PYTHONPATH if it is there",
            )
            if sys.argv[:1] != ["-m"]:
                raise error
            print(f"error: {error}", file=sys.stderr)  # `python -m` has no main yet that could
            sys.exit(2)
