"""What training starts from: random weights, ImageNet's, or a trained tagger, of which the trunk is
kept, and the head where the classes are the same."""

import logging
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from torch import Tensor

from psla_wds.errors import CheckpointError, ConfigError
from psla_wds.features.config import FeatureConfig
from psla_wds.io.atomic_files import sha256_of
from psla_wds.io.tensor_files import check_tensors, difference, load_tensors
from psla_wds.labels.class_list import ClassList
from psla_wds.models.audio_tagger import AudioTagger, build_model
from psla_wds.models.checkpoint import (
    FIX,
    Checkpoint,
    find_checkpoint,
    holds_tagger,
    read_checkpoint,
)
from psla_wds.models.config import IMAGENET, RANDOM, ModelConfig
from psla_wds.models.heads import count_classes
from psla_wds.models.model_folder import is_model_folder, read_model, read_model_config
from psla_wds.models.official import is_official, tagger_weights

logger = logging.getLogger(__name__)

FREE_FEATURES = ("num_frames",)
"""Features that a trunk may see otherwise than it was trained: it takes any number of frames."""


@dataclass(frozen=True)
class Start:
    """A tagger before its first step."""

    tagger: AudioTagger
    sha256: str | None = None
    """Digest of the file of the weights, if the configuration names a file."""


def first_tagger(
    config: ModelConfig, classes: ClassList, features: FeatureConfig, *, other_features: bool
) -> Start:
    """The tagger as training starts with it, by `ModelConfig.initial_weights`.

    Args:
        classes: those of the shards.
        other_features: allow a trained tagger to go on with features that it was not trained on.
    """
    if config.initial_weights in (IMAGENET, RANDOM):
        return Start(build_model(config, len(classes)))
    path, sha256, checkpoint = _read(Path(config.initial_weights), classes)
    if config.initial_sha256 not in (None, sha256):
        raise CheckpointError(
            f"the initial weights have the SHA-256 {sha256}, and not {config.initial_sha256}",
            where=path,
            fix="use the file that the run was begun with, or set --model.initial-sha256 None",
        )
    if checkpoint is None:
        _refuse_in_vain(other_features, where=path)
        return Start(build_model(config, len(classes)), sha256)
    if not other_features:
        _check_features(checkpoint.features, features, where=path)
    keeps_head = checkpoint.classes.mids == classes.mids
    tagger = AudioTagger(config, len(classes))
    _fill(tagger, config, checkpoint, keeps_head=keeps_head, where=path)
    _say(checkpoint, classes, path, sha256, keeps_head=keeps_head)
    return Start(tagger, sha256)


def _read(path: Path, classes: ClassList) -> tuple[Path, str, Checkpoint | None]:
    """The file that a path stands for, its SHA-256, and its tagger; None of ImageNet's weights."""
    if is_model_folder(path):
        members, described = read_model(path), read_model_config(path).members
        if len(members) > 1:
            raise ConfigError(
                f"an ensemble of {len(members)} models is no start for one",
                where=path,
                fix="set --model.initial-weights to one of the runs that it is made of",
            )
        return path / described[0].file, described[0].sha256, members[0]
    if path.is_dir():  # of a run
        path = find_checkpoint(path)
    content = load_tensors(path, fix="set --model.initial-weights to another file, or to imagenet")
    checkpoint = None
    if holds_tagger(content):
        known = _classes_of(content, classes, where=path)
        checkpoint = read_checkpoint(content, path, classes=known)
    return path, sha256_of(path), checkpoint


def _classes_of(content: dict[str, Any], classes: ClassList, *, where: Path) -> ClassList:
    """The classes of an official checkpoint, which names none: those of the shards if they are as
    many, else numbers. Ours name their own."""
    if not is_official(content):
        return classes
    count = count_classes(tagger_weights(check_tensors(content, where, fix=FIX)))
    if count is None or count == len(classes):
        return classes
    numbers = tuple(map(str, range(count)))
    return ClassList(numbers, numbers)


def _refuse_in_vain(other_features: bool, *, where: Path) -> None:
    if other_features:
        raise ConfigError(
            "other_features is not read: these are ImageNet's weights, which name no features",
            where=where,
            fix="leave --other-features out",
        )


def _check_features(trained: FeatureConfig, given: FeatureConfig, *, where: Path) -> None:
    """Raise where the trunk would see another input than it was trained on."""
    names = [field.name for field in fields(FeatureConfig) if field.name not in FREE_FEATURES]
    other = {n: getattr(trained, n) for n in names if getattr(trained, n) != getattr(given, n)}
    if other:
        told = ", ".join(
            f"{name}={value} (here {getattr(given, name)})" for name, value in other.items()
        )
        flags = " ".join(f"--features.{n.replace('_', '-')} {v}" for n, v in other.items())
        raise CheckpointError(
            f"the initial weights were trained on other features: {told}",
            where=where,
            fix=f"set {flags}; or, to go on with these, --other-features",
        )


def _fill(
    tagger: AudioTagger,
    config: ModelConfig,
    checkpoint: Checkpoint,
    *,
    keeps_head: bool,
    where: Path,
) -> None:
    """Put a checkpoint's weights into a tagger: all of them, or the trunk's."""
    _check_network(config, checkpoint.model, keeps_head=keeps_head, where=where)
    given, expected = checkpoint.weights, tagger.state_dict()
    if not keeps_head:
        given, expected = _trunk(given), _trunk(expected)
    differs = difference(given, expected)
    if differs:
        raise CheckpointError(
            f"these are not weights of this tagger: {differs}", where=where, fix=FIX
        )
    tagger.load_state_dict(given, strict=False)


def _check_network(
    config: ModelConfig, trained: ModelConfig, *, keeps_head: bool, where: Path
) -> None:
    names = ("backbone", "head", "num_heads") if keeps_head else ("backbone",)
    other = {n: getattr(trained, n) for n in names if getattr(trained, n) != getattr(config, n)}
    if other:
        told = ", ".join(f"{n} {v} (here {getattr(config, n)})" for n, v in other.items())
        flags = " ".join(f"--model.{n.replace('_', '-')} {v}" for n, v in other.items())
        raise CheckpointError(
            f"the initial weights are of another network: {told}",
            where=where,
            fix=f"set {flags}, or other --model.initial-weights",
        )


def _trunk(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in weights.items() if name.startswith("trunk.")}


def _say(
    checkpoint: Checkpoint, classes: ClassList, path: Path, sha256: str, *, keeps_head: bool
) -> None:
    if keeps_head:
        kept = f"trunk and head, of the same {len(classes)} classes"
    else:
        old = len(checkpoint.classes)
        kept = f"trunk; a new head for {len(classes)} classes, in place of {old}"
    logger.info("starting from %s (SHA-256 %s): its %s", path, sha256[:12], kept)
