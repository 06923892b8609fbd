"""The processes of a run: torchrun's, or this one alone, with the same code for both."""

import ctypes
import os
import re
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist

from psla_wds.errors import ConfigError, PslaError, system_errors
from psla_wds.runtime.rendezvous import meeting_place

T = TypeVar("T")

TIMEOUT_VARIABLE = "PSLA_TIMEOUT_S"
"""Environment variable with the seconds that a rank waits for the others."""
TIMEOUT_S = 1800.0
"""Default seconds: rank 0 scores and saves while the others wait."""

BY_TORCHRUN = "start by torchrun, which sets it; or unset RANK, LOCAL_RANK and WORLD_SIZE"

PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True)
class World:
    """This process and the other processes of the run."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process prints and writes."""
        return self.rank == 0

    def mean(self, values: list[float]) -> list[float]:
        """Mean over all ranks of each value."""
        if self.size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor)
        return (tensor / self.size).tolist()

    def mean_there(self, tensor: torch.Tensor) -> torch.Tensor:
        """Mean over all ranks of a tensor, on its device: no rank waits for its GPU."""
        if self.size == 1:
            return tensor
        total = tensor.clone()
        dist.all_reduce(total)
        return total / self.size

    def share(self, tensors: list[torch.Tensor]) -> None:
        """Overwrite the tensors with those of rank 0."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def any(self, value: bool) -> bool:
        """Whether the value is true on some rank."""
        if self.size == 1:
            return value
        tensor = torch.tensor(int(value))
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return bool(tensor)

    def gather(self, array: np.ndarray) -> list[np.ndarray] | None:
        """Arrays of all ranks, on rank 0; they may differ in length, but not in their other
        axes."""
        if self.size == 1:
            return [array]
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(lengths, torch.tensor([len(array)]))
        longest = max(int(length) for length in lengths)
        padded = torch.zeros((longest, *array.shape[1:]), dtype=torch.from_numpy(array).dtype)
        padded[: len(array)] = torch.from_numpy(array)
        parts = [torch.empty_like(padded) for _ in range(self.size)] if self.is_main else None
        dist.gather(padded, parts, dst=0)
        if parts is None:
            return None
        return [p[: int(n)].numpy() for p, n in zip(parts, lengths, strict=True)]

    def together(self, work: Callable[[], T]) -> T:
        """Do `work` on every rank; a `PslaError` on any rank ends all of them with one message.

        Without this, the other ranks would wait for the one that failed.
        """
        result, message = None, ""
        try:
            with system_errors():
                result = work()
        except PslaError as error:
            if self.size == 1:
                raise
            message = str(error)
        messages = self.messages(message)
        if not any(messages):
            return result  # type: ignore[return-value]
        if not self.is_main:
            raise SystemExit(2)
        if len(set(messages)) == 1:
            raise PslaError.relayed(messages[0])
        raise PslaError.relayed(
            "\n".join(f"on rank {rank}: {text}" for rank, text in enumerate(messages) if text)
        )

    def agree(self, value: str, what: str) -> None:
        """Raise on all ranks unless `value`, described by `what`, is the same on all."""
        values = self.messages(value)

        def check() -> None:
            if len(set(values)) > 1:
                listing = ", ".join(f"rank {rank}: {v}" for rank, v in enumerate(values))
                raise ConfigError(
                    f"the ranks have different {what}",
                    where=listing,
                    fix="start all ranks with the same settings, shards and package versions",
                )

        self.together(check)

    def messages(self, message: str) -> list[str]:
        """Messages of all ranks, on each of them."""
        if self.size == 1:
            return [message]
        messages: list[str | None] = [None] * self.size
        dist.all_gather_object(messages, message)
        return [text or "" for text in messages]


@contextmanager
def join_world() -> Iterator[World]:
    """The world of torchrun's environment, or this process alone without torchrun."""
    size = _number("WORLD_SIZE", default=1, least=1)
    rank = _number("RANK", default=0, most=size - 1)
    device = _device(_number("LOCAL_RANK", default=0))
    if size == 1:
        yield World(rank, size, device)
        return
    _end_with_parent()
    # Scores, messages and flags are on the CPU, where waiting for them does not stop a GPU.
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        timeout = _timeout()
        if not (os.environ.get("MASTER_ADDR") and os.environ.get("MASTER_PORT")):
            raise ConfigError(
                f"{size} processes have no place to meet",
                where="MASTER_ADDR, MASTER_PORT",
                fix=BY_TORCHRUN,
            )
        store = meeting_place(rank, size, timeout)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
        yield World(rank, size, device)
    except RuntimeError as error:
        if not _is_of_the_network(error):
            raise
        raise _lost(rank, size, error) from None
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _number(name: str, *, default: int, least: int = 0, most: int = 2**31 - 1) -> int:
    """A number that torchrun puts into the environment."""
    given = os.environ.get(name, str(default))
    if not re.fullmatch("[0-9]{1,10}", given) or not least <= int(given) <= most:
        numbers = f"from {least} to {most}" if most < 2**31 - 1 else f"of at least {least}"
        raise ConfigError(f"{given!r:.40} is not a number {numbers}", where=name, fix=BY_TORCHRUN)
    return int(given)


def _timeout() -> timedelta:
    given = os.environ.get(TIMEOUT_VARIABLE, str(TIMEOUT_S))
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds < 1e6:
        raise ConfigError(
            f"{given!r} is not a number of seconds to wait for other processes",
            where=TIMEOUT_VARIABLE,
            fix=f"set it to seconds, such as {TIMEOUT_S:g}, or unset it",
        )
    return timedelta(seconds=seconds)


def _is_of_the_network(error: RuntimeError) -> bool:
    """Whether a collective operation failed, rather than other code; gloo's errors have no type of
    their own."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def _lost(rank: int, size: int, error: RuntimeError) -> PslaError:
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    reason = first.partition("] ")[2] or first  # gloo's messages begin with a source location
    return PslaError(
        f"rank {rank} has lost another of the {size} processes: {reason}",
        where=f"rank {rank} on {socket.gethostname()}; master "
        f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}",
        fix="the other ranks' messages say if one of them failed; else see to the network and its "
        f"hosts. Then start all again, with --resume ({TIMEOUT_VARIABLE} sets how long to wait)",
    )


def _end_with_parent() -> None:
    """Let the kernel kill this process when torchrun's agent dies. Otherwise it would train on
    unnoticed, next to the run that replaces it."""
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died just now
        os.kill(os.getpid(), signal.SIGKILL)


def _device(local_rank: int) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise ConfigError(
            f"process {local_rank} of this machine has no GPU: there are "
            f"{torch.cuda.device_count()}",
            where="torchrun --nproc-per-node",
            fix=f"start {torch.cuda.device_count()} processes a machine",
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device
