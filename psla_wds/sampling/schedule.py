"""What one rank reads at each iteration: its share of the plan, for training or evaluation."""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np

from psla_wds.errors import ConfigError
from psla_wds.sampling.augment import (
    AugmentConfig,
    Draws,
    augmented_draws,
    plain_draws,
    without_damaged,
)
from psla_wds.sampling.plan import EpochPlan, SamplerConfig, plan_epoch
from psla_wds.shards.index import ShardIndex

NONE_DAMAGED: frozenset[int] = frozenset()


@runtime_checkable
class Schedule(Protocol):
    """The draws of iteration 0, 1, 2, ... of a rank."""

    replaces_damaged: bool
    """Whether other clips may be drawn in place of damaged ones."""
    rolls: bool
    """Whether draws may be shifted in time, which the graph then has a place for."""

    def __call__(self, iteration: int, damaged: frozenset[int] = NONE_DAMAGED) -> Draws | None:
        """The draws of an iteration, none of damaged rows; None after the last."""
        ...


@dataclass(frozen=True, kw_only=True)
class BatchLayout:
    """How the positions of an epoch are shared out to steps, ranks, and passes of a step.

    Slices of all ranks, in the order of ranks, are the global batch, whatever their number.
    """

    batch_size: int
    """Draws of an optimizer step, over all ranks."""
    rank: int = 0
    world_size: int = 1
    accumulate: int = 1
    """Forward passes, one after another, that a rank cuts its share of a step into."""

    def __post_init__(self) -> None:
        parts = self.world_size * self.accumulate
        if self.accumulate < 1 or self.batch_size < 1 or self.batch_size % parts:
            below = self.batch_size // max(parts, 1) * parts
            sizes = " or ".join(str(size) for size in (below, below + parts) if size > 0)
            raise ConfigError(
                f"a batch of {self.batch_size} clips cannot be shared by {self.world_size} "
                f"processes in {self.accumulate} passes each",
                where="batch_size",
                fix=f"set --batch-size {sizes}",
            )

    @property
    def clips_per_pass(self) -> int:
        return self.batch_size // (self.world_size * self.accumulate)

    def positions(self, step: int, forward_pass: int, num_draws: int) -> tuple[int, int]:
        """Positions [start, stop) of this rank; the last batch of an evaluation is cut."""
        part = self.rank * self.accumulate + forward_pass
        start = step * self.batch_size + part * self.clips_per_pass
        return min(start, num_draws), min(start + self.clips_per_pass, num_draws)


class TrainingSchedule:
    """Endless: epoch follows epoch. Iterations are the passes of steps, from `first_step` on."""

    replaces_damaged = True

    def __init__(
        self,
        plans: "Plans",
        augment: AugmentConfig,
        layout: BatchLayout,
        *,
        log_mel_shape: tuple[int, int],
        first_step: int = 0,
    ) -> None:
        self._plans, self._augment, self._layout = plans, augment, layout
        self._log_mel_shape, self._first_step = log_mel_shape, first_step
        self.rolls = augment.time_roll > 0
        self.steps_per_epoch = plans.num_draws // layout.batch_size
        """Whole batches; the draws left over, less than a batch, are not used."""
        if not self.steps_per_epoch:
            raise ConfigError(
                f"an epoch of {plans.num_draws} draws has not one batch of {layout.batch_size}",
                where="batch_size",
                fix=f"set --batch-size to at most {max(plans.num_draws, 1)}, or add clips",
            )

    def __call__(self, iteration: int, damaged: frozenset[int] = NONE_DAMAGED) -> Draws:
        passes, forward_pass = divmod(iteration, self._layout.accumulate)
        epochs, step = divmod(self._first_step + passes, self.steps_per_epoch)
        plan = self._plans.of_epoch(epochs + 1)
        draws = augmented_draws(
            plan,
            self._augment,
            self._layout.positions(step, forward_pass, len(plan.rows)),
            num_clips=self._plans.num_clips,
            log_mel_shape=self._log_mel_shape,
        )
        if not damaged:
            return draws
        return without_damaged(draws, damaged, plan, num_clips=self._plans.num_clips)


class EvaluationSchedule:
    """Every clip once, over all ranks, in the order of the index."""

    replaces_damaged = False  # another clip in its place would be scored under its name
    rolls = False

    def __init__(self, index: ShardIndex, layout: BatchLayout) -> None:
        self._num_clips, self._layout = len(index), layout

    def __call__(self, iteration: int, damaged: frozenset[int] = NONE_DAMAGED) -> Draws | None:
        assert not damaged
        start, stop = self._layout.positions(iteration, 0, self._num_clips)
        return plain_draws(np.arange(start, stop)) if start < stop else None


class Plans:
    """The plan of each epoch; the next one is made while this one is in use."""

    def __init__(self, index: ShardIndex, config: SamplerConfig, *, seed: int) -> None:
        self._make = partial(plan_epoch, index, config, seed=seed)
        self._plans: dict[int, Future[EpochPlan]] = {}
        self.num_clips = len(index)
        self.num_draws = config.draws_per_epoch or len(index)

    def of_epoch(self, epoch: int) -> EpochPlan:
        """The plan of an epoch, counted from 1."""
        for wanted in (epoch, epoch + 1):
            if wanted not in self._plans:
                pool = ThreadPoolExecutor(1, thread_name_prefix="plan")
                self._plans[wanted] = pool.submit(self._make, epoch=wanted)
                pool.shutdown(wait=False)  # the thread ends with the plan
        # An epoch back is kept: its last batches are delivered after the next one was begun.
        for past in [known for known in self._plans if known < epoch - 1]:
            del self._plans[past]
        return self._plans[epoch].result()
