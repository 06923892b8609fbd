"""Runs the commands of a study one after another, each once, and knows how far each has come."""

import logging
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from psla_wds.config import to_json
from psla_wds.errors import ConfigError, PslaError
from psla_wds.io.atomic_files import atomic_open, disk_errors
from psla_wds.models.checkpoint import load_checkpoint
from psla_wds.runtime.array_tasks import ArrayTask
from psla_wds.shards.index import ShardIndex
from train.config import TrainConfig, may_change_on_resume
from train.loop import EXIT_STATUS_OF_SIGNAL
from train.run.folder import CONFIG, read_config, read_made_with
from train.run.log import read_run
from train.study_commands import Best, Step
from train.study_marks import why_stale
from train.study_results import best_models

logger = logging.getLogger("study")

DISTRIBUTED = ("train.main", "eval.predict")
"""Commands that several processes share."""
TAIL_BYTES = 4000
"""Of a failed command's last words, which are kept."""
FIXED = {"index", "labels", "eval_index", "epochs"}
"""What train/main.py lets change when a run goes on, and a study does not."""


@dataclass(frozen=True)
class State:
    """How far a step has come."""

    done: bool
    text: str
    """For people: done, 3 of 60 epochs, failed and why, or not run."""


class Engine:
    """The steps of a study in its folder."""

    def __init__(
        self, work: Path, processes: int, start: Callable[[Sequence[str]], tuple[int, str]]
    ) -> None:
        """`start` runs a command, and returns its exit status and its last words."""
        self._work, self._processes, self._start = work, processes, start

    def state(self, step: Step) -> State:
        """How far the step is; a log that cannot be read is a state as well."""
        failure = self._failure(step)
        if step.config is None:
            if step.done.exists():
                stale = why_stale(step)
                return State(stale is None, stale or "done")
            return State(False, _first_error(failure) if failure.is_file() else "not run")
        try:
            epochs = read_run(step.config.run_dir).epochs if begun(step.config) else ()
        except PslaError as error:
            return State(False, " ".join(str(error).split()))
        trained = epochs[-1].epoch if epochs else 0
        if trained >= step.config.epochs and step.done.exists():
            return State(True, "done")
        so_far = f"{trained} of {step.config.epochs} epochs" if begun(step.config) else "not run"
        return State(False, _first_error(failure) if failure.is_file() else so_far)

    def run(self, steps: Iterable[Step], task: ArrayTask | None = None) -> int:
        """Do what is missing, a task of an array its share; how many commands failed."""
        steps = list(steps)
        if task:  # of all runs, done or not: tasks that begin later must come to the same shares
            own = set(task.of(list(dict.fromkeys(step.run for step in steps if step.run))))
            steps = [step for step in steps if step.run in own]
        missing = [step for step in steps if not self.state(step).done]
        failed = 0
        for number, step in enumerate(missing, 1):
            if step.config is None and step.done.exists():
                logger.warning("%s is left as it is: %s", step.name, self.state(step).text)
                continue
            waits = [before.name for before in step.after if not self.state(before).done]
            if waits:
                logger.info("%s is left out: %s is not done", step.name, waits[0])
                continue
            logger.info("[%d/%d] %s: %s", number, len(missing), step.name, self.text(step))
            failed += not self._run(step)
        return failed

    def text(self, step: Step) -> str:
        """The command as one would type it."""
        words = [f"<the best {w.count}>" if isinstance(w, Best) else shlex.quote(w)
                 for w in step.words]  # fmt: skip
        return " ".join([*self._launcher(step, "python"), *words])

    def _run(self, step: Step) -> bool:
        words = [
            word
            for given in step.words
            for word in (best_models(given) if isinstance(given, Best) else [given])
        ]
        status, last_words = self._start([*self._launcher(step, sys.executable), *words])
        failure = self._failure(step)
        if status == 0 and step.done.exists():
            failure.unlink(missing_ok=True)
            return True
        with disk_errors(failure, "write why a command failed"):
            failure.parent.mkdir(parents=True, exist_ok=True)
            with atomic_open(failure, "w") as file:
                file.write(f"{self.text(step)}\nexit status {status}\n{last_words}")
        logger.error("%s failed; %s has its last words", step.name, failure)
        return False

    def _launcher(self, step: Step, python: str) -> list[str]:
        if self._processes > 1 and step.module in DISTRIBUTED:
            torchrun = ["torch.distributed.run", "--standalone"]
            return [python, "-m", *torchrun, f"--nproc-per-node={self._processes}", "-m",
                    step.module]  # fmt: skip
        return [python, "-m", step.module]

    def _failure(self, step: Step) -> Path:
        return self._work / "failed" / f"{step.name.replace('/', '--')}.txt"


def _first_error(failure: Path) -> str:
    """What a failed command complained of."""
    text = failure.read_text(encoding="utf-8", errors="replace")
    lines = [line for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return f"failed: {(errors or lines)[-1].removeprefix('error: ')} ({failure})"


def begun(config: TrainConfig) -> bool:
    return (config.run_dir / CONFIG).exists()


def check_runs(steps: Iterable[Step], index: ShardIndex, eval_index: ShardIndex) -> None:
    """Raise if a run that is there is not what the study would train, on these clips."""
    for step in steps:
        if step.config is None or not begun(step.config):
            continue
        may_change = may_change_on_resume(step.config) - FIXED
        path = step.config.run_dir / CONFIG
        found, wanted = to_json(read_config(path)), to_json(step.config)
        changed = [n for n in wanted if n not in may_change and found[n] != wanted[n]]
        differences = [f"{n} was {found[n]}, and would be {wanted[n]}" for n in changed]
        if step.done.exists() and load_checkpoint(step.done).classes.mids != index.classes.mids:
            differences.append("its classes are not those of the shards")
        differences += _other_clips(step.config, index, eval_index)
        if differences:
            raise ConfigError(
                f"this run is another than the study's: {'; '.join(differences)[:600]}",
                where=path,
                fix="give the settings it was made with, or choose another --work",
            )


def _other_clips(config: TrainConfig, index: ShardIndex, eval_index: ShardIndex) -> list[str]:
    """What a run says it was made with, where it says so: shards may have been built anew since."""
    wanted = {"eval_index_fingerprint": eval_index.fingerprint}
    if config.labels is None and config.subset is None:  # these have fingerprints of their own
        wanted["index_fingerprint"] = index.fingerprint
    made_with = read_made_with(config.run_dir / CONFIG)
    return [
        f"the shards of {name.removesuffix('_fingerprint')} were others"
        for name, fingerprint in wanted.items()
        if made_with.get(name, fingerprint) != fingerprint
    ]


def start_process(command: Sequence[str]) -> tuple[int, str]:
    """Run a command in a child process, all it says going to stderr; status and last words.

    A signal to stop is handed on, so that a training saves its state, and then ends the study.
    """
    stopped: list[int] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as child:

        def hand_on(number: int, _: FrameType | None) -> None:
            stopped.append(number)
            child.send_signal(number)

        before = {n: signal.signal(n, hand_on) for n in (signal.SIGTERM, signal.SIGUSR1)}
        tail = b""
        assert child.stdout is not None
        while part := os.read(child.stdout.fileno(), 65536):
            sys.stderr.buffer.write(part)
            sys.stderr.buffer.flush()
            tail = (tail + part)[-TAIL_BYTES:]
        status = child.wait()
        for number, handler in before.items():
            signal.signal(number, handler)
    if stopped:
        raise SystemExit(EXIT_STATUS_OF_SIGNAL + stopped[0])
    return status, tail.decode("utf-8", errors="replace").replace("\r", "\n")
