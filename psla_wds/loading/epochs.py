"""Epochs of batches for a user's training script, and the share of them that a process gets."""

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from psla_wds.errors import ConfigError
from psla_wds.reading.config import ReaderConfig
from psla_wds.reading.read_ahead import ReadAhead
from psla_wds.sampling.schedule import BatchLayout, EvaluationSchedule, Schedule, TrainingSchedule
from psla_wds.shards.index import ShardIndex

B = TypeVar("B")
S = TypeVar("S")


@dataclass(frozen=True, kw_only=True)
class Share:
    """This process's part of every batch: slice `rank` of `world_size` equal slices."""

    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise ConfigError(
                f"rank {self.rank} does not exist among {self.world_size} processes",
                where="share",
                fix="give Share a rank from 0 to world_size - 1",
            )

    def layout(self, batch_size: int) -> BatchLayout:
        """Layout of batches of this size over all processes."""
        return BatchLayout(batch_size=batch_size, rank=self.rank, world_size=self.world_size)


def current_share() -> Share:
    """Share by torch's default process group; everything without a group."""
    # A script with a process group has imported this already; without torch it is not needed.
    distributed = sys.modules.get("torch.distributed")
    if distributed and distributed.is_available() and distributed.is_initialized():
        return Share(rank=distributed.get_rank(), world_size=distributed.get_world_size())
    started = int(os.environ.get("WORLD_SIZE", 1))
    if started > 1:
        raise ConfigError(
            f"{started} processes were started, and each would get the same whole batches",
            where="WORLD_SIZE, and no process group",
            fix="call torch.distributed.init_process_group() first, or pass share=Share(...)",
        )
    return Share()


class BatchSource(ABC, Generic[B]):
    """Batches of a schedule: each `for` over an evaluation gives all of them; those of training
    never end. Close it, best with `with`: it holds threads and files."""

    def __init__(self, index: ShardIndex, schedule: Schedule, config: ReaderConfig) -> None:
        self._index, self._is_open = index, True
        self._schedule, self._pass, self._is_begun = schedule, 0, False
        self._ahead = ReadAhead(index, schedule, config)

    @abstractmethod
    def _next(self) -> B:
        """The next batch; `StopIteration` after the last one."""

    def __next__(self) -> B:
        if not self._is_open:
            raise RuntimeError("the batches were closed: use them inside the `with` block")
        self._is_begun = True
        return self._next()

    def __iter__(self) -> Iterator[B]:
        return self._all() if isinstance(self._schedule, EvaluationSchedule) else self

    def __len__(self) -> int:
        """Batches of an evaluation that this process gets."""
        if not isinstance(self._schedule, EvaluationSchedule):
            raise TypeError("the batches of training have no end")
        return self._schedule.num_batches

    def _all(self) -> Iterator[B]:
        if self._is_begun:
            self._ahead.forget()
            self._restart()
        self._pass += 1
        number = self._pass
        with suppress(StopIteration):
            while True:
                if number != self._pass:
                    raise RuntimeError("another `for` over these batches was begun since")
                yield next(self)

    @abstractmethod
    def _restart(self) -> None:
        """Begin with the first batch again."""

    def __enter__(self: S) -> S:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the threads and close the shards."""
        self._is_open = False
        self._ahead.close()

    @property
    def damaged(self) -> dict[str, str]:
        """Clips that were replaced because they are damaged, by id, each with what is wrong."""
        return {self._index.clip_id(row): what for row, what in self._ahead.damaged.items()}


class Epochs(Generic[B]):
    """Each `for` over it gives one epoch: first the rest of the epoch of `first_step`, then one
    epoch after another. After a `break`, the next `for` continues in the same epoch. Close it, best
    with `with`: it holds threads and files."""

    def __init__(self, source: BatchSource[B], schedule: TrainingSchedule) -> None:
        self._source = source
        self.steps_per_epoch = schedule.steps_per_epoch
        self.step = schedule.first_step
        """Batches delivered so far over all epochs: save it, and resume with `first_step`."""

    @property
    def epoch(self) -> int:
        """Epoch of the next batch, counted from 1."""
        return self.step // self.steps_per_epoch + 1

    @property
    def damaged(self) -> dict[str, str]:
        """Clips that were replaced because they are damaged, by id, each with what is wrong."""
        return self._source.damaged

    def __len__(self) -> int:
        """Batches that the next `for` gives."""
        return self.epoch * self.steps_per_epoch - self.step

    def __iter__(self) -> Iterator[B]:
        end = self.epoch * self.steps_per_epoch
        while self.step < end:
            batch = next(self._source)
            self.step += 1
            yield batch

    def __enter__(self) -> "Epochs[B]":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the threads and close the shards."""
        self._source.close()
