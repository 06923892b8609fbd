"""What a study starts from: its options, the recipe that it changes, and its folder's record."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional

from psla_wds import cli
from psla_wds.commands import called_as
from psla_wds.config import Within, check_ranges, to_json
from psla_wds.errors import ConfigError
from psla_wds.io.atomic_files import atomic_open, disk_errors
from psla_wds.models.config import IMAGENET
from train.config import TrainConfig, given_settings, is_method
from train.recipes import configure
from train.study.paper import SETS, STUDIES, DataSet, data_sets
from train.study.run import read_json

DOWNLOAD = "download"
BASE, RECORD = "base.json", "study.json"
LATER = ("ontology", "teacher", "esc50_index", "fsd50k_index")
"""Options that only some rows depend on, so that they may be added later."""


@dataclass(frozen=True, kw_only=True)
class StudyArgs:
    """Options of a study, beside those of psla-wds train."""

    name: Positional[str]
    """Study to run; list prints them all."""
    work: Path = Path("studies")
    """Folder of the runs and of everything made from them. Studies of one set and recipe share
    their runs there."""
    seeds: Annotated[int, Within(1, 1000)] = 1
    """Runs of each row, from the recipe's seed upwards. Committees have their own."""
    dry_run: bool = False
    """Print the commands that would run, and run nothing."""
    set: DataSet | None = None
    """Set of the paper that --index is, whose numbers the table shows. Default: the first set that
    `list` shows for the study."""
    base: str | None = None
    """Recipe, or config.json of a run, that the rows change. Default: the paper's for the set."""
    test_index: cli.Shards = ()
    """Shards to score finished models on; --eval-index then chooses the epoch, as in the paper's
    FSD50K. Default: --eval-index serves both."""
    imagenet: str | None = None
    """Folder of ImageNet weights as their libraries publish them, or download. Default: the
    recipe's initial weights."""
    ontology: Path | None = None
    """AudioSet's ontology.json, or your own, for rows with enhanced labels."""
    teacher: Path | None = None
    """Run or checkpoint whose scores enhance the labels; the paper's was trained on the full set.
    Default: the study's own first run on the labels as annotated."""
    esc50_index: cli.Shards = ()
    """Shards of ESC-50, for the study elsewhere."""
    fsd50k_index: cli.Shards = ()
    """Shards of FSD50K's evaluation clips, cut to 10 s, for the study elsewhere."""
    average_from: Annotated[int | None, Within(1, 10**6)] = None
    """First epoch of the averaged weights. Default: the paper's, or for another number of epochs
    the one after the second decay."""
    sizes: Annotated[tuple[int, ...], Within(1, 2**31)] = ()
    """Numbers of clips for the study training-size. Default: the paper's."""
    processes: Annotated[int | None, Within(1, 1024)] = None
    """Processes of a run, by torchrun on this machine. Default: one for each GPU."""

    def __post_init__(self) -> None:
        check_ranges(self)

    @property
    def data_set(self) -> DataSet:
        """The set that --index is taken for; `ConfigError` if the study has no such table."""
        if self.name not in STUDIES:
            fix = f"choose {', '.join(STUDIES)}, or list"
            raise ConfigError(f"there is no study {self.name}", where=called_as("study"), fix=fix)
        sets = data_sets(self.name)
        if self.set and self.set not in sets:
            what, fix = f"the paper has no such table for {self.set}", f"set {' or '.join(sets)}"
            raise ConfigError(what, where="--set", fix=fix)
        return self.set or sets[0]


def base_config(args: StudyArgs, words: Sequence[str]) -> TrainConfig:
    """The recipe with the settings in `words`, which are flags of psla-wds train."""
    name = args.base or SETS[args.data_set]["recipe"]
    prog = f"{called_as('study')} {args.name}"
    config = configure(name, words, where="--base", prog=prog, description=None)
    given = given_settings(words)
    draws_once = args.data_set != "balanced" or config.sampler.sampling == "shuffle"
    for holds, where, what, fix in (
        (config.index, "--index", "needs shards to train on", "set --index SHARDS"),
        (config.eval_index, "--eval-index", "evaluates its runs", "set --eval-index SHARDS"),
        ("run_dir" not in given, "--run-dir", "names its run folders", "set --work FOLDER"),
        (not config.labels, "--labels", "makes its labels",
         "set --ontology FILE and --teacher RUN"),
        (not config.distill, "--distill", "learns from labels alone", "choose another --base"),
        (not args.sizes or args.name == "training-size", "--sizes", "other than training-size has "
         "no sizes", "leave them out"),
        (draws_once, "--sampler.sampling", "of the set balanced draws each clip once an epoch",
         "set --sampler.sampling shuffle, or --set full"),
    ):  # fmt: skip
        if not holds:
            raise ConfigError(f"a study {what}", where=where, fix=fix)
    weights = config.model.initial_weights
    if args.imagenet:
        weights = imagenet_weights(args.imagenet, config.model.backbone)
    model = replace(config.model, initial_weights=weights)
    return replace(config, run_dir=Path("runs/run"), resume=False, model=model)


def imagenet_weights(source: str, backbone: str) -> str:
    """The value of --model.initial-weights for `--imagenet source`; `ConfigError` if not there."""
    from psla_wds.models.initial_weights import published_address  # here: it imports torch

    if source == DOWNLOAD:
        return IMAGENET
    address = published_address(backbone)
    path = Path(source) / Path(address).name
    if not path.is_file():
        raise ConfigError(
            f"there are no ImageNet weights of {backbone}",
            where=path,
            fix=f"copy {address} there, or set --imagenet {DOWNLOAD}",
        )
    return str(path)


def check_begun(args: StudyArgs, base: TrainConfig, shards: dict[str, str]) -> dict[str, Any]:
    """Check `study.json` against these arguments; return what to write.

    Args:
        shards: fingerprints of the shards by name of their option.
    """
    path = args.work / RECORD
    options = {name: getattr(args, name) or None for name in (*LATER, "test_index", "average_from")}
    method = {name: value for name, value in to_json(base).items() if is_method(name)}
    now = {"set": args.data_set, **options, **shards, **method}
    now = json.loads(json.dumps(now, default=str))
    before = read_json(path) if path.exists() else {}
    # What was added later keeps its value in a start without it, and stays that from then on.
    now |= {name: before[name] for name in LATER if before.get(name) and not now[name]}
    added = {name for name in LATER if not before.get(name)}
    changed = [name for name in before if name not in added and now.get(name) != before[name]]
    if changed:
        differences = "; ".join(f"{n} was {before[n]}, now {now.get(n)}" for n in changed)
        raise ConfigError(
            f"this folder was begun with other settings: {differences[:600]}",
            where=path,
            fix="give the same settings, or choose another --work",
        )
    return now


def begin(args: StudyArgs, base: TrainConfig, record: dict[str, Any]) -> None:
    """Write `study.json`, and the configuration that all runs start from."""
    contents = {RECORD: record, BASE: to_json(base)}
    write(args.work, {name: json.dumps(value, indent=1) for name, value in contents.items()})


def write(folder: Path, texts: dict[str, str]) -> None:
    """Write files of a folder by name, each whole or not at all."""
    with disk_errors(folder, "write the study"):
        for name, text in texts.items():
            with atomic_open(folder / name, "w", shared=True) as file:
                file.write(text + "\n")
