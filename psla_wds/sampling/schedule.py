"""The draws that one rank reads at each iteration: its share of the plan."""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64

from psla_wds.errors import ConfigError
from psla_wds.sampling.augment import (
    AugmentConfig,
    Change,
    Draws,
    augmented_draws,
    plain_draws,
    without_damaged,
)
from psla_wds.sampling.config import SamplerConfig
from psla_wds.sampling.plan import EpochPlan, clip_weights, plan_epoch
from psla_wds.shards.index import ShardIndex

NONE_DAMAGED: frozenset[int] = frozenset()


@runtime_checkable
class Schedule(Protocol):
    """The draws of iteration 0, 1, 2, ... of a rank: a pure function of the iteration."""

    clips_per_pass: int
    """Draws of an iteration; the last one may have fewer."""
    replaces_damaged: bool
    """Whether other clips may be drawn in place of damaged ones."""
    changes: tuple[Change, ...]
    """Changes of waveforms that draws may have; the graph has operators for these alone."""

    def __call__(self, iteration: int, damaged: frozenset[int] = NONE_DAMAGED) -> Draws | None:
        """Draws of an iteration without damaged rows; None after the last."""
        ...


@runtime_checkable
class DrawSettings(Protocol):
    """Settings that training draws depend on; masks are placed on (frames, mels)."""

    @property
    def sampler(self) -> SamplerConfig: ...
    @property
    def augment(self) -> AugmentConfig: ...
    @property
    def log_mel_shape(self) -> tuple[int, int]: ...


@dataclass(frozen=True, kw_only=True)
class BatchLayout:
    """Assignment of an epoch's positions to steps, ranks, and passes of a step.

    The slices of all ranks, in rank order, make up the global batch for any number of ranks.
    """

    batch_size: int
    """Draws of an optimizer step, over all ranks."""
    rank: int = 0
    world_size: int = 1
    accumulate: int = 1
    """Forward passes per step and rank, one after another (gradient accumulation)."""

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
        index: ShardIndex,
        settings: DrawSettings,
        layout: BatchLayout,
        *,
        seed: int,
        first_step: int = 0,
    ) -> None:
        """`first_step` is the number of steps done before, over all epochs."""
        if first_step < 0:
            raise ConfigError(
                f"first_step={first_step} is before the first epoch",
                where="first_step",
                fix="set it to the number of steps that were done, 0 for a new run",
            )
        sampler = settings.sampler
        weights = None if sampler.sampling == "shuffle" else clip_weights(index)
        self._make_plan = partial(plan_epoch, index, sampler, seed=seed, weights=weights)
        self._plans: dict[int, Future[EpochPlan]] = {}
        self.steps_per_epoch = sampler.steps_per_epoch(len(index), layout.batch_size)
        self.first_step = first_step
        self.clips_per_pass, augment = layout.clips_per_pass, settings.augment
        wanted: dict[Change, bool] = {
            "rolls": augment.time_roll > 0,
            "crops": augment.crop == "random",
        }
        self.changes = tuple(change for change, is_wanted in wanted.items() if is_wanted)
        self._num_clips, self._settings, self._layout = len(index), settings, layout
        if not self.steps_per_epoch:
            num_draws = sampler.num_draws(len(index))
            raise ConfigError(
                f"an epoch has {num_draws} draws, fewer than one batch ({layout.batch_size})",
                where="batch_size",
                fix=f"set --batch-size to at most {max(num_draws, 1)}, or add clips",
            )

    def __call__(self, iteration: int, damaged: frozenset[int] = NONE_DAMAGED) -> Draws:
        passes, forward_pass = divmod(iteration, self._layout.accumulate)
        epochs, step = divmod(self.first_step + passes, self.steps_per_epoch)
        plan = self.plan(epochs + 1)
        draws = augmented_draws(
            plan,
            self._settings.augment,
            self._layout.positions(step, forward_pass, len(plan.rows)),
            num_clips=self._num_clips,
            log_mel_shape=self._settings.log_mel_shape,
        )
        if not damaged:
            return draws
        return without_damaged(draws, damaged, plan, num_clips=self._num_clips)

    def plan(self, epoch: int) -> EpochPlan:
        """Plan of an epoch, counted from 1; a thread prepares the next one meanwhile."""
        for wanted in (epoch, epoch + 1):
            if wanted not in self._plans:
                pool = ThreadPoolExecutor(1, thread_name_prefix="plan")
                self._plans[wanted] = pool.submit(self._make_plan, epoch=wanted)
                pool.shutdown(wait=False)  # the thread ends with the plan
        # The previous epoch is kept: its last batches are delivered after the next one has begun.
        for past in [known for known in self._plans if known < epoch - 1]:
            del self._plans[past]
        return self._plans[epoch].result()

    def draws_of_step(self, step: int, damaged: frozenset[int] = NONE_DAMAGED) -> list[Draws]:
        """The draws of each pass of a step, counted from 1 over all epochs."""
        first = (step - 1 - self.first_step) * self._layout.accumulate
        return [self(first + number, damaged) for number in range(self._layout.accumulate)]


class EvaluationSchedule:
    """Every clip once, over all ranks, in the order of the index. If clips have several windows,
    those of one follow each other on one rank, at equal distances from its start to its end."""

    replaces_damaged = False  # a replacement would be scored under the damaged clip's name

    def __init__(
        self,
        index: ShardIndex,
        layout: BatchLayout,
        windows: Int64[np.ndarray, " clips"] | None = None,
    ) -> None:
        """`windows` are the numbers of windows of the clips. Default: the first of each."""
        self.clips_per_pass = size = layout.clips_per_pass
        rows = np.arange(len(index))
        rows = rows[rows % layout.batch_size // size == layout.rank]
        counts = np.ones(len(rows), np.int64) if windows is None else windows[rows]
        self._rows = np.repeat(rows, counts)
        numbers = np.arange(len(self._rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        self._places = (numbers / np.repeat(np.maximum(counts - 1, 1), counts)).astype(np.float32)
        self.changes: tuple[Change, ...] = ("crops",) if (counts > 1).any() else ()

    @property
    def num_batches(self) -> int:
        """Batches of this rank that have a clip."""
        return -(-len(self._rows) // self.clips_per_pass)

    def __call__(self, iteration: int, damaged: frozenset[int] = NONE_DAMAGED) -> Draws | None:
        assert not damaged
        part = slice(iteration * self.clips_per_pass, (iteration + 1) * self.clips_per_pass)
        draws = plain_draws(self._rows[part])
        draws.crops[:, 0] = self._places[part]
        return draws if len(draws.rows) else None
