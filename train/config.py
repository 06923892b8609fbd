"""Settings of a training run, and which of them have an effect only with certain others."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from psla_wds import cli
from psla_wds.config import (
    BATCH_SIZE,
    SEED,
    Kind,
    Within,
    check_ranges,
    flag,
    kinds_of,
    read_json,
)
from psla_wds.errors import ConfigError
from psla_wds.features.config import FeatureConfig
from psla_wds.io.regular import CONFIG_BYTES, read_text
from psla_wds.models.config import IMAGENET, RANDOM, BatchNormOver, ModelConfig, Precision
from psla_wds.reading.config import ReaderConfig
from psla_wds.sampling.config import AugmentConfig, SamplerConfig

CONFIG = "config.json"
MADE_WITH = "made_with"
"""Key in config.json beside the settings: versions, commit and shards."""
BAD_BATCHES = "bad_batches.jsonl"
"""File in a run's folder with the clips of steps whose loss or gradient was not finite."""

Compile = Literal["off", "default", "reduce-overhead"]
Shards = Annotated[cli.Shards, Kind.PLACE]


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Adam and its learning rate. Defaults are the paper's for the full AudioSet."""

    algorithm: Literal["adam", "adamw"] = "adam"
    """adam adds weight decay to the gradient (L2), as in the official code; adamw shrinks the
    weights themselves (Loshchilov and Hutter 2019, algorithm 2)."""
    learning_rate: Annotated[float, Within(0, 1000, without=(0,))] = 1e-4
    """Learning rate after warm-up and before decay."""
    trunk_factor: Annotated[float, Within(0, 1)] = 1.0
    """Factor on the learning rate of the trunk; the head has the full rate. Below 1 for a trunk
    that is already trained; 0 freezes its weights (not BatchNorm's statistics)."""
    layer_decay: Annotated[float, Within(0, 1, without=(0,))] = 1.0
    """Factor on the trunk's learning rate from each layer (stem, blocks, last convolution) to the
    one before it, starting at the head: below 1, layers near the input change least (Howard and
    Ruder 2018, Bao et al. 2022). 0.9 leaves 0.07 of the rate to the first of EfficientNet-B2's."""
    betas: Annotated[tuple[float, float], Within(0, 1, without=(1,))] = (0.95, 0.999)
    """Decay of Adam's running means of the gradient and of its square."""
    weight_decay: Annotated[float, Within(0, 1000)] = 5e-7
    """Weight decay. The default is the paper's, for adam; adamw needs far more, such as 0.01."""
    warmup_steps: Annotated[int, Within(0, 10**9)] = 1000
    """Steps over which the learning rate rises from the run's start; 0 for none."""
    warmup: Literal["linear", "stepped"] = "linear"
    """linear raises the rate at every step; stepped raises it every 50 steps, as the official code
    does, so that the first 50 have a rate of 0."""
    decay: Literal["steps", "cosine"] = "steps"
    """steps multiplies the rate by --optimizer.decay-factor after some epochs (PSLA IV-B); cosine
    is half a cosine from the end of warm-up to 0 (Loshchilov and Hutter 2017, equation 5)."""
    decay_after_epochs: Annotated[tuple[int, ...], Within(0, 10**6)] = (10, 15, 20, 25)
    """Epochs, counted from 1, after which the rate is multiplied by --optimizer.decay-factor."""
    decay_factor: Annotated[float, Within(0, 1, without=(0,))] = 0.5
    """Factor on the learning rate at each step of decay."""

    def __post_init__(self) -> None:
        check_ranges(self, "optimizer")
        if not all(a < b for a, b in pairwise((0, *self.decay_after_epochs))):
            raise ConfigError(
                f"decay_after_epochs={self.decay_after_epochs} is out of order",
                where="--optimizer.decay-after-epochs",
                fix="set --optimizer.decay-after-epochs to rising epochs from 1: 10 15 20 25",
            )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything a run depends on; saved as config.json in its folder."""

    index: Shards = ()
    """Shards to train on; repeat the option for several sets."""
    eval_index: Shards = ()
    """Shards to evaluate on after each epoch. Default: no evaluation."""
    run_dir: Annotated[Path, Kind.START] = Path("runs/run")
    """Folder of the run; must be new, except with --resume."""
    epochs: Annotated[int, Within(1, 10**6)] = 30
    """Number of epochs."""
    batch_size: Annotated[int, BATCH_SIZE] = 100
    """Clips of an optimizer step over all processes, so that results do not depend on the number
    of processes (except through --batch-norm). The official code has 4 GPUs with 25 clips each."""
    seed: Annotated[int, SEED] = 0
    """Seed of the draws, their augmentation, the initial weights and drop-connect."""
    resume: Annotated[bool, Kind.START] = False
    """Continue the run where it stopped, on any number of processes; start it if it is new."""
    dry_run: Annotated[bool, Kind.START] = False
    """Check everything, read one batch, report what the run would do, and write nothing."""
    labels: Annotated[Path | None, Kind.DATA] = None
    """Label overlay (of psla-wds enhance or overlay): train on its labels and balance the draws by
    them."""
    distill: Annotated[Path | None, Kind.DATA] = None
    """Teacher's scores of these clips, from psla-wds predict --top-k or ensemble --top-k, to learn
    beside the labels (knowledge distillation; Schmid et al. 2023, arXiv 2211.04772)."""
    distill_weight: Annotated[float, Within(0, 1, without=(0,))] = 0.9
    """Weight of the teacher's scores in the loss; labels get the remainder. 1 ignores the labels
    (Dinkel et al. 2023, arXiv 2308.11957); 0.9 is the choice of Schmid et al."""
    subset: Annotated[int | None, Within(1, 2**31)] = None
    """Number of clips to train on, chosen at random (PSLA figure 3). Default: all."""
    subset_seed: Annotated[int, SEED] = 0
    """Seed for choosing the subset. With the same seed, smaller subsets are contained in larger
    ones."""
    fit: Annotated[Literal["off", "clips", "minutes"], Kind.START] = "off"
    """clips: choose frames, time mask, batch size and warm-up by the lengths and the number of the
    clips, as far as no flag states them. minutes: choose the epochs too, so that two CPU cores
    train a small network within ten minutes."""
    accumulate: Annotated[int, BATCH_SIZE, Kind.SPEED] = 1
    """Forward passes into which each process divides its share of a step, to save memory."""
    batch_norm: BatchNormOver = "rank"
    """Clips that BatchNorm normalises over. rank: each process's share of a pass, as in the
    official code. groups: every --batch-norm-group clips in a row, so that results do not depend
    on the number of processes. batch: the shares of all processes together (GPUs only)."""
    batch_norm_group: Annotated[int | None, BATCH_SIZE] = None
    """Clips of a group. 25 gives on any number of GPUs what the paper has on 4."""
    precision: Precision = "bfloat16"
    """Autocast precision of the trunk; head and loss are float32. The paper's code uses float32."""
    compile: Compile = "off"
    """Mode of torch.compile for training; reduce-overhead replays CUDA graphs."""
    ema_decay: Annotated[float | None, Within(0, 1, without=(0, 1))] = None
    """Decay of an exponential moving average of the weights (Polyak and Juditsky 1992), such as
    0.999. With it, the average is evaluated and saved in place of the weights. Default: none."""
    other_features: bool = False
    """Accept --model.initial-weights that were trained on features other than --features.*, such
    as another normalisation. By default they must agree, except for num-frames."""
    max_bad_steps: Annotated[int, Within(0, 10**9), Kind.SPEED] = 0
    """Steps with a non-finite loss or gradient to skip before the run ends. Their clips are listed
    in bad_batches.jsonl in the run's folder."""
    eval_windows: Annotated[int | None, Within(1, 10**6), Kind.SPEED] = None
    """Most windows of a longer clip that the evaluation after each epoch averages. Default: as many
    as cover the clip. 1: only the first, as in the paper's code."""
    log_every_steps: Annotated[int, Within(1, 10**9), Kind.SPEED] = 50
    """Steps between two records in the log."""
    state_every_steps: Annotated[int, Within(1, 10**9), Kind.SPEED] = 1000
    """Steps between two saves of the state that --resume continues from. It is also saved at the
    end of each epoch and on SIGTERM, SIGUSR1 or Ctrl-C."""
    wandb: Annotated[str | None, Kind.START] = None
    """Weights & Biases project that gets the log's numbers too (needs the package wandb)."""
    features: FeatureConfig = field(default_factory=FeatureConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    reader: Annotated[ReaderConfig, Kind.PLACE] = field(default_factory=ReaderConfig)

    def __post_init__(self) -> None:
        check_ranges(self)


KINDS = kinds_of(TrainConfig)


def may_change_on_resume(config: TrainConfig) -> set[str]:
    """Settings that may differ when a run continues; for those of `Kind.DATA`, the fingerprint of
    the index must be the same."""
    names = {name for name, kind in KINDS.items() if kind is not Kind.METHOD}
    # A cosine depends on the length of the run from its first step on.
    return names if config.optimizer.decay == "cosine" else names | {"epochs"}


def is_method(setting: str) -> bool:
    """Whether a setting, by its dotted name in config.json, can change what is learned."""
    return KINDS.get(setting.split(".")[0]) in (Kind.METHOD, Kind.DATA)


@dataclass(frozen=True)
class ReadWith:
    """Rule that `setting` has an effect only if `holds` is true for the value of `other`."""

    setting: str
    other: str
    holds: Callable[[Any], bool]


def _is_path(source: str) -> bool:
    return source not in (IMAGENET, RANDOM)


READ_WITH = (
    ReadWith("distill_weight", "distill", lambda folder: folder is not None),
    ReadWith("subset_seed", "subset", lambda subset: subset is not None),
    ReadWith("batch_norm_group", "batch_norm", lambda over: over == "groups"),
    ReadWith("other_features", "model.initial_weights", _is_path),
    ReadWith("model.initial_sha256", "model.initial_weights", _is_path),
    ReadWith("augment.mixup_alpha", "augment.mixup_rate", lambda rate: rate > 0),
    ReadWith("optimizer.layer_decay", "optimizer.trunk_factor", lambda factor: factor > 0),
    ReadWith("optimizer.warmup", "optimizer.warmup_steps", lambda steps: steps > 0),
    ReadWith("optimizer.decay_after_epochs", "optimizer.decay", lambda decay: decay == "steps"),
    ReadWith("optimizer.decay_factor", "optimizer.decay", lambda decay: decay == "steps"),
    ReadWith("optimizer.decay_factor", "optimizer.decay_after_epochs", bool),
)


def check_all_read(config: TrainConfig, recipe: TrainConfig) -> None:
    """Raise `ConfigError` for a setting that differs from the recipe's and has no effect.

    A recipe itself may have such settings: steps of decay beside a cosine, for example.
    """
    for rule in READ_WITH:
        given, other = value_of(config, rule.setting), value_of(config, rule.other)
        if given != value_of(recipe, rule.setting) and not rule.holds(other):
            raise ConfigError(
                f"{rule.setting} has no effect where {rule.other} is {other}",
                where=flag(rule.setting),
                fix=f"leave it out, or change {flag(rule.other)}",
            )


def given_settings(arguments: Sequence[str]) -> set[str]:
    """Dotted names of the settings that a command line states."""
    flags = (word.partition("=")[0] for word in arguments if word.startswith("--"))
    return {name.removeprefix("--").replace("-", "_") for name in flags}


def value_of(config: TrainConfig, setting: str) -> Any:
    """The value of a setting by its dotted name."""
    return reduce(getattr, setting.split("."), config)


def read_config(path: Path) -> TrainConfig:
    """The settings in a run's config.json."""
    return read_json(TrainConfig, path, besides=(MADE_WITH,), max_bytes=CONFIG_BYTES)


def read_made_with(path: Path) -> dict[str, Any]:
    """What a run depended on beside its settings; empty if its config.json does not say."""
    found = json.loads(read_text(path, max_bytes=CONFIG_BYTES)).get(MADE_WITH)
    return found if isinstance(found, dict) else {}
