"""Exported models: folders of safetensors and one JSON, which are all one needs to use them.

docs/format.md describes the format. A folder from a stranger cannot run code, cannot name files
outside itself, and takes no more memory than its files have bytes. Several models form an ensemble,
whose scores are averaged.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from jaxtyping import Float32

from psla_wds.config import SEAL, Within, check_ranges, check_seal, read_json, to_json, write_sealed
from psla_wds.errors import DAMAGE, CheckpointError, ConfigError
from psla_wds.features.config import FeatureConfig
from psla_wds.io.atomic_files import sha256_of
from psla_wds.io.tensor_files import check_tensors, load_tensors, safetensors
from psla_wds.labels.class_list import ClassList
from psla_wds.models.checkpoint import MOST_EPOCHS, Checkpoint, load_checkpoint
from psla_wds.models.config import RANDOM, ModelConfig
from psla_wds.models.epochs import CHECKPOINTS, find_checkpoint

FORMAT_VERSION = 1
LIBRARY = "psla-wds"
CONFIG = "config.json"
ONNX = "model.onnx"
"""File of the model with its front end, for other runtimes."""
FILE_NAME = r"(model|member-[1-9][0-9]{0,2})\.safetensors"
MOST_MEMBERS = 100
FIX = "export or download it again"


@dataclass(frozen=True)
class Provenance:
    """The run that a member comes from; None where it is not known."""

    recipe: dict[str, Any] | None = None
    """Settings of the run, without places."""
    index_fingerprint: str | None = None
    """Fingerprint of the shards that it was trained on."""


@dataclass(frozen=True)
class Member:
    """One network of the model."""

    file: str
    size_bytes: Annotated[int, Within(0, 2**63 - 1)]
    sha256: str
    epoch: Annotated[int, Within(0, MOST_EPOCHS)]
    """Epochs trained; 0 if unknown."""
    model: ModelConfig
    provenance: Provenance

    def __post_init__(self) -> None:
        check_ranges(self, "members")


@dataclass(frozen=True)
class FolderConfig:
    """config.json of an exported model."""

    library_name: str
    format_version: Annotated[int, Within(1, 10**6)]
    members: tuple[Member, ...]
    """One network, or those of an ensemble, whose scores are averaged."""
    features: FeatureConfig
    mids: tuple[str, ...]
    names: tuple[str, ...]
    metrics: dict[str, Any] | None
    """Scores over all classes, by psla-wds score."""
    thresholds: Annotated[tuple[float | None, ...] | None, Within(-1e30, 1e30)] = None
    """Score from which each class is present, by psla-wds thresholds; null: it never is."""

    def __post_init__(self) -> None:
        check_ranges(self, "config")

    @property
    def classes(self) -> ClassList:
        return ClassList(self.mids, self.names)


def is_model_folder(path: Path) -> bool:
    """Whether a path is an exported model, and not a run's folder, which also has a config.json."""
    return (path / CONFIG).is_file() and not (path / CHECKPOINTS).is_dir()


def load_members(path: Path, *, classes: ClassList | None = None) -> tuple[Checkpoint, ...]:
    """The model at a path, as the one or more checkpoints that it consists of."""
    if is_model_folder(path):
        return read_model(path)
    return (load_checkpoint(find_checkpoint(path), classes=classes),)


def weights_of(path: Path) -> Path:
    """The file of weights that a path means; the first of an ensemble's."""
    if is_model_folder(path):
        return path / read_model_config(path).members[0].file
    return find_checkpoint(path)


def thresholds_of(path: Path) -> Float32[np.ndarray, " classes"] | None:
    """The thresholds of an exported model, infinite for a class that is never present; None if it
    has none, or if the model is not an exported one."""
    thresholds = read_model_config(path).thresholds if is_model_folder(path) else None
    if thresholds is None:
        return None
    return np.array([math.inf if t is None else t for t in thresholds], np.float32)


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


