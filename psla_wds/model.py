"""The audio tagger: EfficientNet over a log-mel spectrogram, attention pooling over time.

The paper's model (PSLA, section II) as the official code builds it: with `ModelConfig()` and 527
classes it has 13,640,766 parameters, the 13.64M of the paper's table II.
"""

from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from efficientnet_pytorch import EfficientNet
from efficientnet_pytorch.utils import url_map
from jaxtyping import Float, Float32
from torch import Tensor, nn

from psla_wds.errors import CheckpointError, ConfigError
from psla_wds.tensor_files import load_tensors

Backbone = Literal[
    "efficientnet-b0",
    "efficientnet-b1",
    "efficientnet-b2",
    "efficientnet-b3",
    "efficientnet-b4",
    "efficientnet-b5",
    "efficientnet-b6",
    "efficientnet-b7",
]
Head = Literal["multi-head-attention", "single-head-attention", "mean-pooling"]

# The official code's clamp of attention and of scores; in float32, 1 - 1e-7 is still below 1.
SMALLEST_SCORE = 1e-7
MOST_HEADS = 64  # a configuration can ask for any number, and each takes memory


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network. Defaults are the paper's: EfficientNet-B2 with four attention heads."""

    backbone: Backbone = "efficientnet-b2"
    """From b0 (4.0M parameters without its head) to b7 (63.8M)."""
    head: Head = "multi-head-attention"
    """How the scores of frames become a clip's; mean-pooling weighs all frames alike."""
    num_heads: int = 4
    """Heads of multi-head-attention; the other heads do not read it."""
    drop_connect_rate: float = 0.2
    """Stochastic depth: chance to skip a block for a clip in training; rises from 0 at the first
    block to nearly this at the last."""
    batch_norm_momentum: float = 0.01
    """Weight of a batch in BatchNorm's running statistics, which evaluation uses. The default is
    EfficientNet's own; runs of a few hundred steps want 0.1."""
    initial_weights: str = "imagenet"
    """imagenet (downloaded once, into torch's hub cache), none (random), or the path of a local
    file in the format that efficientnet_pytorch publishes."""

    def __post_init__(self) -> None:
        if not 1 <= self.num_heads <= MOST_HEADS:
            raise ConfigError(
                f"num_heads={self.num_heads} leaves nothing to give scores, or no memory",
                where="model",
                fix=f"set --model.num-heads from 1 to {MOST_HEADS}, or choose another --model.head",
            )
        if not 0 <= self.drop_connect_rate < 1:
            raise ConfigError(
                f"drop_connect_rate={self.drop_connect_rate} is no chance from 0 to below 1",
                where="model",
                fix="set --model.drop-connect-rate 0.2, or 0 for none",
            )
        if not 0 < self.batch_norm_momentum <= 1:
            raise ConfigError(
                f"batch_norm_momentum={self.batch_norm_momentum} is no weight above 0, up to 1",
                where="model",
                fix="set --model.batch-norm-momentum 0.01",
            )


class AudioTagger(nn.Module):
    """Log-mel to one score a class. Weights are random: `build_model` gives the initial ones."""

    def __init__(self, config: ModelConfig, num_classes: int) -> None:
        super().__init__()
        # `include_top=False`: the ImageNet classifier would be 1.4M parameters that nothing uses.
        # The padding is what the backbone's ImageNet size needs (260x260 for b2), whatever comes
        # in: the published checkpoints, ImageNet's and the paper's, were trained with it.
        self.trunk = EfficientNet.from_name(
            config.backbone,
            in_channels=1,
            include_top=False,
            drop_connect_rate=config.drop_connect_rate,
            batch_norm_momentum=1
            - config.batch_norm_momentum,  # the package has TensorFlow's sense
        )
        # nn.SiLU instead of the package's memory-efficient swish, which predates it: it keeps the
        # same bytes for backward (measured: 245.5 MiB, b0, 4 clips of 256 frames), is one kernel
        # (b0's trunk forward and backward: 12% less time on a CPU at the best of 5), and exports
        # without a custom autograd function.
        self.trunk.set_swish(memory_efficient=False)
        self.head = _build_head(config, self.trunk._conv_head.out_channels, num_classes)

    def forward(
        self, log_mel: Float[Tensor, "batch frames mels"]
    ) -> Float32[Tensor, "batch classes"]:
        """Scores, near [0, 1]: the weights of several heads are free to leave it."""
        image = log_mel.transpose(1, 2).unsqueeze(1)  # (batch, 1, mels, frames)
        features = self.trunk.extract_features(image)  # (batch, channels, mels / 32, frames / 32)
        # Half precision rounds the clamp's 1 - 1e-7 to 1, so everything from here is float32.
        with torch.autocast(log_mel.device.type, enabled=False):
            return self.head(features.float().mean(dim=2, keepdim=True))


