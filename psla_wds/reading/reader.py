"""Encoded clips by byte range, read ahead by threads.

Threads, not worker processes: reading and checking release the interpreter lock, and handing a
clip from one process to another costs more than reading it.
"""

import logging
import resource
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Event
from typing import TypeAlias

import numpy as np
from isal.isal_zlib import crc32
from jaxtyping import Int64, UInt8

from psla_wds.errors import ConfigError, ShardError
from psla_wds.io.remote import ReadError, request_timeout_s, try_again
from psla_wds.io.stores import Store, at
from psla_wds.printable import typed
from psla_wds.reading.config import TIMEOUT_S
from psla_wds.reading.read_pool import ReadPool
from psla_wds.reading.staging import Staging
from psla_wds.runtime.memory import keep_freed_memory
from psla_wds.shards.index import ShardIndex

logger = logging.getLogger("reader")

HANG_WARNING_S = 30.0
"""Seconds between warnings about a read that does not end."""
_Place: TypeAlias = tuple[int, int, int, int]
"""Shard, offset, size and CRC-32 of a clip."""
CLIPS_PER_TASK = 8
"""Fewest clips that a thread takes at once, since handing out work costs as much as reading a clip.
From a disk, it takes its share of a whole batch."""


class DamagedClipError(ShardError):
    """One clip cannot be read or decoded; other clips may be fine."""

    def __init__(self, what: str, index: ShardIndex, row: int) -> None:
        folder = index.shards[index.shard[row]].parent
        super().__init__(
            f"the clip {what}",
            where=index.where(row),
            fix=f"find all damage with: psla-wds check {typed(folder)} --deep; or train without "
            "such clips: --reader.max-damaged 10",
        )
        self.row = row


