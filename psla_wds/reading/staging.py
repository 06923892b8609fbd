"""Copies of the shards on a disk of this node, made while training goes on.

STAGE/KEY/shard-000000.tar         a whole copy, or absent
STAGE/KEY/shard-000000.tar.lock    held by the process that makes it, if it lives
"""

import fcntl
import hashlib
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Lock, Thread

from psla_wds.errors import ShardError
from psla_wds.io.atomic_files import atomic_open
from psla_wds.io.remote import ReadError, retry
from psla_wds.io.stores import Disk, Store, at
from psla_wds.shards.index import ShardIndex

logger = logging.getLogger("stage")

COPY_BYTES = 8 * 2**20
"""Bytes per read."""
FREE_BYTES = 2**30
"""Bytes that stay free on the disk; not a share, since 5 % of a large disk is room for many
shards."""
POLL_S = 2.0
"""Seconds between looks at shards that other processes are copying."""
CLOSE_WAIT_S = 5.0
"""Longest wait in seconds until the copy under way is given up."""


class Staging:
    """Copies the shards of an index one after another, in a thread."""

    def __init__(self, index: ShardIndex, origins: Sequence[Store], folder: Path) -> None:
        self.copies: dict[int, Disk] = {}
        """Finished copies, by position in `index.shards`."""
        self._origins, self._sizes, self._stage = origins, index.shard_sizes, folder
        self._paths = copy_paths(index, folder)
        self._drop_lock = Lock()
        self._closed = Event()
        used = sorted(set(index.shard.tolist()))
        self._num_used = len(used)
        self._waiting = [shard for shard in used if not self._adopt(shard)]
        self._log_count("at the start")
        self._thread = Thread(target=self._copy_all, name="stage", daemon=True)
        self._thread.start()

    def drop(self, shard: int, problem: str) -> None:
        """Stop using the copy, and delete it: it is damaged, or cannot be read."""
        with self._drop_lock:
            if self.copies.pop(shard, None) is None:
                return  # another thread dropped it
            path = self._paths[shard]
            logger.warning("%s: the copy is dropped, a clip in it %s", path, problem)
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                logger.warning("%s: the copy cannot be deleted: %s", path, error.strerror)

    def close(self) -> None:
        """End the thread; the next run copies a shard that is incomplete now."""
        self._closed.set()
        self._thread.join(CLOSE_WAIT_S)
        self._log_count("at the end")

    def _copy_all(self) -> None:
        try:
            while self._waiting and not self._closed.is_set():
                self._waiting = [shard for shard in self._waiting if not self._stage_one(shard)]
                if self._waiting:
                    self._closed.wait(POLL_S)  # other processes are copying these
        except _ClosedError:
            return
        except (OSError, ShardError, ReadError) as problem:
            reason = str(problem).splitlines()[0]
            logger.warning("no more shards are staged in %s: %s", self._stage, reason)
            return
        if not self._waiting:
            self._log_count("now")

    def _stage_one(self, shard: int) -> bool:
        """Make a copy of the shard, or adopt one; False if another process is making it."""
        if self._adopt(shard):
            return True
        path = self._paths[shard]
        path.parent.mkdir(parents=True, exist_ok=True)
        with _lock(path.with_name(f"{path.name}.lock")) as is_ours:
            if is_ours and not self._adopt(shard):  # who had the lock before may have made it
                self._copy(shard)
                self._adopt(shard)
        return is_ours

    def _adopt(self, shard: int) -> bool:
        """Use the copy if it exists. It gets its name once it is whole; its size reveals one of
        another data set."""
        try:
            is_whole = self._paths[shard].stat().st_size == self._sizes[shard]
        except OSError:
            return False
        if is_whole:
            self.copies[shard] = Disk(self._paths[shard])
        return is_whole

    def _copy(self, shard: int) -> None:
        path, size = self._paths[shard], self._sizes[shard]
        _check_room(path.parent, size)
        buffer = memoryview(bytearray(min(COPY_BYTES, size)))
        with atomic_open(path) as file:
            for offset in range(0, size, COPY_BYTES):
                part = buffer[: size - offset]
                self._read_into(shard, offset, part)
                file.write(part)

    def _read_into(self, shard: int, offset: int, part: memoryview) -> None:
        def read() -> None:
            if self._closed.is_set():
                raise _ClosedError
            if self._origins[shard].read_into(offset, part) < len(part):
                raise ReadError("is cut short")

        retry(read, lambda: f"{self._paths[shard].name}, byte {offset}", pause=self._closed.wait)

    def _log_count(self, when: str) -> None:
        counts = (len(self.copies), self._num_used)
        logger.info("%d of %d shards are staged %s, in %s", *counts, when, self._stage)


class _ClosedError(Exception):
    """The copy under way is given up."""


def copy_paths(index: ShardIndex, stage: Path) -> list[Path]:
    """Path of each shard's copy: a folder per content of a folder of shards."""
    contents: dict[str, set[str]] = {}
    for location, size in zip(index.shards, index.shard_sizes, strict=True):
        contents.setdefault(at(location.parent).address(), set()).add(f"{location.name} {size}")
    keys = {
        address: hashlib.sha256("\n".join([address, *sorted(members)]).encode()).hexdigest()[:16]
        for address, members in contents.items()
    }
    return [stage / keys[at(shard.parent).address()] / shard.name for shard in index.shards]


def _check_room(folder: Path, size: int) -> None:
    disk = shutil.disk_usage(folder)
    if disk.free - size < FREE_BYTES:
        raise OSError(f"the disk has {disk.free / 2**30:.1f} GiB left, and 1 GiB stays free")


@contextmanager
def _lock(path: Path) -> Iterator[bool]:
    """Whether this process now holds the lock; the kernel frees a dead process's lock."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)
