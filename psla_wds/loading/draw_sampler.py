"""The draws alone, for data sets and loaders of others: the trainer's plan as a torch sampler."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Int64
from torch.utils.data import Sampler

from psla_wds.errors import CheckpointError, ConfigError
from psla_wds.loading.epochs import Share, current_share
from psla_wds.loading.waveforms import WaveformConfig
from psla_wds.sampling.config import SamplerConfig
from psla_wds.sampling.schedule import TrainingSchedule
from psla_wds.shards.index import ShardIndex


class DrawSampler(Sampler[list[int]]):
    """A `batch_sampler` of rows of the index: this process's part of each batch of an epoch, as
    `training_batches` has it for the same seed.

    Each `for` over it gives one epoch, or the rest of one after `load_state_dict` or a `break`; the
    next `for` gives the next epoch.
    """

    def __init__(
        self,
        index: ShardIndex,
        *,
        batch_size: int,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        sampler: SamplerConfig | None = None,
    ) -> None:
        """No audio is read, and no shard: your own files of the clips can be anywhere.

        Args:
            batch_size: draws of a step, over all processes.
            rank: number of this process, with `world_size`, the number of all. Default: from
                torch's default process group.
            sampler: kind and number of the draws; default `SamplerConfig()`, the paper's.

        Raises `ConfigError` if the processes cannot share a batch, or if an epoch has no batch.
        """
        if rank is not None and world_size is not None:
            share = Share(rank=rank, world_size=world_size)
        elif rank is None and world_size is None:
            share = current_share()
        else:
            raise ConfigError(
                "rank and world_size belong together",
                where=f"rank={rank}, world_size={world_size}",
                fix="give both, or neither, for those of torch's process group",
            )
        config = WaveformConfig(sampler=sampler or SamplerConfig())
        self._layout = share.layout(batch_size)
        self._schedule = TrainingSchedule(index, config, self._layout, seed=seed)
        self.steps_per_epoch = self._schedule.steps_per_epoch
        self.step = 0
        """Batches given so far, over all epochs."""

    @property
    def epoch(self) -> int:
        """Epoch of the next batch, counted from 1."""
        return self.step // self.steps_per_epoch + 1

    def rows(self, epoch: int) -> Int64[np.ndarray, "steps draws"]:
        """The rows that this process draws in an epoch, counted from 1: a batch in each row."""
        self._check(epoch)
        layout, steps = self._layout, self.steps_per_epoch
        rows = self._schedule.plan(epoch).rows[: steps * layout.batch_size]
        return rows.reshape(steps, layout.world_size, layout.clips_per_pass)[:, layout.rank]

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch; stay if it is the current one.

        Args:
            epoch: counted from 0, as by torch's samplers, for the loops that call this (Lightning,
                Accelerate); everything else here counts from 1, as training does.
        """
        self._check(epoch + 1)
        if epoch + 1 != self.epoch:
            self.step = epoch * self.steps_per_epoch

    def state_dict(self, step: int | None = None) -> dict[str, Any]:
        """The place in the draws, to go on from with any number of processes.

        Args:
            step: batches that were trained on, over all epochs. Default: all that were given; a
                DataLoader with workers has asked for more of them than it has delivered.
        """
        step = self.step if step is None else step
        plan = self._schedule.plan(step // self.steps_per_epoch + 1)
        return {
            "step": step,
            "batch_size": self._layout.batch_size,
            "plan": plan.fingerprint(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a place; `CheckpointError` if it is one in other draws."""
        step = state.get("step")
        if not isinstance(step, int) or step < 0 or state != self.state_dict(step):
            raise CheckpointError(
                "the state is not one of these draws",
                where="DrawSampler",
                fix="give it the same index, batch_size, seed and sampler as before",
            )
        self.step = step

    def __len__(self) -> int:
        return self.steps_per_epoch

    def __iter__(self) -> Iterator[list[int]]:
        epoch, first = self.epoch, self.step % self.steps_per_epoch
        for number, rows in enumerate(self.rows(epoch)[first:], start=self.step + 1):
            self.step = number
            yield rows.tolist()

    def _check(self, epoch: int) -> None:
        if epoch < 1:
            raise ConfigError(
                "the epoch is before the first",
                where="DrawSampler",
                fix="count epochs from 1, and from 0 for set_epoch",
            )
