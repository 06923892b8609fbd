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
from psla_wds.io.locations import Location
from psla_wds.io.retry import ReadError, retry
from psla_wds.io.stores import LocalShard, ShardFile
from psla_wds.shards.index import ShardIndex

logger = logging.getLogger("stage")

COPY_BYTES = 8 * 2**20
"""Read at a time."""
FREE_BYTES = 2**30
"""Left free. No share of the disk: 5 % of a large one is room for many shards."""
POLL_S = 2.0
"""Between looks at shards that other processes are copying."""
CLOSE_WAIT_S = 5.0
"""Longest wait for the copy under way to be given up."""


class Staging:
    """Copies the shards of an index one after another, in a thread."""

    def __init__(self, index: ShardIndex, origins: Sequence[ShardFile], folder: Path) -> None:
        self.copies: dict[int, LocalShard] = {}
        """The copies that stand, by position in `index.shards`."""
        self._origins, self._sizes, self._stage = origins, index.shard_sizes, folder
        self._paths = copy_paths(index, folder)
        self._dropped: set[int] = set()
        self._drop_lock = Lock()
        self._closed = Event()
        used = set(index.shard.tolist())
        self._waiting = [shard for shard in range(len(self._paths)) if shard in used]
        self._num_used = len(self._waiting)
        self._adopt_those_that_stand()
        self._tell("stand at the start")
        self._thread = Thread(target=self._copy_all, name="stage", daemon=True)
        self._thread.start()

    def drop(self, shard: int, problem: str) -> None:
        """Use the copy no more, and delete it: it is damaged, or cannot be read."""
        with self._drop_lock:
            if self.copies.pop(shard, None) is None:
                return  # another thread met the same
            path = self._paths[shard]
            logger.warning("%s: the copy is dropped, a clip of it %s", path, problem)
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                logger.warning("%s: the copy cannot be deleted: %s", path, error.strerror)

    def close(self) -> None:
        """End the thread; a shard that is half copied is left to the next run."""
        self._closed.set()
        self._thread.join(CLOSE_WAIT_S)
        self._tell("stand at the end")

    def _copy_all(self) -> None:
        try:
            while self._waiting and not self._closed.is_set():
                self._waiting = [shard for shard in self._waiting if not self._stand(shard)]
                if self._waiting:
                    self._closed.wait(POLL_S)  # others are copying these
        except _ClosedError:
            return
        except (OSError, ShardError, ReadError) as problem:
            reason = str(problem).splitlines()[0]
            logger.warning("no more shards are staged in %s: %s", self._stage, reason)
            return
        if not self._waiting:
            self._tell("stand now")

    def _stand(self, shard: int) -> bool:
        """Have a copy of the shard; False if another process is making it."""
        path = self._paths[shard]
        if not self._is_whole(shard):
            path.parent.mkdir(parents=True, exist_ok=True)
            with _lock(path.with_name(f"{path.name}.lock")) as is_ours:
                if not is_ours:
                    return False
                if not self._is_whole(shard):  # the one who had the lock may have made it
                    self._copy(shard)
        self.copies[shard] = LocalShard(path)
        return True

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

    def _adopt_those_that_stand(self) -> None:
        for shard in self._waiting:
            if self._is_whole(shard):
                self.copies[shard] = LocalShard(self._paths[shard])
        self._waiting = [shard for shard in self._waiting if shard not in self.copies]

    def _is_whole(self, shard: int) -> bool:
        """A copy gets its name when it is whole; the size shows one of another data set."""
        try:
            return self._paths[shard].stat().st_size == self._sizes[shard]
        except OSError:
            return False

    def _tell(self, what: str) -> None:
        logger.info("%d of %d shards %s in %s", len(self.copies), self._num_used, what, self._stage)


class _ClosedError(Exception):
    """The copy under way is given up."""


def copy_paths(index: ShardIndex, stage: Path) -> list[Path]:
    """Where the copy of each shard goes: a folder for each content of a folder of shards."""
    contents: dict[str, set[str]] = {}
    for location, size in zip(index.shards, index.shard_sizes, strict=True):
        contents.setdefault(_address(location.parent), set()).add(f"{location.name} {size}")
    keys = {
        address: hashlib.sha256("\n".join([address, *sorted(members)]).encode()).hexdigest()[:16]
        for address, members in contents.items()
    }
    return [stage / keys[_address(shard.parent)] / shard.name for shard in index.shards]


def _address(folder: Location) -> str:
    return str(folder.resolve() if isinstance(folder, Path) else folder)


def _check_room(folder: Path, size: int) -> None:
    disk = shutil.disk_usage(folder)
    if disk.free - size < FREE_BYTES:
        raise OSError(f"the disk has {disk.free / 2**30:.1f} GiB left, and 1 GiB stays free")


@contextmanager
def _lock(path: Path) -> Iterator[bool]:
    """Whether this process holds the lock now; the kernel frees the lock of a dead one."""
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
