"""Whether what a study made of a run is of the weights that the run has now."""

import json
import logging
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from psla_wds.errors import DAMAGE
from psla_wds.evaluation.origins import read_origins
from psla_wds.io.atomic_files import sha256_of
from psla_wds.models.checkpoint import find_checkpoint
from train.study_commands import Step

logger = logging.getLogger("study")


def why_stale(step: Step) -> str | None:
    """Why a file that stands is not what the step would make now; None if nothing tells so.

    The SHA-256 of the checkpoints that it is of stands in it, but for files of older versions,
    which are believed, with a warning.
    """
    if not step.weights or not step.done.exists():
        return None
    found = _marks(step.done, step.done.stat().st_mtime_ns)
    if not found:
        return None
    if not all(path.exists() for path in step.weights):  # deleted, to make room
        return None
    if found <= {_hash(find_checkpoint(path)) for path in step.weights}:
        return None
    weights = step.weights[0] if len(step.weights) == 1 else "its models"
    place = step.done.parent if step.done.name in IN_A_FOLDER else step.done
    return f"{place} is of other weights than {weights}: delete it, and it is made again"


IN_A_FOLDER = ("averaging.json", "scores.json", "report.json")
"""Files of folders that are written as a whole."""


@cache
def _marks(path: Path, _: int) -> frozenset[str]:
    """SHA-256 of the checkpoints that a file is of; none if it does not say. Read once a change."""
    try:
        written = _origins_in(path)
    except (*DAMAGE, zipfile.BadZipFile):
        return frozenset()  # who reads its numbers says what is wrong with it
    if not written:
        logger.warning("%s does not say which weights it is of: it is believed", path)
    return frozenset(written)


def _origins_in(path: Path) -> set[str]:
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            found = file["origins"].tolist() if "origins" in file.files else []
    else:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, list):  # averaging.json: a line an epoch
            return {content[-1]["sha256"]} if "sha256" in content[-1] else set()
        found = content.get("origins", [])
    return {origin.sha256 for origin in read_origins(found)}


def _hash(path: Path) -> str:
    status = path.stat()
    return _hash_of_state(path, status.st_mtime_ns, status.st_size)


@cache
def _hash_of_state(path: Path, _: int, __: int) -> str:
    """A state of a step is asked for several times, and a checkpoint does not change meanwhile."""
    return sha256_of(path)
