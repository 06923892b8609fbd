"""The encoded clips of the coming iterations, read ahead of those who decode them."""

import sys
import time
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from psla_wds.reading.read_tuner import ReadTuner
from psla_wds.reading.reader import DamagedClipError, PendingRead, Reader, ReaderConfig
from psla_wds.sampling.augment import Draws
from psla_wds.sampling.schedule import Schedule
from psla_wds.shards.index import ShardIndex
from psla_wds.shards.soft_labels import SoftLabels


@dataclass(frozen=True)
class ReadBatch:
    """The draws of an iteration and their audio."""

    draws: Draws
    audio: list[UInt8[np.ndarray, " _"]]
    """Encoded, one clip a draw."""
    partner_audio: list[UInt8[np.ndarray, " _"]]
    """Encoded, one clip for each draw that is mixed, in their order."""


class ReadAhead:
    """Has the clips of the coming iterations read, within bounds of batches and of bytes.

    A damaged clip ends it, unless the schedule and `max_damaged` allow for some: then another clip
    is drawn in its place, and the damaged one is listed in `damaged`.
    """

    def __init__(
        self, reader: Reader, index: ShardIndex, schedule: Schedule, config: ReaderConfig
    ) -> None:
        self._reader, self._index, self._schedule = reader, index, schedule
        self._config = config
        self.tuner = ReadTuner(threads=config.threads, depth=config.prefetch_batches)
        self._pending: dict[int, _Pending] = {}
        self.damaged: dict[int, str] = {}
        """Rows that are drawn no more, each with what is wrong."""
        self.waited_s = 0.0
        """Time that `batch` waited for reads: what storage was too slow by."""

    def batch(self, iteration: int) -> ReadBatch:
        """The draws of an iteration, read; `StopIteration` after the last one."""
        while True:
            if not self._start(iteration):
                raise StopIteration
            self._start_coming(iteration + 1)
            pending = self._pending[iteration]
            started = time.perf_counter()
            try:
                clips = pending.read.wait()
            except DamagedClipError as error:
                self.replace(error)
                continue
            self._note(len(clips), waited_s=time.perf_counter() - started)
            del self._pending[iteration]
            num_draws = len(pending.draws.rows)
            return ReadBatch(pending.draws, clips[:num_draws], clips[num_draws:])

    def replace(self, error: DamagedClipError) -> None:
        """Draw other clips for a damaged one from here on; raises if that is not allowed."""
        is_one_too_many = len(self.damaged) >= self._config.max_damaged
        if is_one_too_many or not self._schedule.replaces_damaged:
            raise error
        self.damaged[error.row] = str(error)
        self._pending.clear()  # some may have begun to read it

    def _note(self, num_clips: int, *, waited_s: float) -> None:
        self.waited_s += waited_s
        self.tuner.note(num_clips=num_clips, waited_s=waited_s)
        if self.tuner.threads > self._reader.threads:
            self._reader.add_threads(self.tuner.threads - self._reader.threads)

    def _start_coming(self, iteration: int) -> None:
        room = self._config.memory_mib * 2**20
        last = iteration + self.tuner.depth
        while iteration < last and self._start(iteration, room=room):
            iteration += 1

    def _start(self, iteration: int, *, room: int = sys.maxsize) -> bool:
        """Begin to read an iteration unless that was done; False when there is none, or no room."""
        if iteration in self._pending:
            return True
        draws = self._schedule(iteration, frozenset(self.damaged))
        if draws is None:
            return False
        rows = rows_read(draws)
        num_bytes = int(self._index.size[rows].sum())
        if num_bytes + sum(pending.num_bytes for pending in self._pending.values()) > room:
            return False
        self._pending[iteration] = _Pending(draws, self._reader.start(rows), num_bytes)
        return True


@dataclass(frozen=True)
class _Pending:
    draws: Draws
    read: PendingRead
    num_bytes: int


def rows_read(draws: Draws) -> Int64[np.ndarray, " rows"]:
    """The rows whose audio the draws need: theirs, then those of the partners there are."""
    return np.concatenate([draws.rows, draws.partners[draws.mixed]])


def mixed_targets(
    labels: ShardIndex | SoftLabels, draws: Draws
) -> Float32[np.ndarray, "draws classes"]:
    """lam of the clip's targets plus 1 - lam of its partner's; 1 for a class of both."""
    targets = labels.targets(draws.rows)
    mixed = draws.mixed
    lam = draws.lam[mixed, None]
    targets[mixed] = lam * targets[mixed] + (1 - lam) * labels.targets(draws.partners[mixed])
    return targets
