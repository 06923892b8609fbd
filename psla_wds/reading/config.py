"""Settings of the reader. Without numpy, so that a command can list them at once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from psla_wds.config import Within, check_ranges
from psla_wds.reading.read_tuner import cores_per_process

TIMEOUT_S = 600.0
"""Seconds after which a read that does not end is an error."""


@dataclass(frozen=True, kw_only=True)
class ReaderConfig:
    """How clips are read and decoded ahead of the training step, on each rank."""

    threads: Annotated[int | None, Within(1, 256)] = None
    """Reader threads. Default: start at 4, and double while training waits for storage and more
    threads help."""
    prefetch_batches: Annotated[int | None, Within(1, 4096)] = None
    """Batches that are read ahead. Default: tuned like the threads."""
    decode_threads: Annotated[int | None, Within(1, 256)] = None
    """Threads that decode. Default: as many as this process has cores."""
    memory_mib: Annotated[int, Within(1, 2**24)] = 1024
    """Memory limit in MiB for encoded clips that are read ahead; the next batch is read whatever
    its size. The pipeline holds three more batches: two in work, one in use."""
    timeout_s: Annotated[float, Within(0, 1e6, without=(0,))] = TIMEOUT_S
    """Longest wait for a read in seconds; then the run ends with an error."""
    stage: Annotated[Path | None, arg(aliases=["--stage"])] = None
    """Folder on a fast disk of this node. Shards are copied there during training, and clips are
    read from the copies. Processes and runs can share it."""
    max_damaged: Annotated[int, Within(0, 10**9)] = 0
    """Damaged clips that each rank tolerates before the run ends with an error. Other clips are
    drawn in their place, and the log lists them."""

    def __post_init__(self) -> None:
        check_ranges(self, "reader")

    def decoders(self) -> int:
        """Decoder threads of this process."""
        return self.decode_threads or cores_per_process()
