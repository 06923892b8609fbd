"""Backbones: the networks whose feature maps a head scores.

The paper's come from efficientnet_pytorch and torchvision; any of timm's that gives a map works as
well. Tensors keep the names that their library publishes them under.
"""

import re
from collections import OrderedDict
from itertools import groupby

import torch
from efficientnet_pytorch import EfficientNet
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from psla_wds.errors import ConfigError
from psla_wds.models.config import EFFICIENTNETS, TIMM, timm, torchvision_models

PROBED_FRAMES = (256, 512)
"""Lengths of inputs that show a trunk's stride; both are many times the stride."""

BLOCK = re.compile(r"^(?:_blocks|layer\d|features)\.\d+")
"""Beginning of names in a block, in networks of efficientnet_pytorch and torchvision."""


def build_trunk(
    name: str, *, drop_connect_rate: float | None, batch_norm_momentum: float | None
) -> tuple[nn.Module, int]:
    """A backbone with random weights, and its number of features.

    It takes images (batch, 1, mels, frames) and gives maps (batch, features, rows, columns), where
    rows and columns are mels and frames divided by its stride. None means the library's default.
    Raises `ConfigError` for a setting that the backbone does not have.
    """
    if name.startswith(TIMM):
        trunk, channels = _timm(name, drop_connect_rate)
    elif name in EFFICIENTNETS:
        trunk, channels = _efficientnet(name, drop_connect_rate)
    else:
        trunk, channels = _torchvision(name, drop_connect_rate)
    if batch_norm_momentum is not None:
        norms = [module for module in trunk.modules() if isinstance(module, _BatchNorm)]
        if not norms:
            raise ConfigError(
                f"{name} has no BatchNorm",
                where="model",
                fix="set --model.batch-norm-momentum None",
            )
        for norm in norms:
            norm.momentum = batch_norm_momentum
    return trunk, channels


def trunk_layers(trunk: nn.Module) -> list[list[nn.Parameter]]:
    """The weights of a trunk by layers, from its input on: the stem, each block, and what follows
    the blocks. For timm's networks the layers are timm's own, which it has for nearly all."""
    matcher = getattr(trunk, "group_matcher", None)
    if matcher is not None:
        blocks = matcher(coarse=False)
        return [*timm().models.group_parameters(trunk, blocks, return_values=True).values()]
    by_block = groupby(trunk.named_parameters(), key=lambda named: BLOCK.findall(named[0]))
    layers = [[weight for _, weight in layer] for _, layer in by_block]
    if len(layers) == 1:
        raise ConfigError(
            "the layers of this network are not known",
            where="optimizer",
            fix="leave --optimizer.layer-decay out, or choose another --model.backbone",
        )
    return layers


def _efficientnet(name: str, drop_connect_rate: float | None) -> tuple[nn.Module, int]:
    settings = {} if drop_connect_rate is None else {"drop_connect_rate": drop_connect_rate}
    # `include_top=False`: the ImageNet classifier would be 1.4M parameters that nothing uses.
    # For any input, the padding is that of the backbone's ImageNet size (260x260 for b2): the
    # published checkpoints, ImageNet's and the paper's, were trained with it.
    trunk = EfficientNet.from_name(name, in_channels=1, include_top=False, **settings)
    trunk._avg_pooling = nn.Identity()
    # nn.SiLU instead of the package's memory-efficient swish, which is older: SiLU keeps the same
    # bytes for backward, is one kernel, and exports without a custom autograd function.
    trunk.set_swish(memory_efficient=False)
    return trunk, trunk._conv_head.out_channels


def _torchvision(name: str, drop_connect_rate: float | None) -> tuple[nn.Module, int]:
    if drop_connect_rate:
        raise _without_drop_connect(name)
    models = torchvision_models()
    # One channel in the stem, with torch's own random weights, as in the official code.
    if name == "mobilenet-v2":
        features = models.mobilenet_v2().features
        features[0][0] = nn.Conv2d(1, 32, kernel_size=3, stride=2, padding=1, bias=False)
        return nn.Sequential(OrderedDict(features=features)), features[-1].out_channels
    resnet = models.resnet50()
    resnet.conv1 = nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
    channels = resnet.fc.in_features
    del resnet.avgpool, resnet.fc
    return nn.Sequential(OrderedDict(resnet.named_children())), channels


def _timm(name: str, drop_connect_rate: float | None) -> tuple[nn.Module, int]:
    settings = {"drop_path_rate": drop_connect_rate} if drop_connect_rate else {}
    try:
        trunk = timm().create_model(
            name.removeprefix(TIMM), in_chans=1, num_classes=0, global_pool="", **settings
        )
        channels = _num_features(trunk)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        if "drop_path_rate" in str(error):
            raise _without_drop_connect(name) from None
        reason = f"{type(error).__name__}: {error}".splitlines()[0]  # some have no message
        raise ConfigError(
            f"{name} gives no feature map of a spectrogram: {reason}",
            where="model",
            fix="choose a convolutional --model.backbone, such as timm/convnext_atto",
        ) from None
    if (
        drop_connect_rate == 0
    ):  # some of timm's networks have another default, and some take no rate
        from timm.layers import DropPath

        for module in trunk.modules():
            if isinstance(module, DropPath):
                module.drop_prob = 0.0
    return trunk, channels


def _num_features(trunk: nn.Module) -> int:
    """Channels of the map, found by a forward pass: timm has several numbers, and no layout."""
    trunk.eval()
    with torch.no_grad():
        short, long = (trunk(torch.zeros(1, 1, 128, frames)).shape for frames in PROBED_FRAMES)
    trunk.train()
    if len(short) != 4 or not short[3] < long[3]:
        raise ValueError(f"its output for {PROBED_FRAMES[0]} frames is {tuple(short)}")
    return short[1]


def _without_drop_connect(name: str) -> ConfigError:
    return ConfigError(
        f"{name} has no drop-connect", where="model", fix="set --model.drop-connect-rate None"
    )
