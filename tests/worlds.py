"""Worlds of several processes, quickly: forked from one that has imported torch already."""

import multiprocessing
import os
import pickle
import socket
import sys
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from typing import Any

import torch
from conftest import TINY_CLASSES  # noqa: F401 (with it comes the checking of shapes)

from psla_wds.errors import PslaError

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["worlds", "train.main"])

Outcome = tuple[str, Any]
"""How a rank ended: "value" and what `work` gave, "exit" and a status, "error" and its text, or
"killed" and None."""


def in_world(size: int, work: Callable[..., Any], *arguments: object) -> list[Any]:
    """What `work(*arguments)` gives in each process of a world, which it joins itself."""
    outcomes = outcomes_in_world(size, work, *arguments)
    assert all(kind == "value" for kind, _ in outcomes), outcomes
    return [value for _, value in outcomes]


def outcomes_in_world(size: int, work: Callable[..., Any], *arguments: object) -> list[Outcome]:
    _start_server()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pipes = [_context.Pipe(duplex=False) for _ in range(size)]
    ranks = [
        _context.Process(target=_be_rank, args=(rank, size, port, sender, work, arguments))
        for rank, (_, sender) in enumerate(pipes)
    ]
    for rank in ranks:
        rank.start()
    for _, sender in pipes:
        sender.close()
    outcomes = [_outcome(receiver) for receiver, _ in pipes]
    for rank in ranks:
        rank.join()
    return outcomes


def _outcome(receiver: Connection) -> Outcome:
    try:
        return pickle.loads(receiver.recv_bytes())
    except EOFError:
        return "killed", None


def _start_server() -> None:
    """The process to fork from, which finds the tests where this one does."""
    path = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    try:
        forkserver.ensure_running()
    finally:
        os.environ["PYTHONPATH"] = path


def _be_rank(
    rank: int,
    size: int,
    port: int,
    sender: Connection,
    work: Callable[..., Any],
    arguments: tuple[object, ...],
) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "PSLA_TIMEOUT_S": "60"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    outcome: Outcome
    try:
        outcome = "value", work(*arguments)
    except PslaError as error:
        outcome = "error", str(error)
    except SystemExit as end:
        outcome = "exit", end.code
    # Not `send`, which leaves tensors in shared memory that ends with this process.
    sender.send_bytes(pickle.dumps(outcome))
