"""Checkpoints as the paper's authors publish them: named tensors, and nothing that says of what.

Names are those of the official code's modules (src/models/Models.py), under the `module.` of
DataParallel. Network, head and number of classes follow from names and shapes.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from psla_wds.errors import CheckpointError
from psla_wds.features.config import FeatureConfig
from psla_wds.io.tensor_files import shapes
from psla_wds.models.backbones import build_trunk
from psla_wds.models.config import BACKBONES, NUM_HEADS, Head
from psla_wds.models.heads import count_classes

# Official prefix, ours. The published EfficientNets still carry their unused ImageNet classifier.
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

NUM_CLASSES_OF_FSD50K, NUM_FRAMES_OF_FSD50K = 200, 3000


@dataclass(frozen=True)
class Architecture:
    """What the tensors of a tagger show of it."""

    backbone: str
    head: Head
    num_heads: int
    num_classes: int


def is_official(content: dict[str, Any]) -> bool:
    """Whether the table in a file is an official tagger's: not ImageNet's weights, not ours."""
    return any(re.match(r"(module\.)?(attention\.|model\.classifier\.)", str(n)) for n in content)


def tagger_weights(official: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights by the names of our tagger; a name that is neither's stays as it is."""
    plain = {name.removeprefix("module."): tensor for name, tensor in official.items()}
    return {_our_name(n): tensor for n, tensor in plain.items() if not re.match(UNUSED, n)}


def architecture(weights: dict[str, Tensor], *, where: Path) -> Architecture:
    """The tagger whose weights these are, by our names."""
    found = shapes(
        {n.removeprefix("trunk."): t for n, t in weights.items() if n.startswith("trunk.")}
    )
    num_classes = count_classes(weights)
    for backbone in BACKBONES:
        with torch.device("meta"):
            trunk, _ = build_trunk(backbone, drop_connect_rate=None, batch_norm_momentum=None)
        if shapes(trunk.state_dict()) == found and num_classes is not None:
            return Architecture(backbone, *_head(weights), num_classes)
    raise CheckpointError(
        "the file has the official code's names, and the tensors of no network of it",
        where=where,
        fix="copy it again, or use another checkpoint",
    )


def official_features(num_classes: int) -> FeatureConfig:
    """The features that the official code gives a network with so many classes: its data sets
    differ in their frames alone."""
    if num_classes == NUM_CLASSES_OF_FSD50K:
        return FeatureConfig(num_frames=NUM_FRAMES_OF_FSD50K)
    return FeatureConfig()


def _our_name(name: str) -> str:
    for official, ours in OURS.items():
        renamed, found = re.subn(f"^{official}", ours, name)
        if found:
            return renamed
    return name


def _head(weights: dict[str, Tensor]) -> tuple[Head, int]:
    if "head.head_weights" in weights:
        return "multi-head-attention", weights["head.head_weights"].numel()
    if "head.attention.weight" in weights:
        return "single-head-attention", NUM_HEADS
    classifier = weights.get("head.classifier.weight")
    is_linear = classifier is not None and classifier.ndim == 2
    return "linear" if is_linear else "mean-pooling", NUM_HEADS
