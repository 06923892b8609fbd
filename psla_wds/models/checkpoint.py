"""Checkpoints: the weights of a tagger with all that is needed to use it, and nothing to run.

A file holds tensors, numbers and strings only, and is read with `weights_only=True`: one from a
stranger cannot run code.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from psla_wds.config import from_json, to_json
from psla_wds.errors import CheckpointError
from psla_wds.features.config import FeatureConfig
from psla_wds.io.tensor_files import check_tensors, load_tensors, save_tensors
from psla_wds.labels.class_list import ClassList
from psla_wds.models.audio_tagger import AudioTagger
from psla_wds.models.config import RANDOM, ModelConfig
from psla_wds.models.official import architecture, is_official, official_features, tagger_weights

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
CHECKPOINTS = "checkpoints"
FIX = "copy it again, or use another checkpoint"


@dataclass(frozen=True)
class Checkpoint:
    """A tagger at rest."""

    weights: dict[str, torch.Tensor]
    model: ModelConfig
    features: FeatureConfig
    classes: ClassList
    epoch: int
    """Epochs trained; of an average, the last that went in; 0 where the file does not say."""

    def build(self) -> AudioTagger:
        """The tagger, in evaluation mode, on the CPU."""
        try:
            with torch.device("meta"):  # no memory for what a file claims, unless its weights fit
                model = AudioTagger(self.model, len(self.classes))
            copies = {name: tensor.clone() for name, tensor in self.weights.items()}
            model.load_state_dict(copies, assign=True)
            if any(buffer.is_meta for buffer in model.buffers()):  # of those that are not saved
                model = AudioTagger(self.model, len(self.classes))
                model.load_state_dict(self.weights)
        except (RuntimeError, TypeError, AttributeError, OverflowError) as error:
            reason = str(error).strip().splitlines()[-1].strip()
            raise CheckpointError(
                f"the weights do not fit the model that the checkpoint describes: {reason}",
                where=f"{self.model.backbone}, {self.model.head}, {len(self.classes)} classes",
                fix="use a checkpoint that psla-wds wrote",
            ) from None
        return model.float().eval()


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint; the file is whole or absent."""
    content = {
        "format_version": FORMAT_VERSION,
        "weights": {name: t.detach().cpu() for name, t in checkpoint.weights.items()},
        "model": to_json(checkpoint.model),
        "features": to_json(checkpoint.features),
        "mids": list(checkpoint.classes.mids),
        "names": list(checkpoint.classes.names),
        "epoch": checkpoint.epoch,
    }
    save_tensors(content, path)


def load_checkpoint(path: Path, *, classes: ClassList | None = None) -> Checkpoint:
    """The checkpoint in a file; `CheckpointError` if it is none, damaged, or of another format.

    Args:
        classes: those of the shards or of a list, for a checkpoint of the paper's authors, which
            names none.
    """
    return read_checkpoint(load_tensors(path, fix=FIX), path, classes=classes)


def holds_tagger(content: dict[str, Any]) -> bool:
    """Whether the table in a file is a trained tagger's, and not ImageNet's weights."""
    return "weights" in content or is_official(content)


def read_checkpoint(
    content: dict[str, Any], path: Path, *, classes: ClassList | None
) -> Checkpoint:
    """What `load_checkpoint` gives, from the table in the file."""
    if is_official(content):
        return _official_checkpoint(check_tensors(content, path, fix=FIX), path, classes)
    try:
        if content["format_version"] != FORMAT_VERSION:
            raise ValueError(f"format {content['format_version']}, not {FORMAT_VERSION}")
        return Checkpoint(
            weights=dict(content["weights"]),
            model=from_json(ModelConfig, content["model"], where=path),
            features=from_json(FeatureConfig, content["features"], where=path),
            classes=ClassList(tuple(content["mids"]), tuple(content["names"])),
            epoch=int(content["epoch"]),
        )
    except (KeyError, ValueError, TypeError, OverflowError, RuntimeError) as error:
        raise CheckpointError(
            f"this is no checkpoint of psla-wds: {error!r}",
            where=path,
            fix="give a run's folder, or a file of its checkpoints folder",
        ) from None


def _official_checkpoint(
    content: dict[str, torch.Tensor], path: Path, classes: ClassList | None
) -> Checkpoint:
    weights = tagger_weights(content)
    found = architecture(weights, where=path)
    if classes is None or len(classes) != found.num_classes:
        have = f"the class list has {len(classes)}" if classes else "no class list was given"
        raise CheckpointError(
            f"the checkpoint has {found.num_classes} classes and does not name them; {have}",
            where=path,
            fix="use it with the class list of its data set (--class-labels), or with shards that "
            "were built with that",
        )
    features = official_features(found.num_classes)
    logger.info(
        "%s is of the official code, and has weights only: taken as %s, %s, with the classes "
        "given, and the paper's features: %d frames at %d Hz, mean %g, std %g",
        path,
        found.backbone,
        found.head,
        features.num_frames,
        features.sample_rate_hz,
        features.mean,
        features.std,
    )
    model = ModelConfig(
        backbone=found.backbone,
        head=found.head,
        num_heads=found.num_heads,
        initial_weights=RANDOM,
    )
    return Checkpoint(weights, model, features, classes, epoch=0)


def find_checkpoint(path: Path) -> Path:
    """A checkpoint file: the path itself, or the last epoch's where it is a run's folder."""
    if path.is_file():
        return path
    found = epoch_checkpoints(path)
    if not found:
        raise CheckpointError(
            "there is no checkpoint here", where=path, fix="give a run's folder, or a .pt file"
        )
    return found[max(found)]


def epoch_checkpoints(run_dir: Path) -> dict[int, Path]:
    """The checkpoints of a run, by epoch."""
    files = (run_dir / CHECKPOINTS).glob("epoch-*.pt")
    return {int(file.stem.removeprefix("epoch-")): file for file in sorted(files)}


def epoch_path(run_dir: Path, epoch: int) -> Path:
    return run_dir / CHECKPOINTS / f"epoch-{epoch:03d}.pt"


def check_sample_rate(features: FeatureConfig, sample_rate_hz: int, *, where: object) -> None:
    """Raise unless shards have the sample rate that a model was trained at."""
    if features.sample_rate_hz != sample_rate_hz:
        raise CheckpointError(
            f"the model was trained on clips at {features.sample_rate_hz} Hz, the shards are at "
            f"{sample_rate_hz} Hz",
            where=where,
            fix=f"use shards that were built with --sample-rate-hz {features.sample_rate_hz}",
        )


def check_classes(found: ClassList, expected: ClassList, *, where: object) -> None:
    """Raise unless a model has the classes of the shards, in their order."""
    if found.mids != expected.mids:
        raise CheckpointError(
            f"the model has other classes ({len(found)}) than the shards ({len(expected)}), "
            "or another order",
            where=where,
            fix="use shards that were built with the class list that the model was trained with",
        )
