"""The audio tagger: a backbone over a log-mel spectrogram, attention pooling over time.

The paper's model (PSLA, section II) as the official code builds it: with `ModelConfig()` and 527
classes it has 13,640,766 parameters, the 13.64M of the paper's table II.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor, nn

from psla_wds.errors import ConfigError
from psla_wds.models.backbones import build_trunk, check_backbone
from psla_wds.models.heads import NUM_HEADS, SMALLEST_SCORE, Head, build_head
from psla_wds.models.initial_weights import IMAGENET, RANDOM, load_initial_weights
from psla_wds.models.precision import Precision, autocast

SMALLEST_IMAGE = 32
"""Frames and mels that give a map at all: the backbones' stride, and some round down."""
MOST_HEADS = 64  # a configuration can ask for any number, and each takes memory


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network. Defaults are the paper's: EfficientNet-B2 with four attention heads."""

    backbone: str = "efficientnet-b2"
    """efficientnet-b0 (4.0M parameters without its head) to efficientnet-b7 (63.8M), resnet-50,
    mobilenet-v2, or timm/NAME: any network of the package timm that gives a feature map."""
    head: Head = "multi-head-attention"
    """How the scores of frames become a clip's; mean-pooling weighs all frames alike, linear
    scores the mean of their features (the paper's for MobileNetV2)."""
    num_heads: int = NUM_HEADS
    """Heads of multi-head-attention."""
    drop_connect_rate: float | None = None
    """Stochastic depth: chance to skip a block for a clip in training; rises from 0 at the first
    block to nearly this at the last. None: the network's own (EfficientNet 0.2, others none)."""
    batch_norm_momentum: float | None = None
    """Weight of a batch in BatchNorm's running statistics, which evaluation uses. None: the
    network's own (EfficientNet 0.01, torchvision's 0.1). Runs of a few hundred steps want 0.1."""
    initial_weights: str = IMAGENET
    """imagenet (downloaded once, into the cache of torch's hub or of timm), none (random), or a
    local path: a file of ImageNet weights as their library publishes them; or a trained tagger (a
    run's folder, a checkpoint, an average, a folder by eval.export, or a checkpoint of the paper's
    authors), whose trunk is kept, and whose head as well if its classes are those of the shards."""
    initial_sha256: str | None = None
    """Of the file that `initial_weights` names, which must have it. A run writes it to its
    config.json, so that what is made again from there starts from the same weights."""

    def __post_init__(self) -> None:
        check_backbone(self.backbone)
        rate, momentum = self.drop_connect_rate, self.batch_norm_momentum
        if not 1 <= self.num_heads <= MOST_HEADS:
            raise ConfigError(
                f"num_heads={self.num_heads} leaves nothing to give scores, or no memory",
                where="model",
                fix=f"set --model.num-heads from 1 to {MOST_HEADS}, or choose another --model.head",
            )
        if self.num_heads != NUM_HEADS and self.head != "multi-head-attention":
            raise ConfigError(
                f"num_heads={self.num_heads} means nothing to the head {self.head}",
                where="model",
                fix="set --model.head multi-head-attention, or leave --model.num-heads out",
            )
        if rate is not None and not 0 <= rate < 1:
            raise ConfigError(
                f"drop_connect_rate={rate} is no chance from 0 to below 1",
                where="model",
                fix="set --model.drop-connect-rate 0.2, or 0 for none",
            )
        if momentum is not None and not 0 < momentum <= 1:
            raise ConfigError(
                f"batch_norm_momentum={momentum} is no weight above 0, up to 1",
                where="model",
                fix="set --model.batch-norm-momentum 0.01",
            )


class AudioTagger(nn.Module):
    """Log-mel to one score a class. Weights are random: `build_model` gives the initial ones."""

    def __init__(self, config: ModelConfig, num_classes: int) -> None:
        super().__init__()
        self.trunk, channels = build_trunk(
            config.backbone,
            drop_connect_rate=config.drop_connect_rate,
            batch_norm_momentum=config.batch_norm_momentum,
        )
        self.head = build_head(config.head, channels, num_classes, num_heads=config.num_heads)
        self.precision: Precision = "float32"

    def forward(
        self, log_mel: Float[Tensor, "batch frames mels"]
    ) -> Float32[Tensor, "batch classes"]:
        """Scores, near [0, 1]: the weights of several heads are free to leave it."""
        features = self.trunk(self._image(log_mel))
        # Half precision rounds the clamp's 1 - 1e-7 to 1, so everything from here is float32.
        with torch.autocast(log_mel.device.type, enabled=False):
            return self.head(_without_mels(features))

    def score_frames(
        self, log_mel: Float[Tensor, "batch frames mels"]
    ) -> tuple[Float32[Tensor, "batch classes"], Float32[Tensor, "batch classes columns"]]:
        """The scores, and those of the columns of the trunk's map (`heads.py` says which): frames
        again, but as many times longer as the trunk's stride. The trunk has `self.precision`.
        """
        with autocast(self.precision, log_mel.device):
            features = self.trunk(self._image(log_mel))
        features = _without_mels(features)
        return self.head(features), self.head.score_frames(features)

    def _image(
        self, log_mel: Float[Tensor, "batch frames mels"]
    ) -> Float[Tensor, "batch 1 mels frames"]:
        if min(log_mel.shape[1:]) < SMALLEST_IMAGE:
            raise ConfigError(
                f"{log_mel.shape[1]} frames of {log_mel.shape[2]} mels are too few for a backbone",
                where="features",
                fix=f"set --features.num-frames and num-mels to {SMALLEST_IMAGE} or more",
            )
        return log_mel.transpose(1, 2).unsqueeze(1)


def _without_mels(
    features: Float[Tensor, "batch channels rows columns"],
) -> Float32[Tensor, "batch channels 1 columns"]:
    """The trunk's map (its stride is 32 in the paper's) averaged over frequency."""
    return features.float().mean(dim=2, keepdim=True)


def build_model(config: ModelConfig, num_classes: int) -> AudioTagger:
    """The tagger with random weights, or with ImageNet's in its trunk; `fine_tuning.first_tagger`
    starts from a trained one as well."""
    model = AudioTagger(config, num_classes)
    if config.initial_weights != RANDOM:
        load_initial_weights(model, config.backbone, config.initial_weights)
    return model


def clamp_scores(scores: Float[Tensor, "*shape"]) -> Float32[Tensor, "*shape"]:
    """`scores` in (0, 1) for the loss. A clamped score gets no gradient, as in the official code.

    Saved scores stay unclamped, since a clamp would tie the most certain clips.
    """
    return scores.float().clamp(SMALLEST_SCORE, 1 - SMALLEST_SCORE)


def loss(
    scores: Float[Tensor, "batch classes"], targets: Float[Tensor, "batch classes"]
) -> Float32[Tensor, ""]:
    """Mean binary cross-entropy over clips and classes; a mixed clip has targets within [0, 1].

    NaN where a score is NaN, of which torch's own would end the process.
    """
    # The head gives scores, not logits (PSLA II-C); on a GPU, autocast refuses this entropy.
    with torch.autocast(scores.device.type, enabled=False):
        clamped = clamp_scores(scores)
        entropy = F.binary_cross_entropy(clamped.nan_to_num(), targets.float())
        return torch.where(clamped.isnan().any(), torch.nan, entropy)
