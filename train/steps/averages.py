"""Averages that follow a model as it trains: of its weights, and BatchNorm's running statistics.

Both leave out skipped steps, without waiting for the device to learn which those are.
"""

from copy import deepcopy

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class RunningStatistics:
    """BatchNorm's statistics of a model as one vector: they are many and small."""

    def __init__(self, model: nn.Module) -> None:
        self._buffers = [b for b in model.buffers() if b.is_floating_point() and b.numel()]

    def read(self) -> torch.Tensor:
        """A copy, on the device."""
        if not self._buffers:
            return torch.zeros(0)
        return torch.cat([buffer.flatten() for buffer in self._buffers])

    def restore_where(self, skipped: torch.Tensor, before: torch.Tensor) -> None:
        """Set them back to `before` if `skipped` is true."""
        if not self._buffers:
            return
        kept = torch.where(skipped, before, self.read())
        parts = kept.split([buffer.numel() for buffer in self._buffers])
        for_each = [part.view_as(b) for part, b in zip(parts, self._buffers, strict=True)]
        torch._foreach_copy_(self._buffers, for_each)


class WeightAverage:
    """Exponential moving average of a model: a copy that moves by 1 - decay of the way each step.

    It remembers about 1 / (1 - decay) steps. BatchNorm's running statistics are averaged like the
    weights, so that the copy can be evaluated; its counters, which nothing reads, stay.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = deepcopy(model).requires_grad_(False)
        self._averages = _floats(self.model)
        self._followed = _floats(model)
        self._move = get_ema_multi_avg_fn(decay)

    def update(self, skipped: torch.Tensor) -> None:
        """Move, unless `skipped` is true."""
        pairs = zip(self._averages, self._followed, strict=True)
        self._move(self._averages, [torch.where(skipped, a, w) for a, w in pairs], None)


def _floats(model: nn.Module) -> list[torch.Tensor]:
    """Weights and statistics themselves, not copies: later steps change the tensors returned."""
    return [t for t in model.state_dict().values() if t.is_floating_point()]
