"""Settings of the network. Without torch, so that a command can list them at once."""

import difflib
from dataclasses import dataclass
from types import ModuleType
from typing import Annotated, Literal

from psla_wds.config import Within, check_ranges
from psla_wds.errors import ConfigError

EFFICIENTNETS = tuple(f"efficientnet-b{size}" for size in range(8))
BACKBONES = (*EFFICIENTNETS, "resnet-50", "mobilenet-v2")
TIMM = "timm/"
IMAGENET, RANDOM = "imagenet", "none"
"""Initial weights that are not a file."""
NUM_HEADS = 4

Head = Literal["multi-head-attention", "single-head-attention", "mean-pooling", "linear"]
BatchNormOver = Literal["rank", "groups", "batch"]
Precision = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network. Defaults are the paper's: EfficientNet-B2 with four attention heads."""

    backbone: str = "efficientnet-b2"
    """efficientnet-b0 (4.0M parameters without its head) to efficientnet-b7 (63.8M), resnet-50,
    mobilenet-v2, or timm/NAME: any network of the package timm that gives a feature map."""
    head: Head = "multi-head-attention"
    """Pooling from frames to a clip. mean-pooling averages the scores of frames; linear scores the
    mean of their features (the paper's choice for MobileNetV2)."""
    num_heads: Annotated[int, Within(1, 64)] = NUM_HEADS  # each head takes memory
    """Heads of multi-head-attention."""
    drop_connect_rate: Annotated[float | None, Within(0, 1, without=(1,))] = None
    """Stochastic depth: chance to skip a block for a clip in training; rises from 0 at the first
    block to nearly this at the last. None: the network's own (EfficientNet 0.2, others none)."""
    batch_norm_momentum: Annotated[float | None, Within(0, 1, without=(0,))] = None
    """Weight of a batch in BatchNorm's running statistics, which evaluation uses. None: the
    network's own (EfficientNet 0.01, torchvision's 0.1). Runs of a few hundred steps want 0.1."""
    initial_weights: str = IMAGENET
    """imagenet (downloaded once, into the cache of torch's hub or of timm), none (random), or a
    local path: a file of ImageNet weights as their library publishes them; or a trained tagger (a
    run's folder, a checkpoint, an average, an exported model, or a checkpoint of the paper's
    authors). Its trunk is kept, and its head too if its classes are those of the shards."""
    initial_sha256: str | None = None
    """SHA-256 that the file of `initial_weights` must have. A run writes it to its config.json, so
    that a repetition starts from the same weights."""

    def __post_init__(self) -> None:
        check_backbone(self.backbone)
        check_ranges(self, "model")
        if self.num_heads != NUM_HEADS and self.head != "multi-head-attention":
            raise ConfigError(
                f"num_heads={self.num_heads} has no meaning for the head {self.head}",
                where="model",
                fix="set --model.head multi-head-attention, or leave --model.num-heads out",
            )


def check_backbone(name: str) -> None:
    """Raise `ConfigError`, with the nearest names, for a backbone that cannot be built."""
    known: tuple[str, ...] = BACKBONES
    if name.startswith(TIMM):
        # Only names that timm lists: others, such as hf-hub:, would load a stranger's network.
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
    """The package timm, which only backbones of that name need."""
    try:
        import timm
    except ImportError:
        raise ConfigError(
            "backbones timm/NAME need the package timm",
            where="model",
            fix="python -m pip install -c constraints.txt timm",
        ) from None
    return timm