class Reader:
    """Reads clips of an index; every clip is checked against its CRC-32."""

    def __init__(
        self,
        index: ShardIndex,
        *,
        threads: int,
        timeout_s: float = TIMEOUT_S,
        stage: Path | None = None,
    ) -> None:
        keep_freed_memory()
        self._index, self._timeout_s = index, timeout_s
        request_s = request_timeout_s(timeout_s)
        self._shards = [at(location, request_s) for location in index.shards]
        num_local = sum(shard.is_local for shard in self._shards)
        _allow_open_files(num_local + (len(index.shards) if stage else 0))
        self._is_local = num_local == len(index.shards)
        self._closed = Event()
        self._staging = Staging(index, self._shards, stage) if stage else None
        self._copies = self._staging.copies if self._staging else {}
        self._pool: ReadPool[list[np.ndarray]] = ReadPool(threads)

    @property
    def threads(self) -> int:
        return self._pool.threads

    def add_threads(self, number: int) -> None:
        self._pool.add_threads(number)

    def start(self, rows: Int64[np.ndarray, " rows"]) -> "PendingRead":
        """Begin to read the clips of these rows."""
        # A request to a store takes long: other threads should read the next clips meanwhile.
        step = max(CLIPS_PER_TASK, -(-len(rows) // self.threads)) if self._is_local else 1
        chunks = [_Chunk(rows[i : i + step]) for i in range(0, len(rows), step)]
        for chunk in chunks:
            chunk.clips = self._pool.submit(partial(self._read_chunk, chunk))
        return PendingRead(chunks, self._index, self._timeout_s)

    def close(self) -> None:
        """End the threads and close the shards, except reads that hang."""
        self._closed.set()
        if self._staging:
            self._staging.close()
        # A thread that hangs may still read from its file, so the file descriptor must stay open.
        if self._pool.close():
            for shard in (*self._shards, *self._copies.values()):
                shard.close()

    def _read_chunk(self, chunk: "_Chunk") -> list[UInt8[np.ndarray, " bytes"]]:
        clips: list[np.ndarray] = []
        index = self._index
        # As Python's numbers, all at once: while one thread runs Python, the others wait.
        columns = (index.shard, index.offset, index.size, index.crc32)
        places = zip(*(column[chunk.rows].tolist() for column in columns), strict=True)
        for row, place in zip(chunk.rows.tolist(), places, strict=True):
            if clips and row == chunk.reading:  # another window of the clip before
                clips.append(clips[-1])
                continue
            chunk.reading = row
            try:
                clips.append(self._try_read(place))
            except ReadError as failure:
                clips.append(self._read_again(row, place, failure))
        return clips

    def _read_again(
        self, row: int, place: _Place, failure: ReadError
    ) -> UInt8[np.ndarray, " bytes"]:
        read, where = partial(self._try_read, place), partial(self._index.where, row)
        try:
            return try_again(read, where, failure, pause=self._closed.wait)
        except _DamageError as damage:
            what = f"{damage}, also when read again"
            raise DamagedClipError(what, self._index, row) from None
        except ReadError as last:
            raise ShardError(
                f"the clip {last}, also when read again",
                where=where(),
                fix="check the storage, then continue the run with --resume",
            ) from None

    def _try_read(self, place: _Place) -> UInt8[np.ndarray, " bytes"]:
        shard = place[0]
        copy = self._copies.get(shard)
        if copy is not None:
            try:
                return _read_from(copy, place)
            except (ReadError, ShardError) as problem:
                assert self._staging is not None
                self._staging.drop(shard, str(problem))
        return _read_from(self._shards[shard], place)


def _read_from(shard: Store, place: _Place) -> UInt8[np.ndarray, " bytes"]:
    _, offset, size, check_sum = place
    clip = np.empty(size, np.uint8)
    content = clip.data
    if shard.read_into(offset, content) < size:
        raise _DamageError("is cut short")
    if crc32(content) != check_sum:
        raise _DamageError("is damaged: its CRC-32 differs")
    return clip


class _DamageError(ReadError):
    """The bytes read are not the clip."""


@dataclass
class _Chunk:
    rows: Int64[np.ndarray, " rows"]
    reading: int | None = None
    """Row that a thread is reading now."""
    clips: Future[list[np.ndarray]] = field(default_factory=Future)


class PendingRead:
    """Clips that are being read."""

    def __init__(self, chunks: Sequence[_Chunk], index: ShardIndex, timeout_s: float) -> None:
        self._chunks, self._index, self._timeout_s = chunks, index, timeout_s

    def wait(self) -> list[UInt8[np.ndarray, " _"]]:
        """The encoded clips, in the order of their rows; raises what a read raised.

        Storage that does not answer is waited for up to the timeout, with warnings that name the
        clip.
        """
        return [clip for chunk in self._chunks for clip in self._wait(chunk)]

    def _wait(self, chunk: _Chunk) -> list[UInt8[np.ndarray, " _"]]:
        begun = time.monotonic()
        until = begun + self._timeout_s
        while True:
            try:
                return chunk.clips.result(min(HANG_WARNING_S, until - time.monotonic()))
            except TimeoutError:
                if chunk.clips.done():
                    return chunk.clips.result()
            waited_s = time.monotonic() - begun
            row = chunk.rows[0] if chunk.reading is None else chunk.reading
            where = self._index.where(row)
            if waited_s >= self._timeout_s:
                raise ShardError(
                    f"the clip did not arrive within {self._timeout_s:g} s",
                    where=where,
                    fix="check the storage; if it is only slow, set --reader.timeout-s higher",
                )
            logger.warning("waiting for %.0f s to read clips, now %s", waited_s, where)


def _allow_open_files(num_files: int) -> None:
    """Raise the limit of open files: every shard stays open, and 1,024 is below AudioSet's
    shards."""
    needed = num_files + 256
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= needed or soft == resource.RLIM_INFINITY:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise ConfigError(
            f"{num_files} shards are more files than this process may open ({hard})",
            where="reader",
            fix="raise the limit (ulimit -Hn), or build with a larger --clips-per-shard",
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