def write_model(
    folder: Path,
    members: Sequence[Checkpoint],
    provenances: Sequence[Provenance],
    *,
    metrics: dict[str, Any] | None,
    thresholds: Float32[np.ndarray, " classes"] | None = None,
) -> FolderConfig:
    """Write weights and config.json into an existing folder; members must fit together.

    Args:
        metrics: scores over all classes, by psla-wds score.
        thresholds: score from which each class is present; infinite: it never is.
    """
    many = len(members) > 1
    names = [f"member-{n}" if many else "model" for n in range(1, len(members) + 1)]
    config = FolderConfig(
        library_name=LIBRARY,
        format_version=FORMAT_VERSION,
        members=tuple(
            _write_member(folder / f"{name}.safetensors", member, provenance)
            for name, member, provenance in zip(names, members, provenances, strict=True)
        ),
        features=members[0].features,
        mids=members[0].classes.mids,
        names=members[0].classes.names,
        metrics=metrics,
    )
    if thresholds is not None:
        finite = tuple(None if math.isinf(t) else t for t in thresholds.tolist())
        config = replace(config, thresholds=finite)
    values = to_json(config)
    if thresholds is None:
        del values["thresholds"]  # so that versions that do not know it read the folder
    write_sealed(values, folder / CONFIG)
    return config


def read_model(folder: Path) -> tuple[Checkpoint, ...]:
    """The members of an exported model; `CheckpointError` if files are missing or damaged."""
    config = read_model_config(folder)
    features, classes = config.features, config.classes
    return tuple(
        Checkpoint(_read_weights(folder / m.file, m), m.model, features, classes, m.epoch)
        for m in config.members
    )


def read_model_config(folder: Path) -> FolderConfig:
    """config.json, checked; the files of weights are not."""
    path = folder / CONFIG
    try:
        config = read_json(FolderConfig, path, besides=SEAL)
        for wrong in _faults(config):
            raise ValueError(wrong)
        check_seal(path)
    except (*DAMAGE, ConfigError) as error:
        raise CheckpointError(
            f"not an exported model: {str(error).splitlines()[0]}", where=path, fix=FIX
        ) from None
    return config


def _faults(config: FolderConfig) -> Iterator[str]:
    if config.library_name != LIBRARY:
        yield f"library_name is {config.library_name!r}"
    if config.format_version != FORMAT_VERSION:
        yield f"format {config.format_version}"
    if not 1 <= len(config.members) <= MOST_MEMBERS:
        yield f"{len(config.members)} members"
    if not len(config.classes):  # raises ValueError if mids and names do not fit
        yield "no classes"
    if config.thresholds is not None and len(config.thresholds) != len(config.classes):
        yield f"{len(config.thresholds)} thresholds for {len(config.classes)} classes"
    files = [member.file for member in config.members]
    yield from (f"file {file!r}" for file in files if not re.fullmatch(FILE_NAME, file))
    if len(set(files)) < len(files):
        yield "two members have one file"


def _write_member(path: Path, member: Checkpoint, provenance: Provenance) -> Member:
    # Copies: for a weight that is a view, the whole tensor behind it would be written.
    tensors = {n: t.detach().cpu().clone().contiguous() for n, t in member.weights.items()}
    # As bytes: `save_file` reports a full disk by an error of its own, and makes files that nobody
    # but their owner can read, whatever the umask.
    path.write_bytes(safetensors(path).save(tensors, metadata={"format": "pt"}))
    return Member(
        file=path.name,
        size_bytes=path.stat().st_size,
        sha256=sha256_of(path),
        epoch=member.epoch,
        # Initial weights no longer matter, and may name a path on the machine that trained it.
        model=replace(member.model, initial_weights=RANDOM),
        provenance=provenance,
    )


def _read_weights(path: Path, member: Member) -> dict[str, Any]:
    size_bytes = path.stat().st_size if path.is_file() else None
    if size_bytes == member.size_bytes and sha256_of(path) == member.sha256:
        return check_tensors(load_tensors(path, fix=FIX), path, fix=FIX)
    found = "none" if size_bytes is None else f"{size_bytes:,} bytes"
    raise CheckpointError(
        f"the weights are not those that {CONFIG} names ({member.size_bytes:,} bytes; here: "
        f"{found}), or were changed",
        where=path,
        fix=FIX,
    )
