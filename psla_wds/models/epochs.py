"""Names of the checkpoints of a run. Without torch, so that a page of scores is made at once."""

import re
from pathlib import Path

from psla_wds.errors import CheckpointError
from psla_wds.printable import typed

CHECKPOINTS = "checkpoints"


def find_checkpoint(path: Path) -> Path:
    """A checkpoint file: the path itself, or the last epoch's if it is a run's folder."""
    if path.is_file():
        return path
    found = epoch_checkpoints(path)
    if not found:
        raise CheckpointError(
            "there is no checkpoint here",
            where=path,
            fix=run_instead(path) or "give a run's folder, or a .pt file",
        )
    return found[max(found)]


def run_instead(path: Path) -> str | None:
    """Advice where the folder of checkpoints is given in place of its run."""
    is_part = path.name == CHECKPOINTS and epoch_checkpoints(path.parent)
    return f"name the run itself: {typed(path.parent)}" if is_part else None


def epoch_checkpoints(run_dir: Path) -> dict[int, Path]:
    """The checkpoints of a run, by epoch; other files, such as copies of them, do not count."""
    files = sorted((run_dir / CHECKPOINTS).glob("epoch-*.pt"))
    return {int(file.stem.removeprefix("epoch-")): file for file in files if _is_epoch(file)}


def _is_epoch(file: Path) -> bool:
    return re.fullmatch(r"epoch-([0-9]{3}|[1-9][0-9]{3,})\.pt", file.name) is not None


def epoch_path(run_dir: Path, epoch: int) -> Path:
    return run_dir / CHECKPOINTS / f"epoch-{epoch:03d}.pt"
