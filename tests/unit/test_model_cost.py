"""The counts of a network's cost against numbers worked out by hand."""

import pytest
import torch
from torch import nn

from benchmarks.model_cost import Traffic, _flop_counter, cost


@pytest.mark.parametrize(
    ("groups", "multiplications"), [(1, 8 * 8 * 9), (8, 8 * 9)], ids=["dense", "depthwise"]
)
def test_operations_of_a_convolution_and_its_gradients(groups: int, multiplications: int):
    conv = nn.Conv2d(8, 8, 3, padding=1, groups=groups, bias=False)
    image = torch.randn(2, 8, 5, 7, requires_grad=True)
    forward = 2 * multiplications * 2 * 5 * 7
    with _flop_counter() as flops:
        output = conv(image)
        assert flops.get_total_flops() == forward
        output.sum().backward()
    assert flops.get_total_flops() == 3 * forward
    with _flop_counter() as flops:  # the first layer of a network has no gradient of its input
        conv(image.detach()).sum().backward()
    assert flops.get_total_flops() == 2 * forward


def test_bytes_are_what_operations_read_and_write_and_views_are_free():
    image, weight = torch.zeros(2, 3, 4, 4), torch.zeros(5, 3, 1, 1)
    with Traffic() as traffic:
        output = torch.conv2d(image.transpose(2, 3), weight)
        output.relu_().view(-1)
    read, written = 4 * (image.numel() + weight.numel()), 4 * 2 * 5 * 16
    assert traffic.fused == read + written
    assert traffic.moved == read + 3 * written  # relu_ reads and writes what the product wrote


def test_costs_are_of_the_papers_network():
    counted = cost("efficientnet-b0", "single-head-attention", batch_size=2)
    assert counted.parameters == 5_357_146
    # The EfficientNet paper: 0.39G multiplications and additions at 224x224, its classifier's 1.3M
    # among them; three channels in its stem (10.8M), here one.
    pixels = 1056 * 128 / (224 * 224)
    assert counted.forward_gflop == pytest.approx(2 * (0.39 - 0.0108 * 2 / 3) * pixels, rel=0.05)
    assert 2.9 * counted.forward_gflop < counted.training_gflop < 3 * counted.forward_gflop
    # What is kept is written once and read once, and each of some four operations a layer adds to
    # it; what writes nothing, such as asking for a device, must not count.
    assert 2 * counted.saved_mib < counted.fused_mib < counted.moved_mib < 9 * counted.saved_mib
