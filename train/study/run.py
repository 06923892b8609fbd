"""The steps of a study: commands, each with the file that it leaves. As make does, it runs what is
missing or older than what it is made from, in order."""

import json
import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from psla_wds.errors import PslaError
from train.run.log import read_run

logger = logging.getLogger("study")

TRAIN = "train.main"
DISTRIBUTED = (TRAIN, "eval.predict")
"""Commands that several processes can share."""
SIGNAL_STATUS = 128
"""Added to the number of the signal that stopped a command, as shells do."""


@dataclass(frozen=True)
class Step:
    """A command of a study."""

    name: str
    module: str
    words: tuple[str, ...]
    output: Path
    """File that stands once the command has ended well."""
    after: tuple["Step", ...] = ()
    """Steps whose outputs it reads."""
    best: int | None = None
    """Number of score files to give to the command: of the steps before, those with the highest
    mAP, which is known once they have run."""

    @property
    def folder(self) -> Path:
        """Folder of the run that a training step makes."""
        return self.output.parents[1]

    def given(self) -> tuple[str, ...]:
        """The words to run it with."""
        ranked = sorted(self.after, key=lambda step: -read_json(step.output)["mAP"])
        return (*(step.words[0] for step in ranked[: self.best]), *self.words)


def with_all_before(steps: Iterable[Step]) -> dict[str, Step]:
    """The steps and all that they need, by name, dependencies first."""
    found: dict[str, Step] = {}
    for step in steps:
        found |= with_all_before(step.after) | {step.name: step}
    return found


class Runner:
    """Runs steps, and knows which are done.

    Args:
        processes: processes of a command that several can share.
        start: runs a command; returns its exit status.
    """

    def __init__(self, processes: int, start: Callable[[Sequence[str]], int]) -> None:
        self._processes, self._start = processes, start
        self._done: set[Path] = set()

    def is_done(self, step: Step) -> bool:
        """Whether its output stands, and is not older than what it was made from."""
        if step.output not in self._done and self._is_current(step):
            self._done.add(step.output)
        return step.output in self._done

    def run(self, steps: Iterable[Step]) -> list[str]:
        """Run what is not done, in order, past what fails; the names of the steps that failed."""
        missing, failed = [step for step in steps if not self.is_done(step)], []
        for number, step in enumerate(missing, 1):
            waits = [before.name for before in step.after if not self.is_done(before)]
            if waits:
                logger.info("%s is left out: %s is not done", step.name, waits[0])
                continue
            logger.info("[%d/%d] %s: %s", number, len(missing), step.name, self.text(step))
            if not self._run(step):
                logger.error("%s failed", step.name)
                failed.append(step.name)
        return failed

    def text(self, step: Step) -> str:
        """The command as one would type it."""
        best = [f"<the best {step.best} of {len(step.after)}>"] if step.best else []
        return " ".join([*self._launcher(step, "python"), *best, *map(shlex.quote, step.words)])

    def _run(self, step: Step) -> bool:
        if step.output.exists() and step.module != TRAIN:  # a run continues, or refuses to
            _remove(step.output)
        words = step.given() if step.best else step.words
        if self._start([*self._launcher(step, sys.executable), *words]):
            return False
        if step.output.exists():
            os.utime(step.output)  # a run that had nothing left to do is now current
        return self.is_done(step)

    def _is_current(self, step: Step) -> bool:
        if not step.output.exists() or not all(map(self.is_done, step.after)):
            return False
        if step.module == TRAIN and not read_run(step.folder).is_done:
            return False  # it was stopped between its last checkpoint and the end of that epoch
        made = step.output.stat().st_mtime_ns
        return all(before.output.stat().st_mtime_ns <= made for before in step.after)

    def _launcher(self, step: Step, python: str) -> list[str]:
        if self._processes == 1 or step.module not in DISTRIBUTED:
            return [python, "-m", step.module]
        torchrun = [python, "-m", "torch.distributed.run", "--standalone"]
        return [*torchrun, f"--nproc-per-node={self._processes}", "-m", step.module]


def start_process(command: Sequence[str]) -> int:
    """Run a command with all its output on stderr; its exit status.

    A signal to stop is handed on, so that a run saves its state; the study ends after it.
    """
    stopped: list[int] = []
    with subprocess.Popen(command, stdout=sys.stderr) as child:

        def hand_on(number: int, _: FrameType | None) -> None:
            stopped.append(number)
            child.send_signal(number)

        before = {n: signal.signal(n, hand_on) for n in (signal.SIGTERM, signal.SIGUSR1)}
        status = child.wait()
        for number, handler in before.items():
            signal.signal(number, handler)
    if stopped:
        raise SystemExit(SIGNAL_STATUS + stopped[0])
    return status


def read_json(path: Path) -> Any:
    """The content of a JSON file; `PslaError` if it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise PslaError(
            f"this cannot be read: {error}", where=path, fix="delete it, and run the study again"
        ) from None


def _remove(output: Path) -> None:
    """Remove a file; with a JSON file the folder, which its command writes as a whole."""
    if output.suffix == ".json":
        shutil.rmtree(output.parent)
    else:
        output.unlink()
