"""The models of an export, each with the run that it comes from."""

from collections.abc import Sequence
from pathlib import Path

from psla_wds.config import Kind, to_json
from psla_wds.labels.class_list import ClassList
from psla_wds.models.checkpoint import Checkpoint
from psla_wds.models.config import IMAGENET, RANDOM
from psla_wds.models.epochs import CHECKPOINTS
from psla_wds.models.model_folder import (
    Provenance,
    check_members,
    is_model_folder,
    load_members,
    read_model_config,
)
from train.config import CONFIG, KINDS, read_config, read_made_with


def read_members(
    models: Sequence[Path], *, classes: ClassList | None
) -> tuple[list[Checkpoint], list[Provenance]]:
    """The networks at these paths, and the provenance of each.

    Raises `CheckpointError` unless their scores can be averaged.
    """
    members: list[Checkpoint] = []
    provenances: list[Provenance] = []
    for path in models:
        found = load_members(path, classes=classes)
        members += found
        if is_model_folder(path):
            provenances += [member.provenance for member in read_model_config(path).members]
        else:
            provenances += [provenance_of(path)] * len(found)
    check_members(members, where=" ".join(map(str, models)) or "arguments")
    return members, provenances


def provenance_of(model: Path) -> Provenance:
    """Settings and shards of the run whose folder this is, or that has this file; may be empty."""
    folders = (model, *model.absolute().parents[:2])
    run = next((f for f in folders if (f / CONFIG).is_file() and (f / CHECKPOINTS).is_dir()), None)
    if run is None:
        return Provenance()
    config, made_with = read_config(run / CONFIG), read_made_with(run / CONFIG)
    recipe = {n: v for n, v in to_json(config).items() if KINDS[n] is Kind.METHOD}
    if config.model.initial_weights not in (IMAGENET, RANDOM):
        recipe["model"]["initial_weights"] = Path(config.model.initial_weights).name
    fingerprint = made_with.get("index_fingerprint")
    return Provenance(recipe, None if fingerprint is None else str(fingerprint))
