"""Adam and the learning rate of every step, as the paper sets them."""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn

from psla_wds.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Adam. Defaults are the paper's for the full AudioSet."""

    learning_rate: float = 1e-4
    """After warm-up and before decay."""
    betas: tuple[float, float] = (0.95, 0.999)
    """Decay of Adam's running means of the gradient and of its square."""
    weight_decay: float = 5e-7
    """L2: added to the gradient, as in Adam; not decoupled as in AdamW."""
    warmup_steps: int = 1000
    """Steps over which the learning rate rises linearly from the run's start; 0 for none."""
    decay_after_epochs: tuple[int, ...] = (10, 15, 20, 25)
    """The learning rate is multiplied by `decay_factor` after each; epochs count from 1."""
    decay_factor: float = 0.5

    def __post_init__(self) -> None:
        epochs = self.decay_after_epochs
        epochs_rise = all(a < b for a, b in pairwise((0, *epochs)))
        rules = (
            (0 < self.learning_rate < math.inf, "learning_rate", "to a number above 0"),
            (all(0 <= beta < 1 for beta in self.betas), "betas", "to two numbers in [0, 1)"),
            (0 <= self.weight_decay < math.inf, "weight_decay", "to a number of at least 0"),
            (self.warmup_steps >= 0, "warmup_steps", "to at least 0"),
            (epochs_rise, "decay_after_epochs", "to rising epochs from 1, like 10 15 20 25"),
            (0 < self.decay_factor <= 1, "decay_factor", "to a number above 0 and at most 1"),
        )
        for holds, field, good_value in rules:
            if not holds:
                raise ConfigError(
                    f"{field}={getattr(self, field)} is out of range or out of order",
                    where="optimizer",
                    fix=f"set --optimizer.{field.replace('_', '-')} {good_value}",
                )


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Adam:
    """Adam over all parameters, in one fused kernel where they are on a GPU."""
    return torch.optim.Adam(
        model.parameters(),
        lr=config.learning_rate,
        betas=config.betas,
        weight_decay=config.weight_decay,
        fused=all(p.is_cuda for p in model.parameters()) or None,  # None: torch's own choice
    )


def learning_rate(config: OptimizerConfig, *, step: int, epoch: int) -> float:
    """The learning rate of `step` (from 0, over the whole run), which lies in `epoch` (from 1).

    The first step already learns: the official code holds the rate at 0 for its first 50 steps.
    """
    warmup = (step + 1) / config.warmup_steps if step < config.warmup_steps else 1.0
    num_decays = sum(after < epoch for after in config.decay_after_epochs)
    return config.learning_rate * warmup * config.decay_factor**num_decays
