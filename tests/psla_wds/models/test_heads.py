"""Heads against the paper's formulas, worked out by hand."""

from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from psla_wds.models.config import Head
from psla_wds.models.heads import (
    AttentionHead,
    MultiHeadAttention,
    build_head,
    count_classes,
)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def new_head(head: Head, channels: int = 1280, num_classes: int = 50) -> torch.nn.Module:
    return build_head(head, channels, num_classes, num_heads=4)


@torch.no_grad()
def one_head_by_hand(head: AttentionHead, features: torch.Tensor) -> torch.Tensor:
    scores = torch.zeros(len(features), head.attention.out_channels)
    for clip in range(len(features)):
        for k in range(head.attention.out_channels):
            total_attention = weighted_sum = 0.0
            for frame in features[clip, :, 0].T:
                attention, score = (
                    float(torch.sigmoid(conv.weight[k, :, 0, 0] @ frame + conv.bias[k]))
                    for conv in (head.attention, head.classifier)
                )
                attention = min(max(attention, 1e-7), 1 - 1e-7)
                total_attention += attention
                weighted_sum += attention * score
            scores[clip, k] = weighted_sum / total_attention
    return scores


def test_an_attention_head_is_the_papers_formula():
    head, features = AttentionHead(6, 3), torch.randn(2, 6, 1, 4)
    torch.testing.assert_close(head(features).detach(), one_head_by_hand(head, features))


def test_frames_that_attention_rejects_alike_weigh_alike():
    head, features = AttentionHead(6, 3), torch.randn(2, 6, 1, 4)
    torch.nn.init.constant_(head.attention.bias, -1000)
    frame_scores = torch.sigmoid(head.classifier(features))
    torch.testing.assert_close(head(features), frame_scores.mean(dim=(2, 3)))


def test_heads_are_summed_with_unconstrained_weights():
    head, features = MultiHeadAttention(6, 3, num_heads=4), torch.randn(2, 6, 1, 4)
    assert head.head_weights.tolist() == [0.25] * 4
    head.head_weights.data = torch.tensor([3.0, -1.0, 0.5, 2.0])
    by_hand = [one_head_by_hand(one, features) for one in head.heads]
    expected = 3 * by_hand[0] - by_hand[1] + 0.5 * by_hand[2] + 2 * by_hand[3]
    torch.testing.assert_close(head(features), expected)
    assert (head(features) > 1).any()


@given(
    head=st.sampled_from(get_args(Head)),
    width=st.integers(1, 300),
    frames=st.integers(1, 40),
    copies=st.integers(2, 4),
)
def test_order_and_repeats_of_frames_change_nothing(
    head: Head, width: int, frames: int, copies: int
):
    module = new_head(head, channels=width, num_classes=3)
    features = torch.randn(2, width, 1, frames)
    scores = module(features)
    assert scores.shape == (2, 3) and scores.isfinite().all()
    shuffled = features[..., torch.randperm(frames)]
    torch.testing.assert_close(module(shuffled), scores, atol=1e-5, rtol=1e-4)
    repeated = features.repeat(1, 1, 1, copies)
    torch.testing.assert_close(module(repeated), scores, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("head", get_args(Head))
def test_classes_are_counted_from_the_weights_of_a_head(head: Head):
    weights = {f"head.{n}": t for n, t in new_head(head, 8, 7).state_dict().items()}
    assert count_classes(weights) == 7
    assert count_classes({"trunk.classifier.bias": torch.zeros(3)}) is None


@pytest.mark.parametrize(
    ("head", "bound", "has_bias"),
    [
        ("single-head-attention", (6 / 1280) ** 0.5, False),  # He-uniform
        ("mean-pooling", (6 / 1280) ** 0.5, False),
        ("multi-head-attention", 1280**-0.5, True),  # as torch starts a layer
        ("linear", 1280**-0.5, True),
    ],
)
def test_heads_start_as_the_papers(head: Head, bound: float, has_bias: bool):
    layers = [layer for layer in new_head(head).modules() if hasattr(layer, "bias")]
    assert layers
    for layer in layers:
        assert 0.99 * bound < layer.weight.abs().max() <= bound
        assert layer.bias.any() == has_bias


def test_scores_of_frames_make_the_score_of_a_clip():
    features = torch.randn(2, 16, 1, 9)
    single = new_head("single-head-attention", 16, 5)
    attention = torch.sigmoid(single.attention(features)).squeeze(2)
    weighted = (attention * single.score_frames(features)).sum(2) / attention.sum(2)
    torch.testing.assert_close(single(features), weighted)

    several = build_head("multi-head-attention", 16, 5, num_heads=3)
    with torch.no_grad():
        several.head_weights.copy_(torch.tensor([0.2, 0.5, 0.4]))
    frames = [head.score_frames(features) for head in several.heads]
    expected = 0.2 * frames[0] + 0.5 * frames[1] + 0.4 * frames[2]
    torch.testing.assert_close(several.score_frames(features), expected)

    mean = new_head("mean-pooling", 16, 5)
    each = [torch.sigmoid(mean.classifier(features[..., [i]]))[..., 0] for i in range(9)]
    torch.testing.assert_close(mean.score_frames(features), torch.cat(each, dim=2))
    torch.testing.assert_close(mean(features), mean.score_frames(features).mean(2))

    linear = new_head("linear", 16, 5)
    mean_frame = features.mean(3)[..., 0]
    expected = torch.sigmoid(mean_frame @ linear.classifier.weight.T + linear.classifier.bias)
    torch.testing.assert_close(linear(features), expected)
    each = torch.stack([linear(features[..., [i]]) for i in range(9)], dim=2)
    torch.testing.assert_close(linear.score_frames(features), each)
