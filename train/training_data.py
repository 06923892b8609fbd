"""What a run is trained on: plans of its epochs, and the loader that follows them."""

from dataclasses import dataclass

from psla_wds.loading.loader import Loader
from psla_wds.runtime.distributed import World
from psla_wds.sampling.augment import Draws
from psla_wds.sampling.schedule import BatchLayout, Plans, TrainingSchedule
from psla_wds.shards.index import ShardIndex
from psla_wds.shards.index_files import open_indexes
from psla_wds.shards.overlay import apply_overlay
from train.config import TrainConfig
from train.optimizer import warn_of_short_run


def open_training_index(config: TrainConfig) -> ShardIndex:
    """The clips of a run with its labels, without a teacher's scores."""
    index = open_indexes(config.index)
    if config.labels:
        index = apply_overlay(index, config.labels)
    if config.subset is not None:
        index = index.select_random(config.subset, seed=config.subset_seed)
    return index


@dataclass(frozen=True)
class TrainingData:
    """This rank's share of every step. Close the loader, best by `with`."""

    plans: Plans
    schedule: TrainingSchedule
    loader: Loader
    accumulate: int
    first_step: int
    """Steps that were done before."""

    def draws_of_step(self, step: int) -> list[Draws]:
        """What was delivered for a step, counted from 1: the draws of each pass."""
        first = (step - 1 - self.first_step) * self.accumulate
        damaged = self.loader.damaged_rows
        return [self.schedule(first + number, damaged) for number in range(self.accumulate)]


def layout_of(config: TrainConfig, world: World) -> BatchLayout:
    """How a step is shared out; an error if it cannot be."""
    return BatchLayout(
        batch_size=config.batch_size,
        rank=world.rank,
        world_size=world.size,
        accumulate=config.accumulate,
    )


def open_training_data(
    config: TrainConfig, world: World, index: ShardIndex, *, first_step: int = 0
) -> TrainingData:
    """The data of a run that goes on after `first_step` steps."""
    layout = layout_of(config, world)
    plans = Plans(index, config.sampler, seed=config.seed)
    schedule = TrainingSchedule(
        plans,
        config.augment,
        layout,
        log_mel_shape=(config.features.num_frames, config.features.num_mels),
        first_step=first_step,
    )
    if world.is_main:
        warn_of_short_run(config.optimizer, config.epochs * schedule.steps_per_epoch)
    loader = Loader(
        index,
        schedule,
        clips_per_pass=layout.clips_per_pass,
        features=config.features,
        config=config.reader,
        device=world.device,
    )
    return TrainingData(plans, schedule, loader, config.accumulate, first_step)
