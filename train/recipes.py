"""Recipes: all that a training run depends on, as values; one differs from another by `replace`."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import UseAppendAction, arg

from psla_wds.errors import ConfigError
from psla_wds.features.log_mel import FeatureConfig
from psla_wds.models.audio_tagger import ModelConfig
from psla_wds.models.batch_norm import BatchNormOver
from psla_wds.reading.reader import ReaderConfig
from psla_wds.sampling.augment import AugmentConfig
from psla_wds.sampling.plan import SamplerConfig
from train.optimizer import OptimizerConfig

Precision = Literal["float32", "bfloat16", "float16"]
Compile = Literal["off", "default", "reduce-overhead"]
Compat = Literal["none", "psla"]
Shards = Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="SHARDS[:SPLIT,...]")]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything a run depends on; saved as config.json in its folder."""

    index: Shards = ()
    """Shards to train on; give the option several times for several sets."""
    labels: Path | None = None
    """Label overlay of these clips, by eval.enhance: train on its labels, and draw by them."""
    distill: Path | None = None
    """A teacher's scores of these clips, by eval.predict --top-k or eval.ensemble --top-k: learn
    them beside the labels (knowledge distillation; Schmid et al. 2023, arXiv 2211.04772)."""
    distill_weight: float = 0.9
    """Of the teacher's scores in the loss; the labels have the rest. 1: of no label (Dinkel et al.
    2023, arXiv 2308.11957). 0.9 is that of Schmid et al."""
    subset: int | None = None
    """Train on so many of these clips, chosen at random; on all unless set (PSLA figure 3)."""
    subset_seed: int = 0
    """Of the choice of a subset; with one seed, smaller subsets are parts of larger ones."""
    eval_index: Shards = ()
    """Shards to evaluate on after each epoch; without them no epoch is evaluated."""
    run_dir: Path = Path("runs/run")
    """Folder of the run; a new one, unless --resume."""
    resume: bool = False
    """Go on where the run stopped, on any number of processes; from its start if it has none."""
    dry_run: bool = False
    """Check all that a run checks, read a batch, tell what the run would do, and write nothing."""
    epochs: int = 30
    batch_size: int = 100
    """Clips of an optimizer step over all processes, so that results do not depend on their
    number, but for --batch-norm. The official code has 4 GPUs with 25 each."""
    accumulate: int = 1
    """Forward passes that each process cuts its share of a step into, for want of memory."""
    batch_norm: BatchNormOver = "rank"
    """What BatchNorm normalises over: rank, each process's share of a pass, as in the official
    code; groups, --batch-norm-group clips in a row, whoever has them, so that results do not
    depend on the number of processes; batch, all processes' shares together (GPUs only)."""
    batch_norm_group: int | None = None
    """Clips of a group; 25 on any number of GPUs is what the paper has on 4."""
    precision: Precision = "bfloat16"
    """Of the trunk, by autocast; head and loss are float32. The paper's code has float32."""
    compile: Compile = "off"
    """Of training by torch.compile; reduce-overhead replays CUDA graphs, default does not."""
    ema_decay: float | None = None
    """Of an exponential moving average of the weights (Polyak and Juditsky 1992), 0.999 say.
    With it, the average is what is evaluated and saved in place of the weights themselves."""
    compat: Compat = "none"
    """psla: what the official code does and is mended here is done as there (docs/design.md)."""
    seed: int = 0
    """Of the draws, their augmentation, the initial weights, and drop-connect."""
    other_features: bool = False
    """Go on from --model.initial-weights that were trained on other features than --features.*:
    another normalisation, say, or sample rate. Without it they must agree, but for num-frames."""
    max_bad_steps: int = 0
    """Steps with a loss or gradient that is not finite, which are skipped; one more ends the run.
    bad_batches.jsonl in its folder lists their clips."""
    log_every_steps: int = 50
    state_every_steps: int = 1000
    """Steps between two saves of the state that --resume goes on from; also saved at the end of
    each epoch and on SIGTERM or SIGUSR1."""
    wandb: str | None = None
    """Project of Weights & Biases that gets the numbers of the log as well (needs the package)."""
    features: FeatureConfig = field(default_factory=FeatureConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    reader: ReaderConfig = field(default_factory=ReaderConfig)

    def __post_init__(self) -> None:
        for name in ("seed", "subset_seed", "max_bad_steps"):
            if getattr(self, name) < 0:
                flag = f"--{name.replace('_', '-')}"
                raise ConfigError(
                    f"{name}={getattr(self, name)} must be at least 0",
                    where=flag,
                    fix=f"set {flag}",
                )
        if self.subset is not None and self.subset < 1:
            raise ConfigError(
                f"a subset of {self.subset} clips is nothing to train on",
                where="subset",
                fix="set --subset to at least 1, or leave it out",
            )
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ConfigError(
                f"ema_decay={self.ema_decay} is no number between 0 and 1",
                where="--ema-decay",
                fix="set --ema-decay 0.999, or leave it out for no average",
            )
        if not 0 < self.distill_weight <= 1:
            raise ConfigError(
                f"distill_weight={self.distill_weight:g} is no share above 0, up to 1",
                where="--distill-weight",
                fix="set --distill-weight 0.9, or leave --distill out for labels alone",
            )
        for name in ("epochs", "log_every_steps", "state_every_steps"):
            if getattr(self, name) < 1:
                flag = f"--{name.replace('_', '-')}"
                raise ConfigError(
                    f"{name}={getattr(self, name)} must be at least 1",
                    where=flag,
                    fix=f"set {flag}",
                )


# PSLA IV-B: 2M clips, class-balanced draws, 30 epochs.
AUDIOSET_FULL = TrainConfig(run_dir=Path("runs/audioset-full"))

# PSLA IV-B: 20k clips, each once an epoch, 60 epochs at ten times the learning rate; labels are the
# enhanced ones in the paper.
AUDIOSET_BALANCED = replace(
    AUDIOSET_FULL,
    run_dir=Path("runs/audioset-balanced"),
    epochs=60,
    sampler=SamplerConfig(sampling="shuffle"),
    optimizer=OptimizerConfig(learning_rate=1e-3, decay_after_epochs=(35, 40, 45, 50, 55)),
)

# PSLA table XIV and the official run script: 37k clips of up to 30 s, class-balanced draws. Its
# weights are averaged from epoch 21 on, where the paper's rule would say 16; features are
# normalised by AudioSet's statistics. Labels are the enhanced ones in the paper.
FSD50K = replace(
    AUDIOSET_FULL,
    run_dir=Path("runs/fsd50k"),
    epochs=40,
    batch_size=24,
    features=FeatureConfig(num_frames=3000),
    optimizer=OptimizerConfig(learning_rate=5e-4, decay_after_epochs=(10, 15, 20, 25, 30, 35)),
)

# Ours, since the paper trains nothing on ESC-50: 1,600 clips of 5 s, a class each. Its method and
# network, with frames and time mask halved as the clips are, and FSD50K's batch and rate.
ESC50 = replace(
    FSD50K,
    run_dir=Path("runs/esc50"),
    features=FeatureConfig(num_frames=512),
    augment=AugmentConfig(time_mask=96),
    sampler=SamplerConfig(sampling="shuffle"),
)

# Ours: a network of a fifth of the size learns what an ensemble of the paper's scored, beside the
# labels (Schmid et al. 2023). Its schedule and draws are those of the ensemble.
AUDIOSET_STUDENT = replace(
    AUDIOSET_FULL,
    run_dir=Path("runs/audioset-student"),
    distill=Path("runs/teacher"),
    model=ModelConfig(backbone="mobilenet-v2", head="linear"),
)

# Ours: a trained tagger goes on with other clips and classes. The head is new, and learns ten times
# as fast as the trunk, which is not to forget; a small set has few steps to warm up in.
FINE_TUNE = replace(
    AUDIOSET_FULL,
    run_dir=Path("runs/fine-tune"),
    epochs=20,
    batch_size=16,
    model=ModelConfig(initial_weights="runs/audioset-full"),
    optimizer=OptimizerConfig(
        learning_rate=1e-3, trunk_factor=0.1, warmup_steps=20, decay="cosine"
    ),
)

# Ours: clips of 2.5 s, a network and a schedule that two CPU cores train in minutes. So short a run
# does not overfit: little is mixed or masked. BatchNorm's running statistics must keep up with it.
DEMO = replace(
    AUDIOSET_FULL,
    run_dir=Path("runs/demo"),
    epochs=6,
    batch_size=16,
    precision="float32",
    log_every_steps=10,
    state_every_steps=200,
    features=FeatureConfig(num_frames=256),
    augment=AugmentConfig(mixup_rate=0.25, freq_mask=8, time_mask=16),
    model=ModelConfig(
        backbone="efficientnet-b0",
        head="single-head-attention",
        drop_connect_rate=0.0,
        batch_norm_momentum=0.1,
        initial_weights="none",
    ),
    optimizer=OptimizerConfig(
        learning_rate=1e-3, warmup_steps=40, decay_after_epochs=(3, 4, 5), decay_factor=0.5
    ),
)

RECIPES: dict[str, tuple[str, TrainConfig]] = {
    "audioset-full": ("The paper's: 2M clips, class-balanced draws, 30 epochs.", AUDIOSET_FULL),
    "audioset-balanced": ("The paper's: 20k clips, 60 epochs.", AUDIOSET_BALANCED),
    "audioset-student": (
        "Ours: MobileNetV2 learns an ensemble's scores, by eval.ensemble --top-k (--distill).",
        AUDIOSET_STUDENT,
    ),
    "fsd50k": ("The paper's: 37k clips of up to 30 s, class-balanced draws, 40 epochs.", FSD50K),
    "esc50": ("Ours: clips of 5 s; a fold is left out by --index and --eval-index.", ESC50),
    "fine-tune": (
        "Ours: from a trained tagger (--model.initial-weights) to one's own clips and classes.",
        FINE_TUNE,
    ),
    "demo": ("Clips of 2.5 s, EfficientNet-B0: minutes on two CPU cores.", DEMO),
}


def with_compat(config: TrainConfig) -> TrainConfig:
    """The configuration with the settings that `compat` stands for."""
    if config.compat == "none":
        return config
    return replace(config, optimizer=replace(config.optimizer, warmup="stepped"))
