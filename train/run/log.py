"""The log of a run: log.jsonl, TensorBoard's events, W&B on request; and log.jsonl read back."""

import json
import logging
import math
import threading
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from psla_wds.config import to_json
from psla_wds.errors import ScoreError
from psla_wds.io.atomic_files import atomic_open, disk_errors
from psla_wds.io.regular import read_small
from train.config import BAD_BATCHES, CONFIG, TrainConfig, read_config, read_made_with

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter as SummaryWriterType

logger = logging.getLogger("train")

LOG = "log.jsonl"


class RunLog:
    """The log of rank 0; on other ranks it writes nothing.

    Args:
        state: state that the run continues from. Records of later steps, which will be done again,
            are dropped, so that the log is that of a run that was never interrupted.
    """

    def __init__(self, config: TrainConfig, state: dict[str, Any] | None, *, enabled: bool) -> None:
        folder = self._folder = config.run_dir
        self._file: TextIO | None = None
        self._board: SummaryWriterType | None = None
        self._best: tuple[float, int] | None = None  # mAP and epoch
        if enabled:
            from torch.utils.tensorboard import SummaryWriter  # 1 s of import

            if config.wandb:
                _start_wandb(config)
            _leave_errors_to_main()
            with self._disk_errors():
                _warn_if_gone(folder / LOG, state)
                self._best = _best_epoch(_drop_what_is_done_again(folder / LOG, state))
                _drop_what_is_done_again(folder / BAD_BATCHES, state)
                self._file = (folder / LOG).open("a", encoding="utf-8")
                next_step = state["step"] + 1 if state else 0
                self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=next_step)

    def write(self, event: str, *, step: int, **values: float | int | str) -> None:
        """Write one record. Values that are not finite become null, which strict readers accept."""
        if self._file is None or self._board is None:
            return
        numbers = {name: value for name, value in values.items() if not isinstance(value, str)}
        nulls = {name: None for name, number in numbers.items() if not math.isfinite(number)}
        with self._disk_errors():
            record = {"event": event, "step": step, **values, **nulls}
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
            for name, number in numbers.items():
                if name != "epoch":
                    self._board.add_scalar(f"{event}/{name}", number, step)

    def compared(self, epoch: int, mAP: float) -> str:  # noqa: N803 (as in log.jsonl)
        """The mAP of an epoch beside the best of the epochs before it, for a reader."""
        before = self._best
        if before is None or mAP > before[0]:
            self._best = (mAP, epoch)
            return f"mAP {mAP:.4f}" + " (best so far)" * (before is not None)
        return f"mAP {mAP:.4f} (best: {before[0]:.4f} in epoch {before[1]})"

    def _disk_errors(self) -> AbstractContextManager[None]:
        return disk_errors(self._folder, "write the log", then="go on with --resume")

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None and self._board is not None:
            with self._disk_errors():
                self._file.close()
                self._board.close()


def _warn_if_gone(path: Path, state: dict[str, Any] | None) -> None:
    """Warn if the log was deleted, or emptied, after a state was saved."""
    if state and not (path.exists() and (path.stat().st_size or not state["epochs_done"])):
        logger.warning("%s is gone: it begins again after step %d", path, state["step"])


def _leave_errors_to_main() -> None:
    """Silence errors of TensorBoard's thread: the next call of its writer raises them here."""
    shown = threading.excepthook

    def show(failed: threading.ExceptHookArgs) -> None:
        if not type(failed.thread).__module__.startswith("tensorboard"):
            shown(failed)

    threading.excepthook = show


def _start_wandb(config: TrainConfig) -> None:
    """Let W&B follow TensorBoard's events, in a process of its own; a failure is a warning."""
    id_file = config.run_dir / "wandb-id.txt"  # a resumed run continues in the same place
    try:
        import wandb

        run = wandb.init(
            project=config.wandb,
            name=config.run_dir.name,
            dir=str(config.run_dir),
            config=to_json(config),
            id=id_file.read_text(encoding="utf-8").strip() if id_file.exists() else None,
            resume="allow",
            sync_tensorboard=True,
        )
        id_file.write_text(f"{run.id}\n", encoding="utf-8")
    except Exception as error:  # any kind: it is not our code
        logger.warning(
            "W&B cannot be used (%s: %s); log.jsonl and TensorBoard have all numbers "
            "(python -m pip install -c constraints.txt wandb installs it)",
            *(type(error).__name__, str(error).partition("\n")[0]),
        )


def _drop_what_is_done_again(path: Path, state: dict[str, Any] | None) -> list[bytes]:
    """Keep the whole lines of a log that were written before a state was saved; return them."""
    if not path.exists():
        return []
    *lines, _ = _read(path).split(b"\n")  # the last is empty, or cut short by a kill
    kept = [line for line in lines if state and _is_known(line, state)]
    with atomic_open(path) as file:
        file.writelines(line + b"\n" for line in kept)
    return kept


def _best_epoch(lines: list[bytes]) -> tuple[float, int] | None:
    """Highest mAP of a log, with its epoch; lines of other programs are passed over."""
    records = [record for line in lines if isinstance(record := _json(line), dict)]
    found = [(record.get("mAP"), record.get("epoch")) for record in records]
    return max(
        ((mAP, epoch) for mAP, epoch in found if type(mAP) is float and type(epoch) is int),
        default=None,
    )


