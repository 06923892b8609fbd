"""Checkpoints: the weights of a tagger with all that is needed to use it, and no code.

A file holds only tensors, numbers and strings, and is read with `weights_only=True`: a file from a
stranger cannot run code. Those of the paper's authors hold named tensors alone: the names of the
official code's modules (src/models/Models.py), under the `module.` of DataParallel. Names and
shapes show the network, the head and the number of classes.
"""

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from psla_wds.config import from_json, to_json
from psla_wds.errors import CheckpointError
from psla_wds.features.config import FeatureConfig
from psla_wds.io.tensor_files import check_tensors, load_tensors, save_tensors, shapes
from psla_wds.labels.class_list import ClassList
from psla_wds.models.audio_tagger import AudioTagger
from psla_wds.models.backbones import build_trunk
from psla_wds.models.config import BACKBONES, NUM_HEADS, RANDOM, Head, ModelConfig
from psla_wds.models.heads import count_classes

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
FIX = "copy it again, or use another checkpoint"

# Official prefix, ours. The published EfficientNets still have their unused ImageNet classifier.
OURS = {
    r"effnet\.": "trunk.",
    r"model\.classifier\.": "head.classifier.",  # MobileNetV2
    r"model\.": "trunk.",  # ResNet-50 and MobileNetV2
    r"attention\.att\.(\d+)\.": r"head.heads.\1.attention.",
    r"attention\.cla\.(\d+)\.": r"head.heads.\1.classifier.",
    r"attention\.head_weight$": "head.head_weights",
    r"attention\.att\.": "head.attention.",
    r"attention\.cla\.": "head.classifier.",
}
UNUSED = r"effnet\._fc\."
FRAMES_BY_CLASSES = {200: 3000}
"""Frames of the official code, where they are not the default, by the number of classes: FSD50K has
200. Its other features are the same for all data sets."""


@dataclass(frozen=True)
class Checkpoint:
    """A trained tagger, not yet built."""

    weights: dict[str, Tensor]
    model: ModelConfig
    features: FeatureConfig
    classes: ClassList
    epoch: int
    """Number of epochs trained; the last one of an average; 0 where the file does not say."""
    first_epoch: int = 0
    """First epoch of an average; 0 for the weights of one epoch."""

    def build(self) -> AudioTagger:
        """The tagger, in evaluation mode, on the CPU."""
        try:
            with torch.device("meta"):  # no memory for what a file claims, unless its weights fit
                model = AudioTagger(self.model, len(self.classes))
            copies = {name: tensor.clone() for name, tensor in self.weights.items()}
            model.load_state_dict(copies, assign=True)
            if any(buffer.is_meta for buffer in model.buffers()):  # those that are not saved
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
        "first_epoch": checkpoint.first_epoch,
    }
    save_tensors(content, path)


def load_checkpoint(path: Path, *, classes: ClassList | None = None) -> Checkpoint:
    """The checkpoint in a file; `CheckpointError` if it is not one, is damaged, or has another
    format.

    Args:
        classes: classes of the shards or of a list, for a checkpoint of the paper's authors, which
            names none.
    """
    return read_checkpoint(load_tensors(path, fix=FIX), path, classes=classes)


def read_checkpoint(
    content: dict[str, Any], path: Path, *, classes: ClassList | None
) -> Checkpoint:
    """The checkpoint of `load_checkpoint`, from the table in the file."""
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
            first_epoch=int(content.get("first_epoch", 0)),
        )
    except (KeyError, ValueError, TypeError, OverflowError, RuntimeError) as error:
        raise CheckpointError(
            f"not a checkpoint of psla-wds: {error!r}",
            where=path,
            fix="give a run's folder, or a file of its checkpoints folder",
        ) from None


def is_official(content: dict[str, Any]) -> bool:
    """Whether the table in a file is an official tagger's: not ImageNet's weights, not ours."""
    return any(re.match(r"(module\.)?(attention\.|model\.classifier\.)", str(n)) for n in content)


def tagger_weights(official: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights by the names of our tagger; an unknown name stays as it is."""
    plain = {name.removeprefix("module."): tensor for name, tensor in official.items()}
    return {_our_name(n): tensor for n, tensor in plain.items() if not re.match(UNUSED, n)}


def _our_name(name: str) -> str:
    for official, ours in OURS.items():
        renamed, found = re.subn(f"^{official}", ours, name)
        if found:
            return renamed
    return name


def _official_checkpoint(
    content: dict[str, Tensor], path: Path, classes: ClassList | None
) -> Checkpoint:
    weights = tagger_weights(content)
    model, num_classes = _official_network(weights, where=path)
    if classes is None or len(classes) != num_classes:
        have = f"the class list has {len(classes)}" if classes else "no class list was given"
        raise CheckpointError(
            f"the checkpoint has {num_classes} classes and does not name them; {have}",
            where=path,
            fix="use it with the class list of its data set (--class-labels), or with shards that "
            "were built with that list",
        )
    default = FeatureConfig()
    features = FeatureConfig(num_frames=FRAMES_BY_CLASSES.get(num_classes, default.num_frames))
    logger.info(
        "%s is from the official code, and has only weights: assuming %s, %s, the given classes, "
        "and the paper's features: %d frames at %d Hz, mean %g, std %g",
        path,
        model.backbone,
        model.head,
        features.num_frames,
        features.sample_rate_hz,
        features.mean,
        features.std,
    )
    return Checkpoint(weights, model, features, classes, epoch=0)


def _official_network(weights: dict[str, Tensor], *, where: Path) -> tuple[ModelConfig, int]:
    """The network that has these weights, by our names, and its number of classes."""
    found = {n.removeprefix("trunk."): t for n, t in weights.items() if n.startswith("trunk.")}
    num_classes = count_classes(weights)
    for backbone in BACKBONES:
        with torch.device("meta"):
            trunk, _ = build_trunk(backbone, drop_connect_rate=None, batch_norm_momentum=None)
        if shapes(trunk.state_dict()) == shapes(found) and num_classes is not None:
            head, num_heads = _official_head(weights)
            model = ModelConfig(
                backbone=backbone, head=head, num_heads=num_heads, initial_weights=RANDOM
            )
            return model, num_classes
    raise CheckpointError(
        "the file has the official code's names, but the tensors of none of its networks",
        where=where,
        fix=FIX,
    )


def _official_head(weights: dict[str, Tensor]) -> tuple[Head, int]:
    if "head.head_weights" in weights:
        return "multi-head-attention", weights["head.head_weights"].numel()
    if "head.attention.weight" in weights:
        return "single-head-attention", NUM_HEADS
    classifier = weights.get("head.classifier.weight")
    is_linear = classifier is not None and classifier.ndim == 2
    return "linear" if is_linear else "mean-pooling", NUM_HEADS


def check_classes(found: ClassList, expected: ClassList, *, where: object) -> None:
    """Raise `CheckpointError` unless a model has the shards' classes, in their order."""
    if found.mids != expected.mids:
        raise CheckpointError(
            f"the model has other classes ({len(found)}) than the shards ({len(expected)}), "
            "or another order",
            where=where,
            fix="use shards that were built with the class list that the model was trained with",
        )
