"""Runs beside their scores: settings, training clips, and which of their weights were scored."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from psla_wds.config import to_json
from psla_wds.errors import ConfigError, PslaError, ScoreError
from psla_wds.evaluation.scores import Origin
from psla_wds.io.atomic_files import sha256_of
from psla_wds.io.locations import is_url
from psla_wds.models.epochs import epoch_checkpoints, epoch_path
from psla_wds.printable import typed
from psla_wds.progress import progress_bar
from psla_wds.sampling.augment import NO_PARTNER, drawn_partners
from psla_wds.sampling.plan import plan_epoch
from psla_wds.shards.index import ShardIndex
from train.config import CONFIG, MADE_WITH, TrainConfig, is_method
from train.run.clips import open_training_index
from train.run.log import Run

SCORES_OF_A_RUN = "scores.npz"

logger = logging.getLogger("runs")


@dataclass(frozen=True)
class TrainingSet:
    """The training clips of a run, and its plan of drawing them."""

    index: ShardIndex
    config: TrainConfig

    @property
    def steps_per_epoch(self) -> int:
        return self.config.sampler.steps_per_epoch(len(self.index), self.config.batch_size)

    def epochs(self) -> Iterator[tuple[Int64[np.ndarray, " draws"], Int64[np.ndarray, " mixed"]]]:
        """The plan of each epoch: the rows drawn, in whole batches, and the rows mixed in.

        The plan does not know which damaged clips the run replaced.
        """
        index, config = self.index, self.config
        for epoch in progress_bar(range(1, config.epochs + 1), desc="plans", unit="epoch"):
            plan = plan_epoch(index, config.sampler, seed=config.seed, epoch=epoch)
            used = self.steps_per_epoch * config.batch_size
            partners = drawn_partners(plan, config.augment, (0, used), num_clips=len(index))
            yield plan.rows[:used], partners[partners != NO_PARTNER]


def open_training_set(run: Run, specs: Sequence[str] = ()) -> TrainingSet:
    """The run's training clips, at the places in its configuration or in `specs`.

    Raises `ConfigError` for other clips than those of the run, as far as it recorded them, and for
    URLs that only its configuration names, since a stranger may have written it.
    """
    if urls := [spec for spec in run.config.index if is_url(spec) and not specs]:
        raise ConfigError(
            "the run's shards are behind a URL, which is used only if the command names it",
            where=urls[0],
            fix=" ".join(f"add --index {spec}" for spec in run.config.index),
        )
    config = replace(run.config, index=tuple(specs)) if specs else run.config
    data = TrainingSet(open_training_index(config), config)
    digest = data.index.fingerprint
    # A student's fingerprint covers its teacher's scores, which are not opened here.
    if run.made_with.get("index_fingerprint", digest) != digest and not config.distill:
        problem = "these are not the shards, or not the labels, that the run was trained on"
    elif run.epochs and run.epochs[-1].step != run.epochs[-1].epoch * data.steps_per_epoch:
        problem = (
            f"the run did {run.epochs[-1].step:,} steps in {run.epochs[-1].epoch} epochs, but "
            f"these {len(data.index):,} clips give {data.steps_per_epoch:,} steps per epoch"
        )
    else:
        return data
    raise ConfigError(problem, where=run.folder / CONFIG, fix="give the run's own training shards")


def find_training_set(run: Run, specs: Sequence[str] = ()) -> TrainingSet | None:
    """The run's training clips; None, with a warning, if the shards are gone.

    Shards behind URLs are opened only if `specs` names them: a report must not wait for a network.
    """
    try:
        if not specs and any(is_url(spec) for spec in run.config.index):
            return None
        return open_training_set(run, specs)
    except PslaError as error:
        if specs:
            raise
        reason = str(error).partition("\n")[0]
        logger.warning("figures of the training clips are left out: %s", reason)
        return None


def settings_of(run: Run) -> dict[str, str]:
    """The run's config.json, by the dotted names of the flags."""
    return dict(_flatten(to_json(run.config) | {MADE_WITH: run.made_with}))


