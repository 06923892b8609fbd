"""The steps of a study: commands, each with the file that it leaves. As make does, a runner starts
those whose file is missing or older than what it is made from, in order."""

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
from psla_wds.io.regular import read_text
from train.run.log import read_run

logger = logging.getLogger("study")

TRAIN = "train"
DISTRIBUTED = (TRAIN, "predict")
"""Commands that several processes can share."""


@dataclass(frozen=True)
class Step:
    """A command of a study."""

    name: str
    command: str
    """Name of the command."""
    words: tuple[str, ...]
    output: Path
    """File that exists once the command has succeeded."""
    after: tuple["Step", ...] = ()
    """Steps whose outputs it reads."""
    best: int | None = None
    """Number of score files to pass: those of the steps before with the highest mAP, which is known
    once these have run."""

    @property
    def folder(self) -> Path:
        """Folder of the run that a training step makes."""
        return self.output.parents[1]


def with_all_before(steps: Iterable[Step]) -> dict[str, Step]:
    """The steps and all that they need, by name, dependencies first."""
    found: dict[str, Step] = {}
    for step in steps:
        found |= with_all_before(step.after) | {step.name: step}
    return found


class Runner:
    """Runs steps, and knows which are done.

    Args:
        processes: processes of a command that several can share. Default: one for each GPU.
        start: runs a command; returns its exit status.
    """

    def __init__(self, processes: int | None, start: Callable[[Sequence[str]], int]) -> None:
        self._processes, self._start = processes or _num_gpus() or 1, start
        self._done: set[Path] = set()

    def is_done(self, step: Step) -> bool:
        """Whether its output exists, and is not older than what it was made from."""
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
        """The command as you would type it."""
        best = [f"<the best {step.best} of {len(step.after)}>"] if step.best else []
        torchrun = self._torchrun(step)
        started = ["torchrun", *torchrun, "-m", "psla_wds"] if torchrun else ["psla-wds"]
        return " ".join([*started, step.command, *best, *map(shlex.quote, step.words)])

    def _run(self, step: Step) -> bool:
        output, ranked = step.output, []
        if output.exists() and step.command != TRAIN:  # a run continues, or refuses to
            # Commands that write JSON write its whole folder.
            shutil.rmtree(output.parent) if output.suffix == ".json" else output.unlink()
        if step.best:
            ranked = sorted(step.after, key=lambda before: -read_json(before.output)["mAP"])
        best = [before.words[0] for before in ranked[: step.best]]
        torchrun = self._torchrun(step)
        launcher = ["-m", "torch.distributed.run", *torchrun] if torchrun else []
        command = [sys.executable, *launcher, "-m", "psla_wds", step.command]
        if self._start([*command, *best, *step.words]):
            return False
        if output.exists():
            os.utime(output)  # a run that had nothing left to do is current now
        return self.is_done(step)

    def _is_current(self, step: Step) -> bool:
        if not step.output.exists() or not all(map(self.is_done, step.after)):
            return False
        if step.command == TRAIN and not read_run(step.folder).is_done:
            return False  # it was stopped between its last checkpoint and the end of that epoch
        made = step.output.stat().st_mtime_ns
        return all(before.output.stat().st_mtime_ns <= made for before in step.after)

    def _torchrun(self, step: Step) -> list[str]:
        """Options of torchrun, if several processes share the command."""
        if self._processes == 1 or step.command not in DISTRIBUTED:
            return []
        return ["--standalone", f"--nproc-per-node={self._processes}"]


def _num_gpus() -> int:
    import torch  # here, since it takes seconds to import

    return torch.cuda.device_count()


def start_process(command: Sequence[str]) -> int:
    """Run a command with all its output on stderr; its exit status.

    A signal to stop is passed on, so that a run saves its state; the study ends after it.
    """
    stopped: list[int] = []
    with subprocess.Popen(command, stdout=sys.stderr) as child:

        def pass_on(number: int, _: FrameType | None) -> None:
            stopped.append(number)
            child.send_signal(number)

        before = {n: signal.signal(n, pass_on) for n in (signal.SIGTERM, signal.SIGUSR1)}
        status = child.wait()
        for number, handler in before.items():
            signal.signal(number, handler)
    if stopped:
        raise SystemExit(128 + stopped[0])  # as shells do
    return status


def read_json(path: Path) -> Any:
    """The content of a JSON file; `PslaError` if it is damaged."""
    try:
        return json.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise PslaError(
            f"cannot read this file: {error}", where=path, fix="delete it, and run the study again"
        ) from None
