"""The folder of a run: its configuration, its log, and the state it can go on from."""

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from torch.utils.tensorboard import SummaryWriter

from psla_wds.config import read_json, to_json
from psla_wds.errors import CheckpointError, ConfigError, PslaError
from psla_wds.files import atomic_open
from psla_wds.tensor_files import load_tensors, save_tensors
from train.recipes import TrainConfig

STATE_FORMAT_VERSION = 1
STATE_KEYS = {
    "step",
    "epochs_done",
    "index_fingerprint",
    "interval_loss",
    "epoch_loss",
    "damaged",
    "learner",
}

# Settings that may change when a run goes on: they say where things are, how fast and how long.
MAY_CHANGE = (
    "index",
    "eval_index",
    "run_dir",
    "resume",
    "epochs",
    "accumulate",
    "log_every_steps",
    "state_every_steps",
    "reader",
)


class RunDir:
    """Files of one run; only rank 0 writes them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._state_path = folder / "state.pt"

    def find_state(self, config: TrainConfig) -> dict[str, Any] | None:
        """The state to go on from; None for a run that begins. Nothing is written."""
        begun = (self.folder / "config.json").exists()
        if begun and config.resume:
            self._check_same_run(config)
            return self._load_state()
        if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            advice = "add --resume to go on with it, or " if begun else ""
            raise ConfigError(
                "the run folder is not empty",
                where=self.folder,
                fix=f"{advice}choose another --run-dir",
            )
        return None

    def begin(self, config: TrainConfig) -> None:
        """Make the folder, with the configuration that makes the run again."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic_open(self.folder / "config.json", "w") as file:
                json.dump(to_json(replace(config, resume=False)), file, indent=2)
                file.write("\n")
        except OSError as error:
            raise PslaError(
                f"cannot write the run folder: {error.strerror}",
                where=self.folder,
                fix="choose another --run-dir, or make room there",
            ) from None

    def save_state(self, state: dict[str, Any]) -> None:
        """Replace the state that --resume goes on from."""
        save_tensors(state | {"format_version": STATE_FORMAT_VERSION}, self._state_path)

    def _check_same_run(self, config: TrainConfig) -> None:
        path = self.folder / "config.json"
        before, now = to_json(read_json(TrainConfig, path)), to_json(config)
        may_change = set(MAY_CHANGE)
        if config.optimizer.decay == "cosine":  # its length shapes all of it
            may_change.remove("epochs")
        changed = [name for name in now if name not in may_change and now[name] != before[name]]
        if changed:
            differences = "; ".join(f"{n} was {before[n]}, now {now[n]}" for n in changed)
            raise ConfigError(
                f"this run was begun with other settings: {differences}",
                where=path,
                fix="resume with the same settings, or choose another --run-dir",
            )

    def _load_state(self) -> dict[str, Any] | None:
        if not self._state_path.exists():
            return None
        state = load_tensors(self._state_path, fix="delete it to start again from the beginning")
        if state.get("format_version") != STATE_FORMAT_VERSION:
            raise CheckpointError(
                f"the state has format {state.get('format_version')}",
                where=self._state_path,
                fix=f"this version reads format {STATE_FORMAT_VERSION}: use the one that wrote it",
            )
        missing = STATE_KEYS - state.keys()
        if missing:
            raise CheckpointError(
                f"the state lacks {', '.join(sorted(missing))}",
                where=self._state_path,
                fix="delete it to start again from the beginning",
            )
        return state


class RunLog:
    """log.jsonl and TensorBoard events, on rank 0; elsewhere it writes nothing."""

    def __init__(self, folder: Path, *, enabled: bool) -> None:
        self._file = _open_log(folder / "log.jsonl") if enabled else None
        self._board = SummaryWriter(str(folder / "tensorboard")) if enabled else None

    def write(self, event: str, *, step: int, **values: float | int | str) -> None:
        """One record. What is not finite becomes null, which strict readers accept."""
        if self._file is None or self._board is None:
            return
        finite = {
            n: v if isinstance(v, str) or math.isfinite(v) else None for n, v in values.items()
        }
        record = {"event": event, "step": step, **finite}
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        for name, value in values.items():
            if name != "epoch" and not isinstance(value, str):
                self._board.add_scalar(f"{event}/{name}", value, step)

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None and self._board is not None:
            self._file.close()
            self._board.close()


def _open_log(path: Path) -> TextIO:
    """The log to append to, less a last line that a killed run left unfinished."""
    if path.exists():
        content = path.read_bytes()
        os.truncate(path, content.rfind(b"\n") + 1)
    return path.open("a", encoding="utf-8")
