"""Heads: from the features of frames to one score for each class.

A head takes features averaged over frequency, with any number of frames. It also scores each frame
by itself (`score_frames`), which shows when a sound is present, and weighs the frames for an
embedding (`weigh_frames`).
"""

from typing import TypeAlias, cast

import torch
from jaxtyping import Bool, Float32
from torch import Tensor, nn

from psla_wds.models.config import Head

# The official code's clamp of attention and of scores; in float32, 1 - 1e-7 is still below 1.
SMALLEST_SCORE = 1e-7

Features: TypeAlias = Float32[Tensor, "batch channels 1 frames"]
ClipScores: TypeAlias = Float32[Tensor, "batch classes"]
FrameScores: TypeAlias = Float32[Tensor, "batch classes frames"]
Reached: TypeAlias = Bool[Tensor, "batch_or_1 frames"]
"""True for frames that begin within the recording."""
FrameWeights: TypeAlias = Float32[Tensor, "batch frames"]


class PoolingHead(nn.Module):
    """Base of all heads."""

    def weigh_frames(self, features: Features, reached: Reached) -> FrameWeights:
        """Weights of the frames in an embedding: they sum to 1, and are 0 where not reached.

        They are equal here; heads with attention override it.
        """
        return mean_weights(features, reached)


class FrameClassifier(PoolingHead):
    """Base of the heads whose clip score is a mean of frame scores."""

    classifier: nn.Conv2d

    def score_frames(self, features: Features) -> FrameScores:
        """The scores that the mean is taken of."""
        return torch.sigmoid(self.classifier(features)).squeeze(2)


class AttentionHead(FrameClassifier):
    """A clip's score is the attention-weighted mean of its frames' scores, for each class.

    In training, a frame matters as far as it has attention.
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        # 1x1 convolutions, not Linear: the published checkpoints then load by renaming alone.
        self.attention = nn.Conv2d(channels, num_classes, kernel_size=1)
        self.classifier = nn.Conv2d(channels, num_classes, kernel_size=1)

    def forward(self, features: Features) -> ClipScores:
        attention = self._attention(features)
        attention = attention / attention.sum(dim=3, keepdim=True)
        return (attention * torch.sigmoid(self.classifier(features))).sum(dim=(2, 3))

    def weigh_frames(self, features: Features, reached: Reached) -> FrameWeights:
        """The attention of each class, normalised over the frames that are reached; its mean over
        all classes."""
        attention = self._attention(features).squeeze(2) * reached[:, None]
        return (attention / attention.sum(dim=2, keepdim=True)).mean(dim=1)

    def _attention(self, features: Features) -> Float32[Tensor, "batch classes 1 frames"]:
        attention = torch.sigmoid(self.attention(features))
        return attention.clamp(SMALLEST_SCORE, 1 - SMALLEST_SCORE)


class MultiHeadAttention(PoolingHead):
    """The sum of several attention heads, with learned weights that need not sum to 1."""

    def __init__(self, channels: int, num_classes: int, num_heads: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(AttentionHead(channels, num_classes) for _ in range(num_heads))
        self.head_weights = nn.Parameter(torch.full((num_heads,), 1 / num_heads))

    def forward(self, features: Features) -> ClipScores:
        scores = torch.stack([head(features) for head in self.heads], dim=-1)
        return (scores * self.head_weights).sum(dim=-1)

    def score_frames(self, features: Features) -> FrameScores:
        """The frame scores of the heads, summed with the heads' weights."""
        scores = torch.stack([head.score_frames(features) for head in self._heads()], dim=-1)
        return (scores * self.head_weights).sum(dim=-1)

    def weigh_frames(self, features: Features, reached: Reached) -> FrameWeights:
        """The mean of the heads' weights of frames."""
        weights = [head.weigh_frames(features, reached) for head in self._heads()]
        return torch.stack(weights).mean(dim=0)

    def _heads(self) -> list[AttentionHead]:
        return cast(list[AttentionHead], list(self.heads))


class MeanPooling(FrameClassifier):
    """A clip's score is the mean of its frames' scores."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.classifier = nn.Conv2d(channels, num_classes, kernel_size=1)

    def forward(self, features: Features) -> ClipScores:
        return torch.sigmoid(self.classifier(features)).mean(dim=(2, 3))


class LinearHead(PoolingHead):
    """A clip's score is the score of its frames' mean features."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, features: Features) -> ClipScores:
        return torch.sigmoid(self.classifier(features.mean(dim=(2, 3))))

    def score_frames(self, features: Features) -> FrameScores:
        """The score that a clip would have if all its frames were like this one."""
        return torch.sigmoid(self.classifier(features.squeeze(2).mT)).mT


def mean_weights(features: Features, reached: Reached) -> FrameWeights:
    """Equal weights of all frames that are reached."""
    return (reached / reached.sum(dim=1, keepdim=True)).expand(len(features), -1)


AnyHead: TypeAlias = AttentionHead | MultiHeadAttention | MeanPooling | LinearHead


def build_head(head: Head, channels: int, num_classes: int, *, num_heads: int) -> AnyHead:
    """The head with random weights, initialised as in the official code.

    Args:
        num_heads: number of heads of multi-head-attention; the other heads ignore it.
    """
    if head == "multi-head-attention":  # this one and the linear keep torch's own initialisation
        return MultiHeadAttention(channels, num_classes, num_heads)
    if head == "linear":
        return LinearHead(channels, num_classes)
    kind: type[AttentionHead] | type[MeanPooling]
    kind = AttentionHead if head == "single-head-attention" else MeanPooling
    return kind(channels, num_classes).apply(_initialise_he_uniform)


def _initialise_he_uniform(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d) and module.bias is not None:
        nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
        nn.init.zeros_(module.bias)


def count_classes(weights: dict[str, Tensor]) -> int | None:
    """Number of classes of the tagger that has these weights; None if they include no head."""
    heads = (t for n, t in weights.items() if n.startswith("head.") and "classifier.bias" in n)
    return next((bias.numel() for bias in heads), None)