class AttentionHead(nn.Module):
    """A clip's score is the attention-weighted mean of its frames' scores, for each class."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        # 1x1 convolutions, not Linear: the published checkpoints then load by renaming alone.
        self.attention = nn.Conv2d(channels, num_classes, kernel_size=1)
        self.classifier = nn.Conv2d(channels, num_classes, kernel_size=1)

    def forward(
        self, features: Float32[Tensor, "batch channels 1 frames"]
    ) -> Float32[Tensor, "batch classes"]:
        attention = torch.sigmoid(self.attention(features))
        attention = attention.clamp(SMALLEST_SCORE, 1 - SMALLEST_SCORE)
        attention = attention / attention.sum(dim=3, keepdim=True)
        return (attention * torch.sigmoid(self.classifier(features))).sum(dim=(2, 3))


class MultiHeadAttention(nn.Module):
    """Several attention heads, summed with learned weights that nothing holds to a sum of 1."""

    def __init__(self, channels: int, num_classes: int, num_heads: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(AttentionHead(channels, num_classes) for _ in range(num_heads))
        self.head_weights = nn.Parameter(torch.full((num_heads,), 1 / num_heads))

    def forward(
        self, features: Float32[Tensor, "batch channels 1 frames"]
    ) -> Float32[Tensor, "batch classes"]:
        scores = torch.stack([head(features) for head in self.heads], dim=-1)
        return (scores * self.head_weights).sum(dim=-1)


class MeanPooling(nn.Module):
    """A clip's score is the mean of its frames' scores."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.classifier = nn.Conv2d(channels, num_classes, kernel_size=1)

    def forward(
        self, features: Float32[Tensor, "batch channels 1 frames"]
    ) -> Float32[Tensor, "batch classes"]:
        return torch.sigmoid(self.classifier(features)).mean(dim=(2, 3))


def build_model(config: ModelConfig, num_classes: int) -> AudioTagger:
    """The tagger as training starts with it; stem and head are random whatever the weights."""
    model = AudioTagger(config, num_classes)
    if config.initial_weights == "imagenet":
        _load_trunk(model.trunk, config.backbone, _imagenet_file(config.backbone))
    elif config.initial_weights != "none":
        _load_trunk(model.trunk, config.backbone, Path(config.initial_weights))
    return model


def clamp_scores(scores: Float[Tensor, "*shape"]) -> Float32[Tensor, "*shape"]:
    """`scores` in (0, 1) for the loss. A clamped score gets no gradient, as in the official code.

    Saved scores stay unclamped, since a clamp would tie the most certain clips.
    """
    return scores.float().clamp(SMALLEST_SCORE, 1 - SMALLEST_SCORE)


def loss(
    scores: Float[Tensor, "batch classes"], targets: Float[Tensor, "batch classes"]
) -> Float32[Tensor, ""]:
    """Mean binary cross-entropy over clips and classes; a mixed clip has targets within [0, 1]."""
    # The head gives scores, not logits (PSLA II-C); on a GPU, autocast refuses this entropy.
    with torch.autocast(scores.device.type, enabled=False):
        return F.binary_cross_entropy(clamp_scores(scores), targets.float())


def _build_head(config: ModelConfig, channels: int, num_classes: int) -> nn.Module:
    if config.head == "multi-head-attention":  # keeps the default initialisation of Conv2d
        return MultiHeadAttention(channels, num_classes, config.num_heads)
    single = AttentionHead if config.head == "single-head-attention" else MeanPooling
    return single(channels, num_classes).apply(_initialise_he_uniform)


def _initialise_he_uniform(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d) and module.bias is not None:
        nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
        nn.init.zeros_(module.bias)


def _imagenet_file(backbone: Backbone) -> Path:
    """The published weights in torch's hub cache, downloaded if they are not there yet.

    `EfficientNet.from_pretrained` would print to stdout, which is for results.
    """
    url = url_map[backbone]
    path = Path(torch.hub.get_dir(), "checkpoints", Path(url).name)
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path))
        except (OSError, HTTPException) as error:
            raise ConfigError(
                f"the ImageNet weights of {backbone} cannot be downloaded: {error}",
                where=url,
                fix="set --model.initial-weights PATH (a copy of that file) or none (random)",
            ) from error
    return path


def _load_trunk(trunk: EfficientNet, backbone: Backbone, path: Path) -> None:
    """Copy a published file into `trunk`, all but its stem, which has three input channels."""
    published = _read_tensors(path, backbone)
    for unused in ("_conv_stem.weight", "_fc.weight", "_fc.bias"):
        published.pop(unused, None)
    wanted, given = _shapes(trunk.state_dict()), _shapes(published)
    del wanted["_conv_stem.weight"]
    names = wanted | given
    differing = [name for name in names if wanted.get(name) != given.get(name)]
    if differing:
        name = differing[0]
        raise CheckpointError(
            f"these are not weights of {backbone}: {len(differing)} of {len(names)} tensors "
            f"differ, first {name} (file: {given.get(name, 'none')}, "
            f"model: {wanted.get(name, 'none')})",
            where=path,
            fix=_initial_weights_fix(backbone),
        )
    trunk.load_state_dict(published, strict=False)


def _shapes(tensors: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Shapes by name, less BatchNorm's counters, which older files lack and nothing reads."""
    return {
        name: tuple(tensor.shape)
        for name, tensor in tensors.items()
        if not name.endswith("num_batches_tracked")
    }


def _read_tensors(path: Path, backbone: Backbone) -> dict[str, Tensor]:
    fix = _initial_weights_fix(backbone)
    tensors = load_tensors(path, fix=f"delete it if its download was cut short; {fix}")
    if not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise CheckpointError("the file is not a table of named tensors", where=path, fix=fix)
    return tensors


def _initial_weights_fix(backbone: Backbone) -> str:
    return f"set --model.initial-weights to a copy of {url_map[backbone]}, or to none (random)"
