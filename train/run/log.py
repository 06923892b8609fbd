"""What a run folder tells about its training: config.json and the records of log.jsonl."""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypeVar

from psla_wds.errors import ScoreError


@dataclass(frozen=True)
class StepRecord:
    """Logged every so many steps; rates are since the record before."""

    step: int
    epoch: int
    loss: float
    learning_rate: float
    clips_per_s: float
    data_wait: float
    """Share of the time spent waiting for the loader."""


@dataclass(frozen=True)
class EpochRecord:
    """Logged after every epoch."""

    epoch: int
    step: int
    train_loss: float
    eval_loss: float
    mAP: float  # noqa: N815 (the key in log.jsonl)
    mAUC: float  # noqa: N815 (the key in log.jsonl)
    d_prime: float
    learning_rate: float
    clips_per_s: float
    data_wait: float
    duration_s: float
    storage_wait: float
    """Share of the time spent waiting for reads; NaN in logs of older versions."""
    evaluated: bool
    """False for a run without --eval-index, and its quality is NaN."""


QUALITY = ("eval_loss", "mAP", "mAUC", "d_prime")
"""What a record of an epoch that was not evaluated lacks."""
LATER = ("storage_wait",)
"""What logs of older versions lack."""


@dataclass(frozen=True)
class Run:
    """A run folder, as far as it was trained."""

    folder: Path
    config: dict[str, object]
    steps: tuple[StepRecord, ...]
    epochs: tuple[EpochRecord, ...]
    cut: bool
    """The log ends in the middle of a line, which is left out: the run was killed, or still is
    writing."""
    damaged: tuple[str, ...] = ()
    """Ids of clips that turned out to be damaged, and were replaced."""

    @property
    def epochs_planned(self) -> int | None:
        planned = self.config.get("epochs")
        return planned if isinstance(planned, int) else None

    @property
    def evaluated(self) -> list[EpochRecord]:
        """Its epochs that were evaluated."""
        return [record for record in self.epochs if record.evaluated]

    @property
    def is_done(self) -> bool:
        """False if it has fewer epochs than its configuration wants."""
        return (self.epochs_planned or 0) <= self._last_epoch

    def progress(self) -> str:
        """The last epoch, and of how many if that is not all."""
        return f"{self._last_epoch}" + f" of {self.epochs_planned}" * (not self.is_done)

    @property
    def _last_epoch(self) -> int:
        return self.epochs[-1].epoch if self.epochs else 0


Record = TypeVar("Record", StepRecord, EpochRecord)


def read_run(folder: Path) -> Run:
    config_path, log_path = folder / "config.json", folder / "log.jsonl"
    config = _json(_read_bytes(config_path))
    if not isinstance(config, dict):
        raise ScoreError(
            "the run's configuration is not a JSON object",
            where=config_path,
            fix="restore the file, or leave --run out",
        )
    records, damaged, cut = _read_records(log_path)
    steps = {r.step: r for r in records if isinstance(r, StepRecord)}
    epochs = {r.epoch: r for r in records if isinstance(r, EpochRecord)}
    # A resumed run does some steps again: the dictionaries keep the last record of each.
    return Run(
        folder,
        config,
        tuple(steps[step] for step in sorted(steps)),
        tuple(epochs[epoch] for epoch in sorted(epochs)),
        cut,
        damaged,
    )


def _read_records(path: Path) -> tuple[list[StepRecord | EpochRecord], tuple[str, ...], bool]:
    """The records in the order of the file, ids of damaged clips, and whether its end is cut."""
    *lines, unfinished = _read_bytes(path).split(b"\n")
    cut = unfinished != b"" and _json(unfinished) is None
    if unfinished and not cut:
        lines.append(unfinished)
    records, damaged = [], {}
    for number, line in enumerate(lines, 1):
        record = _parse(line, f"{path}, line {number}")
        if isinstance(record, str):
            damaged[record] = None
        elif record:
            records.append(record)
    return records, tuple(damaged), cut


def _json(text: bytes) -> object:
    """What `text` holds; None if it is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _parse(line: bytes, where: str) -> StepRecord | EpochRecord | str | None:
    """One record; of a damaged clip its id, and None for any other event."""
    values = _json(line)
    if not isinstance(values, dict) or "event" not in values:
        raise ScoreError("this is no log record", where=where, fix="delete the line")
    if values["event"] == "damaged":
        return str(values.get("clip_id"))
    if values["event"] == "step":
        return _record(StepRecord, values, where)
    return _record(EpochRecord, values, where) if values["event"] == "epoch" else None


def _record(kind: type[Record], values: dict[str, object], where: str) -> Record:
    numbers: dict[str, float] = {}
    evaluated = any(name in values for name in QUALITY)
    for field in fields(kind):
        if field.name == "evaluated":
            numbers[field.name] = evaluated
            continue
        may_lack = field.name in LATER or (field.name in QUALITY and not evaluated)
        not_there = None if may_lack else "nothing"
        value = values.get(field.name, not_there)
        if value is None and field.type is float:
            value = float("nan")  # how a number that is not finite stands in strict JSON
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


def _read_bytes(path: Path) -> bytes:
    if not path.is_file():
        raise ScoreError(
            f"the run folder has no {path.name}",
            where=path,
            fix="a run is the --run-dir of a training",
        )
    return path.read_bytes()
