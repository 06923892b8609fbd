"""An exported model: a folder of safetensors and one JSON, which are all that is needed to use it.

docs/format.md has the format. A folder from a stranger cannot run code, names no file outside
itself, and takes no more memory than its files have bytes.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from psla_wds.config import read_json, to_json
from psla_wds.errors import CheckpointError, ConfigError
from psla_wds.features.config import FeatureConfig
from psla_wds.io.atomic_files import sha256_of
from psla_wds.io.tensor_files import check_tensors, load_tensors, safetensors
from psla_wds.labels.class_list import ClassList
from psla_wds.models.checkpoint import CHECKPOINTS, Checkpoint
from psla_wds.models.config import RANDOM, ModelConfig

FORMAT_VERSION = 1
LIBRARY = "psla-wds"
CONFIG = "config.json"
FILE_NAME = r"(model|member-[1-9][0-9]{0,2})\.safetensors"
MOST_MEMBERS = 100
FIX = "export or download it again"


@dataclass(frozen=True)
class Provenance:
    """Where a member comes from, as far as that is known."""

    recipe: dict[str, Any] | None = None
    """The settings of its run, without places."""
    index_fingerprint: str | None = None
    """Of the shards that it was trained on."""


@dataclass(frozen=True)
class Member:
    """One network of the model."""

    file: str
    size_bytes: int
    sha256: str
    epoch: int
    """Epochs trained; 0 where it is not known."""
    model: ModelConfig
    provenance: Provenance


@dataclass(frozen=True)
class FolderConfig:
    """config.json of an exported model."""

    library_name: str
    format_version: int
    members: tuple[Member, ...]
    """One, or the members of an ensemble, whose scores are averaged."""
    features: FeatureConfig
    mids: tuple[str, ...]
    names: tuple[str, ...]
    metrics: dict[str, Any] | None
    """What eval.score found, without its classes."""

    @property
    def classes(self) -> ClassList:
        return ClassList(self.mids, self.names)


def is_model_folder(path: Path) -> bool:
    """Whether a path is an exported model; the folder of a run has a config.json of its own."""
    return (path / CONFIG).is_file() and not (path / CHECKPOINTS).is_dir()


def write_model(
    folder: Path,
    members: Sequence[Checkpoint],
    provenances: Sequence[Provenance],
    *,
    metrics: dict[str, Any] | None,
) -> FolderConfig:
    """Write weights and config.json into a folder that is there; members must fit together."""
    names = ["model.safetensors"]
    if len(members) > 1:
        names = [f"member-{number}.safetensors" for number in range(1, len(members) + 1)]
    config = FolderConfig(
        library_name=LIBRARY,
        format_version=FORMAT_VERSION,
        members=tuple(
            _write_member(folder / name, member, provenance)
            for name, member, provenance in zip(names, members, provenances, strict=True)
        ),
        features=members[0].features,
        mids=members[0].classes.mids,
        names=members[0].classes.names,
        metrics=metrics,
    )
    text = json.dumps(to_json(config), indent=1, ensure_ascii=False, allow_nan=False)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
    return config


def read_model(folder: Path) -> tuple[Checkpoint, ...]:
    """The members of an exported model; `CheckpointError` if files are missing or damaged."""
    config = read_model_config(folder)
    return tuple(
        Checkpoint(
            weights=_read_weights(folder / member.file, member),
            model=member.model,
            features=config.features,
            classes=config.classes,
            epoch=member.epoch,
        )
        for member in config.members
    )


def read_model_config(folder: Path) -> FolderConfig:
    """config.json, checked; nothing of it is believed about files before they are read."""
    path = folder / CONFIG
    try:
        config = read_json(FolderConfig, path)
        ClassList(config.mids, config.names)  # raises ValueError
        _require(config.library_name == LIBRARY, f"library_name is {config.library_name!r}")
        _require(config.format_version == FORMAT_VERSION, f"format {config.format_version}")
        _require(1 <= len(config.members) <= MOST_MEMBERS, f"{len(config.members)} members")
        _require(len(config.mids) > 0, "no classes")
        for member in config.members:
            _require(re.fullmatch(FILE_NAME, member.file) is not None, f"file {member.file!r}")
    except (ConfigError, ValueError, TypeError, OverflowError, AttributeError) as error:
        raise CheckpointError(
            f"this is no exported model: {str(error).splitlines()[0]}", where=path, fix=FIX
        ) from None
    return config


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(what)


def _write_member(path: Path, member: Checkpoint, provenance: Provenance) -> Member:
    # Each tensor by itself: a weight that is a view of a larger one would be written with it.
    tensors = {n: t.detach().cpu().clone().contiguous() for n, t in member.weights.items()}
    safetensors(path).save_file(tensors, path, metadata={"format": "pt"})
    return Member(
        file=path.name,
        size_bytes=path.stat().st_size,
        sha256=sha256_of(path),
        epoch=member.epoch,
        # What training began with is in the weights, and can be a path of the one who trained.
        model=replace(member.model, initial_weights=RANDOM),
        provenance=provenance,
    )


def _read_weights(path: Path, member: Member) -> dict[str, Any]:
    found = "none"
    if path.is_file():
        found = f"{path.stat().st_size:,} bytes"
        if path.stat().st_size == member.size_bytes and sha256_of(path) == member.sha256:
            return check_tensors(load_tensors(path, fix=FIX), path, fix=FIX)
    raise CheckpointError(
        f"the weights are not those that {CONFIG} names ({member.size_bytes:,} bytes; here: "
        f"{found}), or were changed",
        where=path,
        fix=FIX,
    )
