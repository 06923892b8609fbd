"""Weights & Biases as one more place for a run's numbers; nothing of it can stop a run."""

import logging
from pathlib import Path
from types import ModuleType
from typing import Any

logger = logging.getLogger("train")

ID_FILE = "wandb-id.txt"
"""In the run's folder: a run that is resumed goes on in the same place."""
LOGIN_TIMEOUT_S = 60


class WandbSink:
    """The numbers of a run at W&B; after its first failure, which is a warning, nowhere."""

    def __init__(self, project: str, folder: Path, config: dict[str, Any]) -> None:
        self._run: Any = None
        try:
            self._run = _begin(project, folder, config)
        except Exception as error:  # of any kind: it is somebody else's code
            self._give_up("begin", error)

    def write(self, values: dict[str, float], *, step: int) -> None:
        if self._run is None:
            return
        try:
            self._run.log(values, step=step)
        except Exception as error:
            self._give_up("log", error)

    def close(self) -> None:
        """Send what was not sent yet."""
        if self._run is None:
            return
        try:
            self._run.finish()
        except Exception as error:
            self._give_up("finish", error)

    def _give_up(self, what: str, error: Exception) -> None:
        self._run = None
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        logger.warning(
            "W&B could not %s, so it gets no more numbers; log.jsonl has them all (%s)",
            *(what, reason),
        )


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
