"""Weights & Biases as one more place for a run's numbers; nothing of it can stop or hold a run."""

import logging
from pathlib import Path
from queue import Full, Queue
from threading import Thread
from types import ModuleType
from typing import Any

logger = logging.getLogger("train")

ID_FILE = "wandb-id.txt"
"""In the run's folder: a run that is resumed goes on in the same place."""
LOGIN_TIMEOUT_S = 60
MOST_WAITING = 1000
"""Records that wait to be sent; more are not kept."""
CLOSE_WAIT_S = 60.0
"""Longest wait at the end for what was not sent yet."""


class WandbSink:
    """The numbers of a run at W&B; after its first failure, which is a warning, nowhere.

    A thread of its own makes all calls, since any of them may wait for a network that is gone.
    """

    def __init__(self, project: str, folder: Path, config: dict[str, Any]) -> None:
        self._records: Queue[tuple[dict[str, float], int] | None] = Queue(MOST_WAITING)
        self._has_given_up = False
        self._thread = Thread(
            target=self._send_all, args=(project, folder, config), name="wandb", daemon=True
        )
        self._thread.start()

    def write(self, values: dict[str, float], *, step: int) -> None:
        self._put((values, step))

    def close(self) -> None:
        """Send what was not sent yet."""
        self._put(None)
        if self._has_given_up:
            return
        self._thread.join(CLOSE_WAIT_S)
        if self._thread.is_alive():
            self._give_up("take the last numbers", f"no answer within {CLOSE_WAIT_S:g} s")

    def _put(self, record: tuple[dict[str, float], int] | None) -> None:
        if self._has_given_up:
            return
        try:
            self._records.put_nowait(record)
        except Full:
            self._give_up("log", f"no answer for {MOST_WAITING} records")

    def _send_all(self, project: str, folder: Path, config: dict[str, Any]) -> None:
        calling = "begin"
        try:
            run = _begin(project, folder, config)
            calling = "log"
            while record := self._records.get():
                values, step = record
                run.log(values, step=step)
            calling = "finish"
            run.finish()
        except Exception as error:  # of any kind: it is somebody else's code
            self._give_up(calling, f"{type(error).__name__}: {error}".splitlines()[0])

    def _give_up(self, what: str, reason: str) -> None:
        if not self._has_given_up:
            logger.warning(
                "W&B could not %s, so it gets no more numbers; log.jsonl has them all (%s)",
                *(what, reason),
            )
        self._has_given_up = True


def _begin(project: str, folder: Path, config: dict[str, Any]) -> Any:
    wandb = _package()
    id_file = folder / ID_FILE
    known = id_file.read_text(encoding="utf-8").strip() if id_file.exists() else None
    settings = wandb.Settings(init_timeout=LOGIN_TIMEOUT_S, login_timeout=LOGIN_TIMEOUT_S)
    run = wandb.init(
        project=project,
        name=folder.name,
        dir=str(folder),
        config=config,
        id=known,
        resume="allow",
        settings=settings,
    )
    id_file.write_text(f"{run.id}\n", encoding="utf-8")
    return run


def _package() -> ModuleType:
    try:
        import wandb
    except ImportError:
        raise ImportError("install it: python -m pip install -c constraints.txt wandb") from None
    return wandb
