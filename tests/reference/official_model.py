"""The taggers of the paper's official code, stated anew: their module tree, whose names are those
of the published checkpoints, and what they compute, by other means than ours.

Facts from src/models/Models.py and HigherModels.py of the official repository.
"""

from pathlib import Path

import torch
import torchvision
from efficientnet_pytorch import EfficientNet
from torch import Tensor, nn


class Pooling(nn.Module):
    """Weights under `att` and `cla`: lists of convolutions for several heads, else one each."""

    def __init__(self, width: int, num_classes: int, num_heads: int) -> None:
        super().__init__()
        if num_heads > 1:
            self.att = nn.ModuleList(nn.Conv2d(width, num_classes, 1) for _ in range(num_heads))
            self.cla = nn.ModuleList(nn.Conv2d(width, num_classes, 1) for _ in range(num_heads))
            self.head_weight = nn.Parameter(torch.randn(num_heads))
        else:
            if num_heads == 1:
                self.att = nn.Conv2d(width, num_classes, 1)
            self.cla = nn.Conv2d(width, num_classes, 1)

    def forward(self, frames: Tensor) -> Tensor:
        """Scores (batch, classes) of frames (batch, columns, width)."""
        if hasattr(self, "head_weight"):
            heads = zip(self.att, self.cla, self.head_weight, strict=True)
            return sum(weight * attended(frames, att, cla) for att, cla, weight in heads)
        if hasattr(self, "att"):
            return attended(frames, self.att, self.cla)
        return torch.sigmoid(linear(frames, self.cla)).mean(dim=1)


def linear(frames: Tensor, conv: nn.Conv2d) -> Tensor:
    return torch.einsum("btw,kw->btk", frames, conv.weight[:, :, 0, 0]) + conv.bias


def attended(frames: Tensor, att: nn.Conv2d, cla: nn.Conv2d) -> Tensor:
    weights = linear(frames, att).sigmoid().clip(1e-7, 1 - 1e-7)
    return torch.einsum("btk,btk->bk", weights, linear(frames, cla).sigmoid()) / weights.sum(1)


class OfficialEfficientNet(nn.Module):
    """0 heads: mean pooling. The published files hold the ImageNet classifier `effnet._fc` too."""

    def __init__(self, size: int, num_classes: int, num_heads: int) -> None:
        super().__init__()
        self.effnet = EfficientNet.from_name(f"efficientnet-b{size}", in_channels=1)
        self.attention = Pooling(self.effnet._fc.in_features, num_classes, num_heads)

    def forward(self, log_mel: Tensor) -> Tensor:
        columns = self.effnet.extract_features(log_mel.transpose(1, 2)[:, None])
        return self.attention(columns.mean(dim=2).transpose(1, 2))


class OfficialResNet(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.model = torchvision.models.resnet50()
        self.model.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
        self.model.fc, self.model.avgpool = nn.Identity(), nn.Identity()
        self.attention = Pooling(2048, num_classes, num_heads=1)

    def forward(self, log_mel: Tensor) -> Tensor:
        flat = self.model(log_mel.transpose(1, 2)[:, None])
        return self.attention(flat.unflatten(1, (2048, 4, -1)).mean(dim=2).transpose(1, 2))


class OfficialMobileNet(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.model = torchvision.models.mobilenet_v2()
        self.model.features[0][0] = nn.Conv2d(1, 32, 3, stride=2, padding=1, bias=False)
        self.model.classifier = nn.Linear(1280, num_classes)

    def forward(self, log_mel: Tensor) -> Tensor:
        return self.model(log_mel.transpose(1, 2)[:, None]).sigmoid()


def trained(model: nn.Module, log_mel: Tensor) -> nn.Module:
    """The model as if it had been trained on the input: BatchNorm knows it."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.2, 0.2)
        model(log_mel)
    return model.eval()


def publish(model: nn.Module, path: Path) -> Path:
    """Write the model as the official code does: the weights, under DataParallel's prefix."""
    torch.save(nn.DataParallel(model).state_dict(), path)
    return path
