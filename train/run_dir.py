"""The folder of a run: its configuration and its log; train/states.py has what it goes on from."""

import fcntl
import json
import logging
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from torch.utils.tensorboard import SummaryWriter

from psla_wds.config import read_json, to_json
from psla_wds.errors import ConfigError, PslaError
from psla_wds.files import atomic_open
from train.recipes import TrainConfig
from train.states import StateFiles
from train.wandb_sink import WandbSink

logger = logging.getLogger("train")

# Settings that may change when a run goes on: they say where things are, how fast and how long.
MAY_CHANGE = (
    "index",
    "labels",  # the fingerprint of the index tells whether they are the same
    "distill",  # likewise
    "eval_index",
    "run_dir",
    "resume",
    "dry_run",
    "epochs",
    "accumulate",
    "max_bad_steps",
    "log_every_steps",
    "state_every_steps",
    "wandb",
    "reader",
)


class RunDir:
    """Files of one run; only rank 0 writes them. Close it, best by `with`: it holds a lock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.states = StateFiles(folder)
        self._lock: int | None = None

    def __enter__(self) -> "RunDir":
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            os.close(self._lock)

    def find_state(self, config: TrainConfig) -> dict[str, Any] | None:
        """The state to go on from; None for a run that begins. Nothing is written."""
        begun = (self.folder / "config.json").exists()
        if begun and config.resume:
            self._check_same_run(config)
            return self.states.load()
        if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            advice = "add --resume to go on with it, or " if begun else ""
            raise ConfigError(
                "the run folder is not empty",
                where=self.folder,
                fix=f"{advice}choose another --run-dir",
            )
        return None

    def check_room(self, num_bytes: int) -> None:
        """Raise unless the folder can be written, and so many bytes are free there."""
        place = self.folder.absolute()
        while not place.exists():
            place = place.parent
        if not place.is_dir() or not os.access(place, os.W_OK):
            raise PslaError(
                "the run folder cannot be written",
                where=self.folder,
                fix=f"choose another --run-dir, or give write access to {place}",
            )
        free_bytes = shutil.disk_usage(place).free
        if free_bytes < num_bytes:
            raise PslaError(
                f"the checkpoints and states of this run take {num_bytes / 1e9:.3g} GB, and "
                f"{free_bytes / 1e9:.3g} GB are free",
                where=self.folder,
                fix="choose another --run-dir, or make room there",
            )

    def begin(self, config: TrainConfig) -> None:
        """Make the folder, with the configuration that makes the run again, for this run alone."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock_folder()
            with atomic_open(self.folder / "config.json", "w") as file:
                json.dump(to_json(replace(config, resume=False)), file, indent=2)
                file.write("\n")
        except OSError as error:
            raise PslaError(
                f"cannot write the run folder: {error.strerror}",
                where=self.folder,
                fix="choose another --run-dir, or make room there",
            ) from None

    def _lock_folder(self) -> None:
        """Two runs that write to one folder would leave the log and the state of neither."""
        self._lock = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PslaError(
                "another run is training in this folder",
                where=self.folder,
                fix="wait for it, or stop it; or choose another --run-dir",
            ) from None
        except OSError as error:  # some network file systems have no locks
            logger.warning("%s cannot be locked: %s", self.folder, error.strerror)

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


class RunLog:
    """log.jsonl, TensorBoard, and W&B on request, on rank 0; elsewhere it writes nothing."""

    def __init__(self, config: TrainConfig, *, enabled: bool) -> None:
        folder = self._folder = config.run_dir
        self._file: TextIO | None = None
        self._board: SummaryWriter | None = None
        self._wandb: WandbSink | None = None
        if enabled:
            with self._told_as_error():
                self._file = _open_log(folder / "log.jsonl")
                self._board = SummaryWriter(str(folder / "tensorboard"))
            if config.wandb:
                self._wandb = WandbSink(config.wandb, folder, to_json(config))

    def write(self, event: str, *, step: int, **values: float | int | str) -> None:
        """One record. What is not finite becomes null, which strict readers accept."""
        if self._file is None or self._board is None:
            return
        with self._told_as_error():
            self._write(self._file, event, step, values)
            numbers = {
                f"{event}/{name}": value
                for name, value in values.items()
                if name != "epoch" and not isinstance(value, str)
            }
            for name, value in numbers.items():
                self._board.add_scalar(name, value, step)
        if self._wandb and numbers:
            self._wandb.write(numbers, step=step)

    def _write(
        self, file: TextIO, event: str, step: int, values: dict[str, float | int | str]
    ) -> None:
        finite = {
            n: v if isinstance(v, str) or math.isfinite(v) else None for n, v in values.items()
        }
        record = {"event": event, "step": step, **finite}
        file.write(json.dumps(record) + "\n")
        file.flush()

    @contextmanager
    def _told_as_error(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise PslaError(
                f"cannot write the log: {error.strerror}",
                where=self._folder,
                fix="make room there, and go on with --resume",
            ) from None

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None and self._board is not None:
            with self._told_as_error():
                self._file.close()
                self._board.close()
        if self._wandb:
            self._wandb.close()


def _open_log(path: Path) -> TextIO:
    """The log to append to, less a last line that a killed run left unfinished."""
    if path.exists():
        content = path.read_bytes()
        os.truncate(path, content.rfind(b"\n") + 1)
    return path.open("a", encoding="utf-8")
