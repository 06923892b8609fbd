"""Worlds of several processes, quickly: forked from one that has imported torch already."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from typing import Any

import torch
from conftest import assert_user_error  # noqa: F401 (the forked processes check shapes, too)

from psla_wds.errors import PslaError

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["worlds"])

Outcome = tuple[str, Any]
"""How a rank ended: "value" and what `work` gave, "exit" and a status, or "error" and its text."""


def in_world(size: int, work: Callable[..., Any], *arguments: object) -> list[Any]:
    """What `work(*arguments)` gives in each process of a world, which it joins itself."""
    outcomes = outcomes_in_world(size, work, *arguments)
    assert all(kind == "value" for kind, _ in outcomes), outcomes
    return [value for _, value in outcomes]


def outcomes_in_world(size: int, work: Callable[..., Any], *arguments: object) -> list[Outcome]:
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
    outcomes = [receiver.recv() for receiver, _ in pipes]
    for rank in ranks:
        rank.join()
    return outcomes


def _be_rank(
    rank: int, size: int, port: int, sender: Any, work: Callable[..., Any], arguments: Any
) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "PSLA_TIMEOUT_S": "60"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    try:
        outcome = "value", work(*arguments)
    except PslaError as error:
        outcome = "error", str(error)
    except SystemExit as end:
        outcome = "exit", end.code
    sender.send(outcome)
