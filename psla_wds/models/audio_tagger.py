"""The audio tagger: a backbone over a log-mel spectrogram, attention pooling over time.

The paper's model (PSLA, section II) as the official code builds it: with `ModelConfig()` and 527
classes it has 13,640,766 parameters, the 13.64M of the paper's table II.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor, nn

from psla_wds.errors import ConfigError
from psla_wds.models.backbones import build_trunk
from psla_wds.models.config import RANDOM, ModelConfig, Precision
from psla_wds.models.heads import SMALLEST_SCORE, build_head
from psla_wds.models.initial_weights import load_initial_weights

SMALLEST_IMAGE = 32
"""Frames and mels that give a map at all: the backbones' stride, and some round down."""
HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}


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


def check_precision(precision: Precision, device: torch.device) -> None:
    """Raise `ConfigError` if the device does not compute in this precision."""
    if precision == "float16" and device.type == "cpu":
        raise ConfigError("float16 needs a GPU", where="precision", fix="set --precision bfloat16")


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[None]:
    """The context in which the trunk has this precision; the head is float32 in all."""
    dtype = HALF.get(precision)
    return torch.autocast(device.type, dtype) if dtype else nullcontext()


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
