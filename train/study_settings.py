"""What a study is run with: its options, and the recipe that its variants are changes of."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, UseAppendAction, arg

from psla_wds.config import to_json
from psla_wds.errors import ConfigError
from psla_wds.io.atomic_files import atomic_open, disk_errors
from psla_wds.models.config import IMAGENET, RANDOM
from psla_wds.models.initial_weights import published_address
from train.config import TrainConfig
from train.main import parse
from train.paper_tables import DataSet, Study
from train.studies import STUDIES, training_size

Shards = Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="SHARDS[:SPLIT,...]")]
DOWNLOAD = "download"
RECORD = "study.json"
LATER = ("ontology", "teacher", "esc50_index", "fsd50k_index")
"""Options that only rows of their own depend on."""


@dataclass(frozen=True)
class PaperSet:
    """A set of clips that the paper trains on."""

    recipe: str
    averaged_from: int
    """First epoch of its weight average (PSLA III-E; FSD50K's is that of the official script)."""


PAPER_SETS: dict[DataSet, PaperSet] = {
    "balanced": PaperSet("audioset-balanced", 41),
    "full": PaperSet("audioset-full", 16),
    "fsd50k": PaperSet("fsd50k", 21),
}


@dataclass(frozen=True, kw_only=True)
class StudyArgs:
    name: Positional[str]
    """The study; list shows them all."""
    work: Path = Path("studies")
    """Folder of its runs, and of all that is made of them. Studies of one set and recipe share
    their runs in one folder."""
    set: DataSet | None = None
    """Which of the paper's sets --index is, and so which of its columns is compared with; a study
    has one or two, and the first is taken unless set."""
    base: str | None = None
    """Recipe, or config.json of a run, that is changed from row to row; the paper's for the set
    unless set."""
    seeds: int = 1
    """Runs of each row: the recipe's seed and those after it. Committees have their own."""
    task: str | None = None
    """I/N or slurm: do every Nth run only, from the Ith on, as one task of an array; what needs the
    runs of several is then done by the same command without --task."""
    dry_run: bool = False
    """Tell what would be run, and its cost; run nothing."""
    processes: int | None = None
    """Of a run, by torchrun on this machine; one for each GPU unless set."""
    clips_per_s: float | None = None
    """Speed of training, for the hours of runs when no run is there yet that tells it."""
    test_index: Shards = ()
    """Shards that finished models are scored on. --eval-index then chooses the epoch, as the
    paper does on FSD50K; without it, one set serves both."""
    ontology: Path | None = None
    """AudioSet's ontology.json, or one's own, for rows whose labels are enhanced."""
    teacher: Path | None = None
    """Run or checkpoint whose scores enhance the labels, in the paper a model trained on the full
    set; the study's own model of the labels as annotated unless set."""
    imagenet: str | None = None
    """Folder of ImageNet's weights as their libraries publish them, or download; as the recipe has
    it unless set."""
    esc50_index: Shards = ()
    """Shards of ESC-50, for the study elsewhere."""
    fsd50k_index: Shards = ()
    """Shards of FSD50K's evaluation clips, cut to 10 s, for the study elsewhere."""
    average_from: int | None = None
    """First epoch of the mean of weights; the paper's, or else the one after the second decay."""
    sizes: tuple[int, ...] = ()
    """Numbers of clips for the study training-size; the paper's unless set."""

    def __post_init__(self) -> None:
        for name in ("seeds", "processes", "average_from", "clips_per_s"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                flag = f"--{name.replace('_', '-')}"
                raise ConfigError(f"{flag} {value:g} is not above 0", where=flag, fix=f"set {flag}")
        if self.sizes and (self.name != "training-size" or min(self.sizes) < 1):
            raise ConfigError(
                "sizes are numbers of clips, of the study training-size",
                where="--sizes",
                fix="python -m train.study training-size --sizes 1000 2000",
            )

    @property
    def study(self) -> Study:
        if self.name not in STUDIES:
            raise ConfigError(
                f"there is no study {self.name}",
                where="python -m train.study",
                fix=f"choose {', '.join(STUDIES)}, or list",
            )
        return training_size(self.sizes) if self.sizes else STUDIES[self.name]

    @property
    def data_set(self) -> DataSet:
        """What --index is taken for."""
        chosen = self.set or next(iter(self.study.tables))
        if chosen not in self.study.tables:
            raise ConfigError(
                f"the paper has no such table for the set {chosen}",
                where="--set",
                fix=f"set it to {' or '.join(self.study.tables)}",
            )
        return chosen


def base_config(args: StudyArgs, words: Sequence[str]) -> TrainConfig:
    """The recipe with the settings given; they are as those of train/main.py."""
    taken = [word for word in words if word.replace("_", "-").startswith("--run-dir")]
    if taken:
        raise ConfigError(
            "a study names the folders of its runs", where="--run-dir", fix="set --work"
        )
    base = args.base or PAPER_SETS[args.data_set].recipe
    config = replace(parse([base, *words]), run_dir=Path("runs/run"), resume=False, dry_run=False)
    for name in ("index", "eval_index"):
        if not getattr(config, name):
            flag = f"--{name.replace('_', '-')}"
            raise ConfigError("a study trains and evaluates", where=flag, fix=f"set {flag} SHARDS")
    if config.labels or config.distill:
        raise ConfigError(
            "a study makes the labels of its rows, and has no teacher's scores",
            where="--labels, --distill",
            fix="leave them out; --ontology and --teacher are for enhanced labels",
        )
    if args.data_set == "balanced" and config.sampler.sampling != "shuffle":
        raise ConfigError(
            "on its balanced set, the paper draws each clip once an epoch",
            where="--sampler.sampling",
            fix="set --sampler.sampling shuffle, or --set full",
        )
    weights = config.model.initial_weights
    if args.imagenet:
        weights = imagenet_weights(args.imagenet, config.model.backbone)
    return replace(config, model=replace(config.model, initial_weights=weights))


def imagenet_weights(source: str, backbone: str) -> str:
    """What --model.initial-weights is to be, of `--imagenet`."""
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


def starts_random(config: TrainConfig) -> bool:
    return config.model.initial_weights == RANDOM


FREE = ("accumulate", "log_every_steps", "max_bad_steps", "reader", "state_every_steps", "wandb")
"""Settings on which no number depends."""


def check_begun(args: StudyArgs, config: TrainConfig) -> dict[str, Any]:
    """What the numbers in the folder depend on; an error if they depend on something else already.

    An ontology, say, may be named later: what needs it has runs of its own.
    """
    path, now = args.work / RECORD, _settled(args, config)
    before = _read(path) if path.exists() else {}
    changed = [
        name
        for name, value in before.items()
        if now.get(name) != value and (name not in LATER or (value and now[name]))
    ]
    if changed:
        differences = "; ".join(f"{n} was {before[n]}, now {now.get(n)}" for n in changed)
        raise ConfigError(
            f"the runs in this folder were begun with other settings: {differences[:600]}",
            where=path,
            fix="give the same settings, or choose another --work",
        )
    return {name: before.get(name) if value is None else value for name, value in now.items()}


def begin(args: StudyArgs, config: TrainConfig) -> None:
    """Write down what the runs of the folder are changes of, unless it has runs of another base."""
    record = check_begun(args, config)
    with disk_errors(args.work, "write the study's folder"):
        args.work.mkdir(parents=True, exist_ok=True)
        for path, content in ((args.work / RECORD, record), (base_path(args), to_json(config))):
            with atomic_open(path, "w", shared=True) as file:
                file.write(json.dumps(content, indent=1) + "\n")


def _settled(args: StudyArgs, config: TrainConfig) -> dict[str, Any]:
    settings = {name: value for name, value in to_json(config).items() if name not in FREE}
    given = {name: getattr(args, name) or None for name in (*LATER, "test_index", "average_from")}
    values = {"set": args.data_set, **given, **settings}
    return json.loads(json.dumps(values, default=str))


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it is no table of settings")
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"this cannot be read: {error}", where=path, fix="restore it, or choose another --work"
        ) from None
    return content


def base_path(args: StudyArgs) -> Path:
    """The configuration that every run of the folder starts from, as train/main.py takes it."""
    return args.work / "base.json"