def _is_known(line: bytes, state: dict[str, Any]) -> bool:
    """Whether a state was saved after a record was written; lines of other programs are kept."""
    try:
        record = json.loads(line)
        event, step = record.get("event"), int(record["step"])
        if event == "epoch":
            return bool(record.get("epoch", 0) <= state["epochs_done"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        return True
    if event == "damaged":
        return record.get("clip_id") in state["damaged"]
    return step <= state["step"]


@dataclass(frozen=True)
class StepRecord:
    """Record of a step; rates are since the record before it."""

    step: int
    epoch: int
    loss: float
    learning_rate: float
    clips_per_s: float
    data_wait: float
    """Share of the time spent waiting for the loader."""


@dataclass(frozen=True)
class Quality:
    """What the evaluation after an epoch finds."""

    eval_loss: float
    mAP: float  # noqa: N815 (the key in log.jsonl)
    mAUC: float  # noqa: N815 (the key in log.jsonl)
    d_prime: float


@dataclass(frozen=True)
class EpochRecord(Quality):
    """Record of an epoch."""

    epoch: int
    step: int
    train_loss: float
    learning_rate: float
    clips_per_s: float
    data_wait: float
    duration_s: float
    storage_wait: float
    """Share of the time spent waiting for reads."""
    evaluated: bool
    """False for a run without --eval-index, whose quality is NaN."""


QUALITY = tuple(field.name for field in fields(Quality))
"""Values that an epoch without evaluation lacks."""


@dataclass(frozen=True)
class Run:
    """A run folder, as far as it was trained."""

    folder: Path
    config: TrainConfig
    made_with: dict[str, Any]
    """Versions, commit and fingerprints of the shards."""
    steps: tuple[StepRecord, ...]
    epochs: tuple[EpochRecord, ...]
    cut: bool
    """Whether the log ends inside a line, which is left out: the run was killed or still writes."""
    damaged: tuple[str, ...] = ()
    """Ids of clips that turned out to be damaged and were replaced."""

    @property
    def evaluated(self) -> list[EpochRecord]:
        """Its epochs that were evaluated."""
        return [record for record in self.epochs if record.evaluated]

    @property
    def is_done(self) -> bool:
        """Whether it has all epochs that its configuration wants."""
        return self.config.epochs <= self._last_epoch

    def progress(self) -> str:
        """The last epoch, such as 3, or 3 of 30 while the run is not done."""
        return f"{self._last_epoch}" + f" of {self.config.epochs}" * (not self.is_done)

    @property
    def _last_epoch(self) -> int:
        return self.epochs[-1].epoch if self.epochs else 0


Record = TypeVar("Record", StepRecord, EpochRecord)


def read_run(folder: Path) -> Run:
    """What a run folder says about its training; `ScoreError` or `ConfigError` if it is damaged."""
    config_path, path = folder / CONFIG, folder / LOG
    for file in (config_path, path):
        if not file.is_file():
            raise ScoreError(
                f"the run folder has no {file.name}",
                where=file,
                fix="give the --run-dir of a training run",
            )
    config, made_with = read_config(config_path), read_made_with(config_path)
    *lines, unfinished = _read(path).split(b"\n")
    cut = unfinished != b"" and _json(unfinished) is None
    if unfinished and not cut:
        lines.append(unfinished)
    # A resumed run does some steps again: the dictionaries keep the last record of each.
    steps: dict[int, StepRecord] = {}
    epochs: dict[int, EpochRecord] = {}
    damaged: dict[str, None] = {}
    for number, line in enumerate(lines, 1):
        where, values = f"{path}, line {number}", _json(line)
        if not isinstance(values, dict) or "event" not in values:
            raise ScoreError("this is not a log record", where=where, fix="delete the line")
        if values["event"] == "damaged":
            damaged[str(values.get("clip_id"))] = None
        elif values["event"] == "step":
            step = _record(StepRecord, values, where)
            steps[step.step] = step
        elif values["event"] == "epoch":
            epoch = _record(EpochRecord, values, where)
            epochs[epoch.epoch] = epoch
    in_order = tuple(steps[n] for n in sorted(steps)), tuple(epochs[n] for n in sorted(epochs))
    return Run(folder, config, made_with, *in_order, cut, tuple(damaged))


def _read(path: Path) -> bytes:
    try:
        return read_small(path)
    except OSError as error:
        raise ScoreError(
            f"the log cannot be read: {error.strerror}", where=path, fix="restore it, or delete it"
        ) from None


def _json(text: bytes) -> object:
    """What `text` holds; None if it is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _record(kind: type[Record], values: dict[str, Any], where: str) -> Record:
    numbers: dict[str, Any] = {}
    evaluated = any(name in values for name in QUALITY)
    for field in fields(kind):
        if field.name == "evaluated":
            numbers[field.name] = evaluated
            continue
        may_lack = field.name in QUALITY and not evaluated
        value = values.get(field.name, None if may_lack else "nothing")
        if value is None and field.type is float:
            value = math.nan  # a number that is not finite is null in strict JSON
        try:
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ValueError
            numbers[field.name] = field.type(value)
        except (ValueError, OverflowError):
            raise ScoreError(
                f"the {values['event']} record has {value!r:.80} for {field.name}, not a number",
                where=where,
                fix="delete the line",
            ) from None
    return kind(**numbers)
