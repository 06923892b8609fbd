"""What a run's config.json says of its training data, and the plans that follow from it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from psla_wds.config import from_json
from psla_wds.errors import ConfigError
from psla_wds.features.log_mel import FeatureConfig
from psla_wds.progress import progress_bar
from psla_wds.sampling.augment import NO_PARTNER, AugmentConfig, drawn_partners
from psla_wds.sampling.plan import SamplerConfig, plan_epoch
from psla_wds.shards.index import ShardIndex
from psla_wds.shards.index_files import open_indexes
from psla_wds.shards.overlay import apply_overlay
from train.run.log import Run

WHERE_AND_HOW_FAST = (
    "index",
    "eval_index",
    "run_dir",
    "resume",
    "dry_run",
    "accumulate",
    "log_every_steps",
    "state_every_steps",
    "wandb",
    "reader",
    "made_with",
)
"""Of config.json: where things are, how fast they go, and what computed; nothing of the method."""


@dataclass(frozen=True)
class RunSettings:
    """What the plans of a run depend on."""

    index: tuple[str, ...]
    labels: Path | None
    subset: int | None
    subset_seed: int
    epochs: int
    batch_size: int
    seed: int
    sampler: SamplerConfig
    augment: AugmentConfig
    features: FeatureConfig


@dataclass(frozen=True)
class TrainingSet:
    """The clips that a run is trained on, and how it draws them."""

    index: ShardIndex
    settings: RunSettings

    @property
    def steps_per_epoch(self) -> int:
        return self.settings.sampler.steps_per_epoch(len(self.index), self.settings.batch_size)

    def epochs(self) -> Iterator[tuple[Int64[np.ndarray, " draws"], Int64[np.ndarray, " mixed"]]]:
        """Of each epoch the rows drawn, in whole batches, and those mixed in: the run's plan.

        Which clips a run replaced because they are damaged is not in it.
        """
        index, settings = self.index, self.settings
        for epoch in progress_bar(range(1, settings.epochs + 1), desc="plans", unit="epoch"):
            plan = plan_epoch(index, settings.sampler, seed=settings.seed, epoch=epoch)
            used = self.steps_per_epoch * settings.batch_size
            partners = drawn_partners(plan, settings.augment, (0, used), num_clips=len(index))
            yield plan.rows[:used], partners[partners != NO_PARTNER]


def read_settings(run: Run) -> RunSettings:
    """The settings of a run that its plans depend on."""
    names = [field.name for field in fields(RunSettings)]
    where = run.folder / "config.json"
    return from_json(RunSettings, {n: run.config[n] for n in names if n in run.config}, where=where)


def open_training_set(run: Run, specs: Sequence[str] = ()) -> TrainingSet:
    """The clips that the run was trained on, where its configuration says, or in `specs`."""
    settings = read_settings(run)
    index = open_indexes(specs or settings.index)
    if settings.labels:
        index = apply_overlay(index, settings.labels)
    if settings.subset is not None:
        index = index.select_random(settings.subset, seed=settings.subset_seed)
    data = TrainingSet(index, settings)
    _check_same_clips(data, run)
    return data


def _check_same_clips(data: TrainingSet, run: Run) -> None:
    """Raise if shards are there, and are not those that the run had, as far as it tells."""
    made_with, digest = run.config.get("made_with"), data.index.fingerprint
    had = made_with.get("index_fingerprint", digest) if isinstance(made_with, dict) else digest
    # A student's index has its teacher's scores in its fingerprint, which are not opened here.
    if had != digest and not run.config.get("distill"):
        raise ConfigError(
            "these are other shards, or other labels, than the run was trained on",
            where=run.folder / "config.json",
            fix="name the run's by --train-index",
        )
    for record in run.epochs[-1:]:
        if record.step != record.epoch * data.steps_per_epoch:
            raise ConfigError(
                f"the run did {record.step:,} steps in {record.epoch} epochs, where these "
                f"{len(data.index):,} clips give {data.steps_per_epoch:,} an epoch",
                where=run.folder / "config.json",
                fix="the shards were changed since: name the run's by --train-index",
            )


def differing_settings(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Of each setting that is not the same in all runs, its value in each."""
    tables = [dict(flatten(run.config)) for run in runs]
    names = dict.fromkeys(name for table in tables for name in table)
    rows = {name: [table.get(name, "\N{EN DASH}") for table in tables] for name in names}
    return {name: values for name, values in rows.items() if len(set(values)) > 1}


def is_learned_from(name: str) -> bool:
    """Whether a setting, by its dotted name, has to do with what is learned."""
    return name.split(".")[0] not in WHERE_AND_HOW_FAST


def flatten(config: dict[str, object], prefix: str = "") -> list[tuple[str, str]]:
    """Settings under the dotted names of their flags, in the order of the file."""
    settings = []
    for key, value in config.items():
        if isinstance(value, dict) and value:
            settings += flatten(value, f"{prefix}{key}.")
        else:
            settings.append((f"{prefix}{key}", str(value)))
    return settings
