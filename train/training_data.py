"""The data of a run: its clips and labels, and this rank's share of every step."""

from psla_wds.features.windows import HEARD, SCORED, mismatch
from psla_wds.loading.batches import TrainingData, open_training
from psla_wds.loading.loader import LoaderConfig
from psla_wds.runtime.distributed import World
from psla_wds.sampling.schedule import BatchLayout
from psla_wds.shards.index import ShardIndex
from train.config import TrainConfig
from train.optimizer import warn_of_short_run


def layout_of(config: TrainConfig, world: World) -> BatchLayout:
    """How a step is divided among ranks; `ConfigError` if it cannot be."""
    return BatchLayout(
        batch_size=config.batch_size,
        rank=world.rank,
        world_size=world.size,
        accumulate=config.accumulate,
    )


def lengths_of(config: TrainConfig, index: ShardIndex) -> str | None:
    """One line on clips that are much shorter or longer than the model's window, with the flag."""
    heard, scored, most = HEARD, SCORED, config.eval_windows
    if config.augment.crop == "start":
        heard = "training never hears {unheard} % of the audio (--augment.crop random would)"
    if most is not None:
        first = "the first window" if most == 1 else f"at most {most} windows"
        scored = f"evaluation scores {first}"
    return mismatch(index.num_samples, config.features, longer=f"{heard}, {scored}")


def open_training_data(
    config: TrainConfig, world: World, index: ShardIndex, *, first_step: int = 0
) -> TrainingData:
    """The data of a run that continues after `first_step` steps. Close its loader."""
    loader = LoaderConfig(
        sampler=config.sampler,
        augment=config.augment,
        features=config.features,
        reader=config.reader,
        device=world.device,
    )
    layout = layout_of(config, world)
    data = open_training(index, loader, layout, seed=config.seed, first_step=first_step)
    if world.is_main:
        warn_of_short_run(config.optimizer, config.epochs * data.schedule.steps_per_epoch)
    return data
