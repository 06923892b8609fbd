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
from psla_wds.models.config import ModelConfig, Precision
from psla_wds.models.heads import SMALLEST_SCORE, build_head

SMALLEST_IMAGE = 32
"""Frames and mels that give a map: the backbones' stride, since some round down."""
HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class AudioTagger(nn.Module):
    """Log-mel to one score for each class, with random weights."""

    def __init__(self, config: ModelConfig, num_classes: int) -> None:
        super().__init__()
        self.trunk, self.num_features = build_trunk(
            config.backbone,
            drop_connect_rate=config.drop_connect_rate,
            batch_norm_momentum=config.batch_norm_momentum,
        )
        self.head = build_head(
            config.head, self.num_features, num_classes, num_heads=config.num_heads
        )
        self.precision: Precision = "float32"

    def forward(
        self, log_mel: Float[Tensor, "batch frames mels"]
    ) -> Float32[Tensor, "batch classes"]:
        """Scores, near [0, 1]: the weighted sum of several heads can exceed it a little."""
        features = self.trunk(self._image(log_mel))
        # Half precision rounds the clamp's 1 - 1e-7 to 1, so everything from here is float32.
        with torch.autocast(log_mel.device.type, enabled=False):
            return self.head(_without_mels(features))

    def map_columns(
        self, log_mel: Float[Tensor, "batch frames mels"]
    ) -> Float32[Tensor, "batch channels 1 columns"]:
        """The trunk's map, averaged over mels, for the methods of `head`: a column is a frame that
        is longer by the trunk's stride. The trunk computes in `self.precision`."""
        with autocast(self.precision, log_mel.device):
            features = self.trunk(self._image(log_mel))
        return _without_mels(features)

    def _image(
        self, log_mel: Float[Tensor, "batch frames mels"]
    ) -> Float[Tensor, "batch 1 mels frames"]:
        if min(log_mel.shape[1:]) < SMALLEST_IMAGE:
            raise ConfigError(
                f"{log_mel.shape[1]} frames of {log_mel.shape[2]} mels are too few for a backbone",
                where="features",
                fix="set --features.num-frames and --features.num-mels to at least "
                f"{SMALLEST_IMAGE}",
            )
        return log_mel.transpose(1, 2).unsqueeze(1)


def _without_mels(
    features: Float[Tensor, "batch channels rows columns"],
) -> Float32[Tensor, "batch channels 1 columns"]:
    """The trunk's map (its stride is 32 in the paper's) averaged over frequency."""
    return features.float().mean(dim=2, keepdim=True)


def check_precision(precision: Precision, device: torch.device) -> None:
    """Raise `ConfigError` if the device does not compute in this precision."""
    if precision == "float16" and device.type == "cpu":
        raise ConfigError("float16 needs a GPU", where="precision", fix="set --precision bfloat16")


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[None]:
    """A context in which the trunk computes in this precision; the head is always float32."""
    dtype = HALF.get(precision)
    return torch.autocast(device.type, dtype) if dtype else nullcontext()


def clamp_scores(scores: Float[Tensor, "*shape"]) -> Float32[Tensor, "*shape"]:
    """Scores within (0, 1), for the loss; as in the official code, clamped ones get no gradient.

    Saved scores stay unclamped: a clamp would give the most certain clips equal scores.
    """
    return scores.float().clamp(SMALLEST_SCORE, 1 - SMALLEST_SCORE)


def loss(
    scores: Float[Tensor, "batch classes"], targets: Float[Tensor, "batch classes"]
) -> Float32[Tensor, ""]:
    """Mean binary cross-entropy over clips and classes; a mixed clip has targets within [0, 1].

    NaN in, NaN out: torch's own version aborts the process on NaN.
    """
    # The head gives scores, not logits (PSLA II-C); on a GPU, autocast refuses this entropy.
    with torch.autocast(scores.device.type, enabled=False):
        clamped = clamp_scores(scores)
        entropy = F.binary_cross_entropy(clamped.nan_to_num(), targets.float())
        return torch.where(clamped.isnan().any(), torch.nan, entropy)
