"""What a run leaves to read: log.jsonl, TensorBoard's events, W&B on request."""

import json
import math
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TextIO

from torch.utils.tensorboard import SummaryWriter

from psla_wds.config import to_json
from psla_wds.io.disk import disk_errors
from psla_wds.io.files import atomic_open
from train.recipes import TrainConfig
from train.run.wandb_sink import WandbSink
from train.steps.bad_steps import FILE as BAD_BATCHES

LOG = "log.jsonl"


class RunLog:
    """The log of rank 0; on others it writes nothing.

    Args:
        state: what the run goes on from. The records of what was done after it, and will be done
            again, are dropped, those of bad steps as well, so that the log is that of a run which
            was never interrupted.
    """

    def __init__(self, config: TrainConfig, state: dict[str, Any] | None, *, enabled: bool) -> None:
        folder = self._folder = config.run_dir
        self._file: TextIO | None = None
        self._board: SummaryWriter | None = None
        self._wandb: WandbSink | None = None
        if enabled:
            with self._told_as_error():
                for path in (folder / LOG, folder / BAD_BATCHES):
                    _drop_what_is_done_again(path, state)
                self._file = (folder / LOG).open("a", encoding="utf-8")
                next_step = state["step"] + 1 if state else 0
                self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=next_step)
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

    def _told_as_error(self) -> AbstractContextManager[None]:
        return disk_errors(self._folder, "write the log", then="go on with --resume")

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None and self._board is not None:
            with self._told_as_error():
                self._file.close()
                self._board.close()
        if self._wandb:
            self._wandb.close()


def _drop_what_is_done_again(path: Path, state: dict[str, Any] | None) -> None:
    """Keep the whole lines of a log that a state knows of."""
    if not path.exists():
        return
    *lines, _ = path.read_bytes().split(b"\n")  # the last is empty, or a killed run left it
    kept = [line for line in lines if state and _is_known(line, state)]
    with atomic_open(path) as file:
        file.writelines(line + b"\n" for line in kept)


def _is_known(line: bytes, state: dict[str, Any]) -> bool:
    """Whether a state was saved after a record was written; so is what is no record of ours."""
    try:
        record = json.loads(line)
        event, step = record.get("event"), int(record["step"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        return True
    if event == "epoch":
        return bool(record.get("epoch", 0) <= state["epochs_done"])
    if event == "damaged":
        return record.get("clip_id") in state["damaged"]
    return step <= state["step"]