def _flatten(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)


def differing_settings(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Settings and versions that are not the same in all runs: the value of each run, by name."""
    tables = [settings_of(run) for run in runs]
    names = dict.fromkeys(name for table in tables for name in table)
    rows = {name: [table.get(name, "\N{EN DASH}") for table in tables] for name in names}
    return {name: values for name, values in rows.items() if len(set(values)) > 1}


def check_seeds(runs: Sequence[Run]) -> None:
    """Raise unless the runs differ only by their seed, and by settings that are not method."""
    found = {n: v for n, v in differing_settings(runs).items() if is_method(n) and n != "seed"}
    if found:
        differences = "; ".join(f"{name}: {', '.join(values)}" for name, values in found.items())
        raise ConfigError(
            f"these runs differ by more than their seed: {differences}",
            where=" ".join(str(run.folder) for run in runs),
            fix="compare runs with other settings by psla-wds compare",
        )


@dataclass(frozen=True)
class Scored:
    """The weights of a run that gave some scores."""

    files: tuple[Path, ...]
    """Checkpoints of the run; none where they are unknown."""
    epoch: int
    """Last epoch in these weights."""
    last_epoch: int
    """Last epoch of the run."""
    is_foreign: bool = False
    """Whether some of the weights are not in the run's folder."""

    @property
    def is_current(self) -> bool:
        """Whether these are the run's last weights, as far as is known."""
        return self.epoch == self.last_epoch and not self.is_foreign

    def __str__(self) -> str:
        if self.is_foreign:
            return "weights that are not in the run's folder"
        if not self.files:
            return "unknown weights"
        what = f"{len(self.files)} checkpoints" if len(self.files) > 1 else self.files[0].name
        later = "" if self.is_current else f"; the run has {self.last_epoch}"
        return f"{what} (epoch {self.epoch}{later})"


def scored_of_run(origins: Sequence[Origin], run: Path, *, where: Path) -> Scored:
    """The run's checkpoints that gave the scores at `where`.

    Nothing is known, with a warning, if the score file does not name its weights, or if the run was
    copied without its checkpoints.
    """
    last_epoch = max(epoch_checkpoints(run), default=0)
    if not origins or not last_epoch:
        lacking = "the score file does not say" if last_epoch else "the run has no checkpoints"
        logger.warning("%s: cannot check which weights gave the scores: %s", where, lacking)
        return Scored((), last_epoch, last_epoch)
    found = tuple(path for origin in origins if (path := _find(origin, run)))
    epoch = max(origin.epoch for origin in origins)
    return Scored(found, epoch, last_epoch, is_foreign=len(found) < len(origins))


def _find(origin: Origin, run: Path) -> Path | None:
    """The checkpoint or average of these weights; hashing all epochs of a run would take long."""
    candidates = [epoch_path(run, origin.epoch), *sorted(run.glob("*.pt"))]
    return next((p for p in candidates if p.is_file() and sha256_of(p) == origin.sha256), None)


def current_scored(origins: Sequence[Origin], run: Path, *, where: Path) -> Scored:
    """`scored_of_run`, and a `ScoreError` if the run has other weights now."""
    scored = scored_of_run(origins, run, where=where)
    if not scored.is_current:
        raise ScoreError(
            f"the scores are from {scored}",
            where=where,
            fix=f"{predict_again(run, where)} (average again first, if it is an average); or give "
            "the score file instead of the run",
        )
    return scored


def predict_again(model: Path, scores: Path, index: Sequence[str] = ("SHARDS",)) -> str:
    """The command that scores a checkpoint, or the last epoch of a run."""
    shards = (word for spec in index for word in ("--index", spec))
    words = [model, *shards, "--output", scores, *(["--overwrite"] if scores.is_file() else [])]
    return f"psla-wds predict {typed(*words)}"
