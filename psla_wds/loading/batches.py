"""Batches for a training script of one's own: the loader of a run, opened by one call."""

from dataclasses import dataclass, field

import torch

from psla_wds.features.config import FeatureConfig
from psla_wds.loading.epochs import Epochs, Share, current_share
from psla_wds.loading.loader import Batch, Loader
from psla_wds.reading.reader import ReaderConfig
from psla_wds.sampling.augment import AugmentConfig
from psla_wds.sampling.plan import SamplerConfig
from psla_wds.sampling.schedule import (
    BatchLayout,
    EvaluationSchedule,
    Plans,
    Schedule,
    TrainingSchedule,
)
from psla_wds.shards.index import ShardIndex


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """What is drawn, and what is made of it. Defaults are the paper's for the full AudioSet."""

    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    features: FeatureConfig = field(default_factory=FeatureConfig)
    reader: ReaderConfig = field(default_factory=ReaderConfig)
    device: torch.device | str | None = None
    """Where features are computed and batches lie; the current GPU, or the CPU without one."""


PAPER = LoaderConfig()


def training_batches(
    index: ShardIndex,
    *,
    batch_size: int,
    seed: int = 0,
    first_step: int = 0,
    config: LoaderConfig = PAPER,
    share: Share | None = None,
) -> Epochs[Batch]:
    """Log-mel spectrograms and targets for training: weighted draws, mixup, masks.

    Args:
        batch_size: draws of a step, over all processes.
        first_step: steps done before, over all epochs; what follows is what would have followed.
        share: this process's part; that of torch's default process group unless given.
    """
    layout = (share or current_share()).layout(batch_size)
    features = config.features
    schedule = TrainingSchedule(
        Plans(index, config.sampler, seed=seed),
        config.augment,
        layout,
        log_mel_shape=(features.num_frames, features.num_mels),
        first_step=first_step,
    )
    return Epochs(
        _open_loader(index, schedule, layout, config),
        steps_per_epoch=schedule.steps_per_epoch,
        first_step=first_step,
    )


def evaluation_batches(
    index: ShardIndex,
    *,
    batch_size: int,
    config: LoaderConfig = PAPER,
    share: Share | None = None,
) -> Loader:
    """Every clip once over all processes, as it is: neither mixed nor masked.

    The last batch is cut, and may be missing on the last ranks. Sampler and augmentation of the
    configuration have no part in it; the other arguments are those of `training_batches`.
    """
    layout = (share or current_share()).layout(batch_size)
    return _open_loader(index, EvaluationSchedule(index, layout), layout, config)


def _open_loader(
    index: ShardIndex, schedule: Schedule, layout: BatchLayout, config: LoaderConfig
) -> Loader:
    index.check_shards()
    return Loader(
        index,
        schedule,
        clips_per_pass=layout.clips_per_pass,
        features=config.features,
        config=config.reader,
        device=_device(config),
    )


def _device(config: LoaderConfig) -> torch.device:
    if config.device is not None:
        return torch.device(config.device)
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())
