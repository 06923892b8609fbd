"""The encoded clips of the coming iterations, read ahead of those who decode them."""

import sys
import time

from psla_wds.features.encoded_batch import EncodedBatch
from psla_wds.reading.config import ReaderConfig
from psla_wds.reading.read_tuner import ReadTuner
from psla_wds.reading.reader import DamagedClipError, PendingRead, Reader
from psla_wds.sampling.augment import Draws
from psla_wds.sampling.schedule import Schedule
from psla_wds.shards.index import ShardIndex


class ReadAhead:
    """Reads the clips of coming iterations, within bounds of batches and bytes.

    A damaged clip ends reading, unless the schedule and `max_damaged` allow some: then another clip
    is drawn in its place, and the damaged one is listed in `damaged`.
    """

    def __init__(
        self,
        index: ShardIndex,
        schedule: Schedule,
        config: ReaderConfig,
        reader: Reader | None = None,
    ) -> None:
        """By default, opens a `Reader` with the tuner's first number of threads."""
        self._index, self._schedule, self._config = index, schedule, config
        self.tuner = ReadTuner(threads=config.threads, depth=config.prefetch_batches)
        self._reader = reader or Reader(
            index, threads=self.tuner.threads, timeout_s=config.timeout_s, stage=config.stage
        )
        self._pending: dict[int, tuple[Draws, PendingRead, int]] = {}  # the last: bytes
        self.damaged: dict[int, str] = {}
        """Damaged rows, which are not drawn any more, each with its fault."""
        self.waited_s = 0.0
        """Seconds that `batch` waited for reads."""

    def batch(self, iteration: int) -> EncodedBatch:
        """The clips of an iteration; `StopIteration` after the last one.

        The result for an iteration is always the same, unless a damaged clip was found in between.
        """
        while True:
            if not self._start(iteration):
                raise StopIteration
            self._start_coming(iteration + 1)
            draws, read, _ = self._pending[iteration]
            started = time.perf_counter()
            try:
                clips = read.wait()
            except DamagedClipError as error:
                self.replace(error)
                continue
            self._note(len(clips), waited_s=time.perf_counter() - started)
            del self._pending[iteration]
            return EncodedBatch.of(draws, clips)

    def replace(self, error: DamagedClipError) -> None:
        """Replace a damaged clip from here on; raises if that is not allowed."""
        is_one_too_many = len(self.damaged) >= self._config.max_damaged
        if is_one_too_many or not self._schedule.replaces_damaged:
            raise error
        self.damaged[error.row] = str(error)
        self.forget()  # some may have begun to read it

    def forget(self) -> None:
        """Give up what is being read ahead."""
        self._pending.clear()

    def close(self) -> None:
        """End the threads and close the shards."""
        self._reader.close()

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
        """Begin to read an iteration, if not yet begun; False at the end, or if there is no
        room."""
        if iteration in self._pending:
            return True
        draws = self._schedule(iteration, frozenset(self.damaged))
        if draws is None:
            return False
        rows = draws.clips
        num_bytes = int(self._index.size[rows].sum())
        if num_bytes + sum(held for *_, held in self._pending.values()) > room:
            return False
        self._pending[iteration] = draws, self._reader.start(rows), num_bytes
        return True
