"""BatchNorm's running statistics, kept as they were where a step is skipped."""

import torch
from torch import nn


class RunningStatistics:
    """Those of a model, read and written as one vector, since they are many and small."""

    def __init__(self, model: nn.Module) -> None:
        self._buffers = [b for b in model.buffers() if b.is_floating_point() and b.numel()]

    def read(self) -> torch.Tensor:
        """A copy, on the device."""
        if not self._buffers:
            return torch.zeros(0)
        return torch.cat([buffer.flatten() for buffer in self._buffers])

    def restore_where(self, skipped: torch.Tensor, before: torch.Tensor) -> None:
        """Make them `before` again if `skipped` is true, which nobody on the host knows."""
        if not self._buffers:
            return
        kept = torch.where(skipped, before, self.read())
        parts = kept.split([buffer.numel() for buffer in self._buffers])
        for_each = [part.view_as(b) for part, b in zip(parts, self._buffers, strict=True)]
        torch._foreach_copy_(self._buffers, for_each)
