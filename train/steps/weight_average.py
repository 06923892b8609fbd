"""The exponential moving average of a model's weights, beside those that are trained."""

from copy import deepcopy

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """A copy of a model that follows it: after each step that is done it moves by 1 - decay of
    the way.

    It remembers about 1 / (1 - decay) steps. BatchNorm's running statistics are averaged as the
    weights are, so that the copy can be evaluated; its counters, which nothing reads, stay.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = deepcopy(model).requires_grad_(False)
        self._averages = _floats(self.model)
        self._followed = _floats(model)
        self._move = get_ema_multi_avg_fn(decay)

    def update(self, skipped: torch.Tensor) -> None:
        """Move, unless the step was skipped, which nobody on the host knows."""
        pairs = zip(self._averages, self._followed, strict=True)
        self._move(self._averages, [torch.where(skipped, a, w) for a, w in pairs], None)


def _floats(model: nn.Module) -> list[torch.Tensor]:
    """Weights and statistics where they lie: later steps change what these refer to."""
    return [t for t in model.state_dict().values() if t.is_floating_point()]
