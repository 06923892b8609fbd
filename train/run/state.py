"""The state from which a run continues: written while it trains, verified when read."""

import logging
import os
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import torch
from torch.utils._pytree import tree_map_only

from psla_wds.errors import CheckpointError
from psla_wds.io.atomic_files import disk_errors, sync_folder
from psla_wds.io.tensor_files import load_tensors, save_tensors
from train.steps.metrics import Means

logger = logging.getLogger("train")

FORMAT_VERSION = 2
FIX = "delete it to start again from the beginning"
TYPES: dict[str, Any] = {
    "step": int,
    "epochs_done": int,
    "index_fingerprint": str,
    "interval": dict[str, float],
    "epoch": dict[str, float],
    "damaged": list[str],
    "bad_steps": list[int],
    "learner": dict[str, Any],
}
"""Values of a state by name."""
LARGEST = {"step": 10**15, "epochs_done": 10**6}


class StateFiles:
    """state.pt in a run's folder, and state.previous.pt for when that is damaged."""

    def __init__(self, folder: Path) -> None:
        self._newest, self._previous = folder / "state.pt", folder / "state.previous.pt"

    def load(self) -> dict[str, Any] | None:
        """The newest state that is not damaged; None if none was saved."""
        if not self._newest.exists() or not self._previous.exists():
            path = self._newest if self._newest.exists() else self._previous
            return _load(path) if path.exists() else None
        try:
            return _load(self._newest)
        except CheckpointError as error:
            reason = str(error).splitlines()[0]
            logger.warning("%s: %s; going on from the state before it", self._newest, reason)
            return _load(self._previous)

    def save(self, state: dict[str, Any]) -> None:
        """Replace the newest state, which becomes the previous one."""
        unfinished = self._newest.with_name("state.next.pt")
        save_tensors(state | {"format_version": FORMAT_VERSION}, unfinished)
        with disk_errors(self._newest, "save the state", then="go on with --resume"):
            if self._newest.exists():
                os.replace(self._newest, self._previous)
            os.replace(unfinished, self._newest)
            sync_folder(self._newest.parent)


class StateWriter:
    """Saves states in its own thread, so that a step waits for a copy in memory, not for a disk."""

    def __init__(self, files: StateFiles) -> None:
        self._files = files
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="state")
        self._pending: Future[None] | None = None

    def save(self, state: dict[str, Any]) -> None:
        """Begin to save a state as it is now; raises the error of the save before.

        At most one copy is held: this waits until the disk has the state before.
        """
        self.finish()
        copy = tree_map_only(torch.Tensor, lambda t: t.detach().to("cpu", copy=True), state)
        self._pending = self._pool.submit(self._files.save, copy)

    def finish(self) -> None:
        """Wait until the last state is on disk; raises the error if it cannot be written."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def __enter__(self) -> "StateWriter":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.finish()
        finally:
            self._pool.shutdown()


def _load(path: Path) -> dict[str, Any]:
    state = load_tensors(path, fix=FIX)
    if state.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"the state has format {state.get('format_version')}",
            where=path,
            fix=f"this version reads format {FORMAT_VERSION}: use the one that wrote it",
        )
    missing = TYPES.keys() - state.keys()
    if missing:
        raise CheckpointError(f"the state lacks {', '.join(sorted(missing))}", where=path, fix=FIX)
    _check_types(state, path)
    return state


def _check_types(state: dict[str, Any], path: Path) -> None:
    """Raise unless every value of a state is of its type, and every count within its bounds."""
    for name, expected in TYPES.items():
        value = state[name]
        fits = _is_a(value, expected) and not (
            isinstance(value, int) and not 0 <= value <= LARGEST[name]
        )
        if name in ("interval", "epoch"):
            fits = fits and value.keys() == asdict(Means()).keys()
        if not fits:
            what = f"the state has an invalid {name}"
            raise CheckpointError(what, where=path, fix=FIX)


def _is_a(value: object, expected: Any) -> bool:
    """Whether a value has a type, which may be that of a list or dictionary."""
    match get_args(expected):
        case ():
            numbers = (int, float) if expected is float else expected
            return expected is Any or (isinstance(value, numbers) and not isinstance(value, bool))
        case (item,):
            return isinstance(value, list) and all(_is_a(v, item) for v in value)
        case (key, item):
            return isinstance(value, dict) and all(
                _is_a(k, key) and _is_a(v, item) for k, v in value.items()
            )
    return False
