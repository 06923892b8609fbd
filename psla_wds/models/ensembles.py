"""Models that are used together: several checkpoints with the same classes and front end, whose
scores are averaged, as eval.ensemble does with score files.
"""

from collections.abc import Sequence
from pathlib import Path

from psla_wds.errors import CheckpointError
from psla_wds.labels.class_list import ClassList
from psla_wds.models.checkpoint import Checkpoint, find_checkpoint, load_checkpoint
from psla_wds.models.model_folder import is_model_folder, read_model


def load_members(path: Path, *, classes: ClassList | None = None) -> tuple[Checkpoint, ...]:
    """The model at a path, as the one or more checkpoints that it consists of."""
    if is_model_folder(path):
        return read_model(path)
    return (load_checkpoint(find_checkpoint(path), classes=classes),)


def check_members(members: Sequence[Checkpoint], *, where: object) -> None:
    """Raise `CheckpointError` unless the scores of these models can be averaged."""
    if not members:
        raise CheckpointError("there is no model", where=where, fix="give one or more")
    for number, member in enumerate(members):
        for what in ("classes", "features"):
            if getattr(member, what) != getattr(members[0], what):
                raise CheckpointError(
                    f"models 1 and {number + 1} of the ensemble have other {what}",
                    where=where,
                    fix="average models that were trained on the same classes and features",
                )
