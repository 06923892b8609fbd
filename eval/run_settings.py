"""Settings of runs side by side, and the plans that follow from them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Int64

from psla_wds.config import to_json
from psla_wds.errors import ConfigError
from psla_wds.progress import progress_bar
from psla_wds.sampling.augment import NO_PARTNER, drawn_partners
from psla_wds.sampling.plan import plan_epoch
from psla_wds.shards.index import ShardIndex
from train.config import CONFIG, TrainConfig
from train.run.log import Run
from train.training_data import open_training_index


@dataclass(frozen=True)
class TrainingSet:
    """The clips that a run is trained on, and how it draws them."""

    index: ShardIndex
    config: TrainConfig

    @property
    def steps_per_epoch(self) -> int:
        return self.config.sampler.steps_per_epoch(len(self.index), self.config.batch_size)

    def epochs(self) -> Iterator[tuple[Int64[np.ndarray, " draws"], Int64[np.ndarray, " mixed"]]]:
        """The plan of each epoch: the rows drawn, in whole batches, and those mixed in.

        It does not know which clips the run replaced because they are damaged.
        """
        index, config = self.index, self.config
        for epoch in progress_bar(range(1, config.epochs + 1), desc="plans", unit="epoch"):
            plan = plan_epoch(index, config.sampler, seed=config.seed, epoch=epoch)
            used = self.steps_per_epoch * config.batch_size
            partners = drawn_partners(plan, config.augment, (0, used), num_clips=len(index))
            yield plan.rows[:used], partners[partners != NO_PARTNER]


def open_training_set(run: Run, specs: Sequence[str] = ()) -> TrainingSet:
    """The clips that the run was trained on, where its configuration says, or in `specs`."""
    config = replace(run.config, index=tuple(specs)) if specs else run.config
    data = TrainingSet(open_training_index(config), config)
    _check_same_clips(data, run)
    return data


def _check_same_clips(data: TrainingSet, run: Run) -> None:
    """Raise unless the shards are those that the run was trained on, as far as it recorded them."""
    digest = data.index.fingerprint
    # A student's index has its teacher's scores in its fingerprint, which are not opened here.
    if run.made_with.get("index_fingerprint", digest) != digest and not run.config.distill:
        raise ConfigError(
            "these are not the shards, or not the labels, that the run was trained on",
            where=run.folder / CONFIG,
            fix="give the run's shards with --train-index",
        )
    for record in run.epochs[-1:]:
        if record.step != record.epoch * data.steps_per_epoch:
            raise ConfigError(
                f"the run did {record.step:,} steps in {record.epoch} epochs, but these "
                f"{len(data.index):,} clips give {data.steps_per_epoch:,} an epoch",
                where=run.folder / CONFIG,
                fix="the shards have changed since: give the run's shards with --train-index",
            )


def differing_settings(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Settings, and what the runs were made with, that are not the same in all runs: the value of
    each by dotted name."""
    tables = [dict(flatten(settings_of(run))) for run in runs]
    names = dict.fromkeys(name for table in tables for name in table)
    rows = {name: [table.get(name, "\N{EN DASH}") for table in tables] for name in names}
    return {name: values for name, values in rows.items() if len(set(values)) > 1}


def settings_of(run: Run) -> dict[str, Any]:
    """The content of a run's config.json."""
    return to_json(run.config) | ({"made_with": run.made_with} if run.made_with else {})


def flatten(config: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Settings under the dotted names of their flags, in the order of the file."""
    settings = []
    for key, value in config.items():
        if isinstance(value, dict) and value:
            settings += flatten(value, f"{prefix}{key}.")
        else:
            settings.append((f"{prefix}{key}", str(value)))
    return settings
