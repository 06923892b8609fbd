"""Heads: from the features of frames to one score a class.

All take features of any width, averaged over frequency, with any number of frames. Each also
scores the frames by themselves (`score_frames`), which is what says when a sound is there.
"""

from collections.abc import Iterator
from typing import TypeAlias

import torch
from jaxtyping import Float32
from torch import Tensor, nn

from psla_wds.models.config import Head

# The official code's clamp of attention and of scores; in float32, 1 - 1e-7 is still below 1.
SMALLEST_SCORE = 1e-7


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

    def score_frames(
        self, features: Float32[Tensor, "batch channels 1 frames"]
    ) -> Float32[Tensor, "batch classes frames"]:
        """What the attention weighs. Training saw a frame as far as attention went to it."""
        return torch.sigmoid(self.classifier(features)).squeeze(2)


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

    def score_frames(
        self, features: Float32[Tensor, "batch channels 1 frames"]
    ) -> Float32[Tensor, "batch classes frames"]:
        """What the heads' attentions weigh, summed with the weights of the heads."""
        scores = torch.stack([head.score_frames(features) for head in self._heads()], dim=-1)
        return (scores * self.head_weights).sum(dim=-1)

    def _heads(self) -> Iterator[AttentionHead]:
        return (head for head in self.heads if isinstance(head, AttentionHead))


class MeanPooling(nn.Module):
    """A clip's score is the mean of its frames' scores."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.classifier = nn.Conv2d(channels, num_classes, kernel_size=1)

    def forward(
        self, features: Float32[Tensor, "batch channels 1 frames"]
    ) -> Float32[Tensor, "batch classes"]:
        return torch.sigmoid(self.classifier(features)).mean(dim=(2, 3))

    def score_frames(
        self, features: Float32[Tensor, "batch channels 1 frames"]
    ) -> Float32[Tensor, "batch classes frames"]:
        """What the mean is taken of."""
        return torch.sigmoid(self.classifier(features)).squeeze(2)


class LinearHead(nn.Module):
    """A clip's score is that of the mean of its frames' features."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(channels, num_classes)

    def forward(
        self, features: Float32[Tensor, "batch channels 1 frames"]
    ) -> Float32[Tensor, "batch classes"]:
        return torch.sigmoid(self.classifier(features.mean(dim=(2, 3))))

    def score_frames(
        self, features: Float32[Tensor, "batch channels 1 frames"]
    ) -> Float32[Tensor, "batch classes frames"]:
        """The score that a clip would have if all of it were like this frame."""
        return torch.sigmoid(self.classifier(features.squeeze(2).mT)).mT


AnyHead: TypeAlias = AttentionHead | MultiHeadAttention | MeanPooling | LinearHead


def build_head(head: Head, channels: int, num_classes: int, *, num_heads: int) -> AnyHead:
    """The head with the weights that the official code gives it.

    Args:
        num_heads: of multi-head-attention; the others have no use for it.
    """
    if head == "multi-head-attention":  # this one and the linear keep torch's own initialisation
        return MultiHeadAttention(channels, num_classes, num_heads)
    if head == "linear":
        return LinearHead(channels, num_classes)
    single: AttentionHead | MeanPooling = (
        AttentionHead(channels, num_classes)
        if head == "single-head-attention"
        else MeanPooling(channels, num_classes)
    )
    return single.apply(_initialise_he_uniform)


def count_classes(weights: dict[str, Tensor]) -> int | None:
    """The classes of a tagger with these weights; None if they hold no head."""
    heads = (t for n, t in weights.items() if n.startswith("head.") and "classifier.bias" in n)
    return next((bias.numel() for bias in heads), None)


def _initialise_he_uniform(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d) and module.bias is not None:
        nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
        nn.init.zeros_(module.bias)
