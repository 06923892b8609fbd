"""Epochs of batches for a training script of one's own, and the share of them a process gets."""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, runtime_checkable

from psla_wds.errors import ConfigError
from psla_wds.sampling.schedule import BatchLayout

B = TypeVar("B")
B_co = TypeVar("B_co", covariant=True)


@dataclass(frozen=True, kw_only=True)
class Share:
    """The part of every batch that this process gets: slice `rank` of `world_size` equal ones."""

    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise ConfigError(
                f"there is no rank {self.rank} among {self.world_size} processes",
                where="share",
                fix="give Share a rank from 0 to world_size - 1",
            )

    def layout(self, batch_size: int) -> BatchLayout:
        """How batches of this size over all processes are shared out."""
        return BatchLayout(batch_size=batch_size, rank=self.rank, world_size=self.world_size)


def current_share() -> Share:
    """The share that torch's default process group gives; all of it when there is no group."""
    # Who made a process group has imported this; who has no torch shall not need it.
    distributed = sys.modules.get("torch.distributed")
    if distributed and distributed.is_available() and distributed.is_initialized():
        return Share(rank=distributed.get_rank(), world_size=distributed.get_world_size())
    started = int(os.environ.get("WORLD_SIZE", 1))
    if started > 1:
        raise ConfigError(
            f"{started} processes were started, and each would get whole batches, the same ones",
            where="WORLD_SIZE, and no process group",
            fix="call torch.distributed.init_process_group() first, or pass share=Share(...)",
        )
    return Share()


@runtime_checkable
class BatchSource(Protocol[B_co]):
    """Batches without end, by threads and files that `close` gives back."""

    def __next__(self) -> B_co: ...

    @property
    def damaged(self) -> dict[str, str]: ...

    def close(self) -> None: ...


class Epochs(Generic[B]):
    """Each `for` over it gives one epoch: the first the rest of the epoch of `first_step`, and
    every other the next one. After a `break` the next `for` goes on in the same epoch.

    Close it, best by `with`: it holds threads and files.
    """

    def __init__(
        self, source: BatchSource[B], *, steps_per_epoch: int, first_step: int = 0
    ) -> None:
        if first_step < 0:
            raise ConfigError(
                f"first_step={first_step} is before the first epoch",
                where="first_step",
                fix="set it to the number of steps that were done, 0 for a new run",
            )
        self._source: BatchSource[B] | None = source
        self.steps_per_epoch = steps_per_epoch
        self.step = first_step
        """Batches given so far, over all epochs: save it, and resume by `first_step`."""

    @property
    def epoch(self) -> int:
        """The epoch, counted from 1, that the next batch belongs to."""
        return self.step // self.steps_per_epoch + 1

    @property
    def damaged(self) -> dict[str, str]:
        """Clips that were replaced because they are damaged, by id, each with what is wrong."""
        return self._open_source().damaged

    def __iter__(self) -> Iterator[B]:
        end = self.epoch * self.steps_per_epoch
        while self.step < end:
            batch = next(self._open_source())
            self.step += 1
            yield batch

    def __enter__(self) -> "Epochs[B]":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the threads and close the shards."""
        if self._source is not None:
            self._source.close()
        self._source = None

    def _open_source(self) -> BatchSource[B]:
        if self._source is None:
            raise RuntimeError("the batches were closed: use them inside the `with` block")
        return self._source
