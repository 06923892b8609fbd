"""Clips that BatchNorm normalises over in training: a rank's share, fixed groups, or all.

The official code trains on 4 GPUs with 25 clips each, so it normalises groups of 25.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from psla_wds.errors import ConfigError
from psla_wds.models.config import BatchNormOver

SMALLEST_GROUP = 2
"""Fewest clips that have a variance, however few pixels a map has."""


class GhostBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm over each group of clips by itself (ghost batches: Hoffer et al. 2017).

    Running statistics come from the first group of a batch only, as the official code keeps those
    of its first GPU. So they do not depend on which process computes which group either.
    """

    group: int
    """Number of clips in a group; it divides the batch."""
    has_first_group: bool
    """Whether the batch begins with the first group of a step's global batch."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        first, *others = input.split(self.group)
        parts = [super().forward(first) if self.has_first_group else self._normalised(first)]
        parts += [self._normalised(other) for other in others]
        return torch.cat(parts) if others else parts[0]

    def _normalised(self, clips: Tensor) -> Tensor:
        """Clips normalised by their own statistics, which are not kept."""
        return F.batch_norm(
            clips, None, None, self.weight, self.bias, training=True, momentum=0.0, eps=self.eps
        )


def check_batch_norm(
    over: BatchNormOver, group: int | None, *, clips_per_pass: int, device: torch.device
) -> None:
    """Raise `ConfigError` unless passes of `clips_per_pass` clips can be normalised like this."""
    if over == "batch" and device.type != "cuda":
        raise ConfigError(
            "BatchNorm over the whole batch (SyncBatchNorm) needs GPUs",
            where="--batch-norm batch",
            fix="set --batch-norm groups, which does not depend on the number of processes either",
        )
    if over != "groups":
        return
    if group is None or group < SMALLEST_GROUP:
        raise ConfigError(
            f"BatchNorm over groups needs {SMALLEST_GROUP} clips or more in each, not {group}",
            where="--batch-norm-group",
            fix="set --batch-norm-group 25, the paper's",
        )
    if clips_per_pass % group:
        sizes = [size for size in range(SMALLEST_GROUP, group) if clips_per_pass % size == 0]
        smaller = f"set --batch-norm-group {sizes[-1]}, or " if sizes else ""
        raise ConfigError(
            f"a pass of {clips_per_pass} clips cannot be split into groups of {group}",
            where="--batch-norm-group",
            fix=f"{smaller}choose --batch-size, --accumulate and the number of processes so that "
            f"each process has a multiple of {group} clips in a pass",
        )


def normalise_over(over: BatchNormOver, group: int | None, model: nn.Module) -> nn.Module:
    """The model with another BatchNorm in training; its weights and their names stay the same."""
    if over == "rank":
        return model
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    if not norms or any(type(norm) is not nn.BatchNorm2d for norm in norms):
        found = ", ".join(sorted({type(norm).__name__ for norm in norms})) or "none"
        raise ConfigError(
            f"the network has no plain BatchNorm to change (it has: {found})",
            where="--batch-norm",
            fix="leave --batch-norm out, or choose another --model.backbone",
        )
    if over == "batch":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for norm in norms:
        norm.__class__ = GhostBatchNorm2d  # it only computes in another way
        vars(norm).update(group=group, has_first_group=True)
    return model


def ghost_norms(model: nn.Module) -> list[GhostBatchNorm2d]:
    """Modules of a model whose `has_first_group` must be set before each pass."""
    return [module for module in model.modules() if isinstance(module, GhostBatchNorm2d)]
