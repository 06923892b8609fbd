"""Encoded clips by byte range, read ahead by threads.

Threads, and no worker processes: reading and checking release the interpreter lock, and handing
a clip from one process to another costs more than reading it.
"""

import logging
import os
import resource
import time
import zlib
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock

import numpy as np
from jaxtyping import Int64, UInt8

from psla_wds.errors import ConfigError, ShardError
from psla_wds.shard_index import ShardIndex

logger = logging.getLogger("reader")

RETRY_PAUSES_S = (0.1, 0.5, 2.0)
"""Before a read that failed is tried again: networks and file servers recover."""
HANG_WARNING_S = 30.0
"""Between messages about a read that does not end."""
CLIPS_PER_TASK = 8
"""Clips that a thread reads in one go: enough to hide the cost of handing out work."""


@dataclass(frozen=True, kw_only=True)
class ReaderConfig:
    """How clips are read and decoded ahead of the training step, on each rank."""

    threads: int = 4
    """Threads that read."""
    decode_threads: int = 2
    """Threads of DALI, which decode; as many as there are cores for a rank."""
    prefetch_batches: int = 4
    """Batches that are read ahead."""
    memory_mib: int = 1024
    """Most memory for clips that are read ahead, still encoded; the next batch is read whatever
    its size. Beside it the pipeline holds three batches: two in work, one in use."""
    max_damaged: int = 0
    """Clips of a rank that may turn out damaged while training before the run ends with an error;
    other clips are drawn in their place, and they are listed in the log."""

    def __post_init__(self) -> None:
        for name in ("threads", "decode_threads", "prefetch_batches", "memory_mib"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"{name}={getattr(self, name)} must be at least 1",
                    where="reader",
                    fix=f"set --reader.{name.replace('_', '-')}",
                )
        if self.max_damaged < 0:
            raise ConfigError(
                f"max_damaged={self.max_damaged} must be at least 0",
                where="reader",
                fix="set --reader.max-damaged 0",
            )


class DamagedClipError(ShardError):
    """One clip cannot be read or decoded, and nothing else is known to be wrong."""

    def __init__(self, what: str, *, row: int, where: object, fix: str) -> None:
        super().__init__(what, where=where, fix=fix)
        self.row = row


def undecodable_clip(index: ShardIndex, row: int, reason: Exception) -> DamagedClipError:
    """The error for a clip whose bytes are as they were packed, and are no audio."""
    folder = index.shards[index.shard[row]].parent
    return DamagedClipError(
        f"the clip cannot be decoded: {reason}",
        row=row,
        where=index.where(row),
        fix=f"find all such clips with: python -m sharding.check {folder} --deep",
    )


class Reader:
    """Reads clips of an index; every clip is checked against its CRC-32."""

    def __init__(self, index: ShardIndex, *, threads: int) -> None:
        self._index = index
        self._files: dict[int, int] = {}
        self._lock = Lock()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="reader")
        _allow_open_files(len(index.shards))

    def start(self, rows: Int64[np.ndarray, " rows"]) -> "PendingRead":
        """Begin to read the clips of these rows."""
        chunks = [rows[i : i + CLIPS_PER_TASK] for i in range(0, len(rows), CLIPS_PER_TASK)]
        return PendingRead(
            [_Chunk(chunk, self._pool.submit(self._read_chunk, chunk)) for chunk in chunks],
            self._index,
        )

    def close(self) -> None:
        """End the threads and close the shards."""
        self._pool.shutdown(cancel_futures=True)
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files.clear()

    def _read_chunk(self, rows: Int64[np.ndarray, " rows"]) -> list[UInt8[np.ndarray, " bytes"]]:
        return [self._read(int(row)) for row in rows]

    def _read(self, row: int) -> UInt8[np.ndarray, " bytes"]:
        for pause_s in RETRY_PAUSES_S:
            clip, problem = self._try_read(row)
            if not problem:
                return clip
            logger.warning("%s: %s; reading it again", self._index.where(row), problem)
            time.sleep(pause_s)
        clip, problem = self._try_read(row)
        if not problem:
            return clip
        folder = self._index.shards[self._index.shard[row]].parent
        raise DamagedClipError(
            f"the clip {problem}, also when read again",
            row=row,
            where=self._index.where(row),
            fix=f"find all damage with: python -m sharding.check {folder}; or train on without "
            "such clips: --reader.max-damaged 10",
        )

    def _try_read(self, row: int) -> tuple[UInt8[np.ndarray, " bytes"], str]:
        """The clip, and what is wrong with it, if anything."""
        index = self._index
        buffer = np.empty(index.size[row], np.uint8)
        descriptor = self._open(int(index.shard[row]))
        try:
            num_read = os.preadv(descriptor, [buffer.data], int(index.offset[row]))
        except OSError as error:
            return buffer, f"cannot be read: {error.strerror}"
        if num_read < len(buffer):
            return buffer, "is cut short"
        damaged = zlib.crc32(buffer.data) != index.crc32[row]
        return buffer, "is damaged: its CRC-32 differs" if damaged else ""

    def _open(self, shard: int) -> int:
        with self._lock:
            if shard not in self._files:
                path = self._index.shards[shard]
                try:
                    descriptor = os.open(path, os.O_RDONLY)
                except OSError as error:
                    raise ShardError(
                        f"cannot open the shard: {error.strerror}",
                        where=path,
                        fix="mount or copy the shards again",
                    ) from None
                # Clips are read in random order: reading ahead in the file would be in vain.
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
                self._files[shard] = descriptor
            return self._files[shard]


class PendingRead:
    """Clips that are being read."""

    def __init__(self, chunks: Sequence["_Chunk"], index: ShardIndex) -> None:
        self._chunks, self._index = chunks, index

    def wait(self) -> list[UInt8[np.ndarray, " _"]]:
        """The encoded clips, in the order of their rows; raises what a read raised.

        Storage that does not answer is told, with what is waited for, and waited for.
        """
        return [clip for chunk in self._chunks for clip in self._wait(chunk)]

    def _wait(self, chunk: "_Chunk") -> list[UInt8[np.ndarray, " _"]]:
        waited_s = 0.0
        while True:
            try:
                return chunk.clips.result(timeout=HANG_WARNING_S)
            except TimeoutError:
                waited_s += HANG_WARNING_S
                logger.warning(
                    "waiting for %.0f s to read clips, the first of them %s",
                    waited_s,
                    self._index.where(chunk.rows[0]),
                )


@dataclass(frozen=True)
class _Chunk:
    rows: Int64[np.ndarray, " rows"]
    clips: Future[list[np.ndarray]]


def _allow_open_files(num_shards: int) -> None:
    """Every shard stays open, and the usual limit of 1,024 files is below AudioSet's shards."""
    needed = num_shards + 256
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= needed or soft == resource.RLIM_INFINITY:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise ConfigError(
            f"{num_shards} shards are more files than this process may open ({hard})",
            where="reader",
            fix="raise the limit (ulimit -Hn), or build with a larger --clips-per-shard",
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
