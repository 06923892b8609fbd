"""Trunks that only score, against the same trunks as they are trained."""

import copy

import pytest
import torch
from torch import nn

from psla_wds.models.backbones import build_trunk
from psla_wds.models.inference import simplify


def trained(name: str) -> nn.Module:
    """A trunk whose BatchNorms are not those of the start."""
    torch.manual_seed(0)
    trunk, _ = build_trunk(name, drop_connect_rate=None, batch_norm_momentum=None)
    for norm in trunk.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, std=0.5)
            nn.init.normal_(norm.running_mean, std=0.1)
            nn.init.uniform_(norm.running_var, 0.5, 2.0)
    return trunk.eval()


TIMM = "timm/mobilenetv3_small_050"  # its norms have the activation in them


@pytest.mark.parametrize(
    "name, num_left", [("mobilenet-v2", 0), ("efficientnet-b0", 0), ("resnet-50", 0), (TIMM, 34)]
)
def test_a_simpler_trunk_gives_the_same_map(name: str, num_left: int):
    trunk, images = trained(name).double(), torch.randn(2, 1, 64, 70).double()
    simpler = copy.deepcopy(trunk)
    simplify(simpler)
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in simpler.modules()) == num_left
    with torch.inference_mode():
        expected, found = trunk(images), simpler(images)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


def test_only_what_a_norm_alone_takes_is_folded():
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            return self.norm(y) + y

    class Untraceable(Branches):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(self.conv(x)) if x.sum() > 0 else x

    for trunk in (Branches().eval(), Untraceable().eval()):
        simplify(trunk)
        assert type(trunk.norm) is nn.BatchNorm2d
