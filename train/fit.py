"""Settings of a run that follow from its clips: frames, batches, epochs and warm-up."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from psla_wds.config import flag
from psla_wds.features.config import FeatureConfig
from psla_wds.features.windows import frames_for
from psla_wds.sampling.config import AugmentConfig
from psla_wds.shards.index import ShardIndex
from train.config import CONFIG, TrainConfig, read_config, value_of
from train.run.clips import open_training_index

LEAST_STEPS, SMALLEST_BATCH = 8, 8
"""An epoch of few clips has smaller batches, down to that size, until it has so many steps."""
WARMUP_SHARE = 0.1
"""Largest share of the steps that warm up."""
FRAMES_IN_MINUTES = 4_000_000
"""Frames that two CPU cores train MobileNetV2 on in about five minutes, at 64 mels."""
FEWEST_EPOCHS, MOST_EPOCHS = 2, 60


def fitted(config: TrainConfig, given: set[str]) -> TrainConfig:
    """The configuration with the settings that `--fit` lets follow from the clips.

    Those that are given stay; a run that is resumed keeps those it was begun with.
    """
    if config.fit == "off" or not config.index:
        return config
    path = config.run_dir / CONFIG
    begun = read_config(path) if config.resume and path.exists() else None
    index = None if begun else open_training_index(config)
    left_alone = given if config.fit == "minutes" else given | {"epochs"}
    if "features.num_frames" in given:
        if "augment.time_mask" not in given:
            config = _changed(config, "augment.time_mask", _most_masked(config))
        left_alone = left_alone | {"augment.time_mask"}
    for setting, choose in CHOICES.items():
        if setting not in left_alone:
            value = value_of(begun, setting) if begun else choose(config, index)
            config = _changed(config, setting, value)
    return replace(config, fit="off")


def as_flags(config: TrainConfig) -> str:
    """The settings that are fitted, as on a command line."""
    return " ".join(f"{flag(setting)} {value_of(config, setting)}" for setting in CHOICES)


def _changed(config: TrainConfig, setting: str, value: Any) -> TrainConfig:
    section, _, name = setting.rpartition(".")
    if not section:
        return replace(config, **{name: value})
    return replace(config, **{section: replace(getattr(config, section), **{name: value})})


def _time_mask(config: TrainConfig, index: ShardIndex) -> int:
    """As large a share of the frames as before."""
    share = _num_frames(config, index) / config.features.num_frames
    return round(share * config.augment.time_mask)


def _most_masked(config: TrainConfig) -> int:
    """The time mask, up to the paper's share of the frames."""
    paper = AugmentConfig().time_mask / FeatureConfig().num_frames
    return min(config.augment.time_mask, round(paper * config.features.num_frames))


def _num_frames(config: TrainConfig, index: ShardIndex) -> int:
    """Enough for nearly all clips, and for no more than the paper's window: longer clips are
    cropped."""
    paper_s = FeatureConfig().num_frames * FeatureConfig().hop_ms / 1000
    most = round(paper_s * 1000 / config.features.hop_ms)
    return min(frames_for(index.num_samples, config.features), most)


def _batch_size(config: TrainConfig, index: ShardIndex) -> int:
    size = config.batch_size
    while size // 2 >= SMALLEST_BATCH and _steps(config, index, size) < LEAST_STEPS:
        size //= 2
    return size


def _epochs(config: TrainConfig, index: ShardIndex) -> int:
    frames = config.sampler.num_draws(len(index)) * config.features.num_frames
    return min(max(FRAMES_IN_MINUTES // max(frames, 1), FEWEST_EPOCHS), MOST_EPOCHS)


def _warmup_steps(config: TrainConfig, index: ShardIndex) -> int:
    total = config.epochs * _steps(config, index, config.batch_size)
    return min(config.optimizer.warmup_steps, int(WARMUP_SHARE * total))


def _steps(config: TrainConfig, index: ShardIndex, batch_size: int) -> int:
    return config.sampler.steps_per_epoch(len(index), batch_size)


CHOICES: dict[str, Callable[[TrainConfig, ShardIndex], int]] = {
    "augment.time_mask": _time_mask,
    "features.num_frames": _num_frames,
    "batch_size": _batch_size,
    "epochs": _epochs,
    "optimizer.warmup_steps": _warmup_steps,
}
"""Settings in the order in which they are chosen: the time mask needs the frames of the recipe, and
the others depend on those before them."""
