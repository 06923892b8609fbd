"""Batches for training and evaluation: the loader of a run, opened by one call."""

from dataclasses import dataclass

from psla_wds.features.windows import windows_of
from psla_wds.loading.epochs import Epochs, Share, current_share
from psla_wds.loading.loader import Batch, Loader, LoaderConfig
from psla_wds.sampling.schedule import BatchLayout, EvaluationSchedule, TrainingSchedule
from psla_wds.shards.index import ShardIndex

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
        first_step: steps done before, over all epochs; batches continue from there.
        share: this process's part. Default: from torch's default process group.
    """
    index.check_shards()
    layout = (share or current_share()).layout(batch_size)
    data = open_training(index, config, layout, seed=seed, first_step=first_step)
    return Epochs(data.loader, data.schedule)


def evaluation_batches(
    index: ShardIndex,
    *,
    batch_size: int,
    config: LoaderConfig = PAPER,
    windows: int | None = 1,
    share: Share | None = None,
) -> Loader:
    """Every clip once over all processes, neither mixed nor masked.

    The last batch is cut, and may be missing on the last ranks. The configuration's sampler and
    augmentation are not used; the other arguments are those of `training_batches`.

    Args:
        windows: most windows of a clip that is longer than the model's; None: as many as cover it.
            Those of a clip follow one another on one process, and `Batch.rows` repeats its row.
    """
    index.check_shards()
    layout = (share or current_share()).layout(batch_size)
    counts = windows_of(index.num_samples, config.features, most=windows)
    return Loader(index, EvaluationSchedule(index, layout, counts), config)


@dataclass(frozen=True)
class TrainingData:
    """One rank's draws of every step, and the loader that follows them."""

    schedule: TrainingSchedule
    loader: Loader


def open_training(
    index: ShardIndex,
    config: LoaderConfig,
    layout: BatchLayout,
    *,
    seed: int,
    first_step: int = 0,
) -> TrainingData:
    """`training_batches` pass by pass, for steps of several passes; the shards were checked
    before."""
    schedule = TrainingSchedule(index, config, layout, seed=seed, first_step=first_step)
    return TrainingData(schedule, Loader(index, schedule, config))
