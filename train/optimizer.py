"""The optimizer and the learning rate of every step; the defaults are the paper's."""

import logging
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from psla_wds.models.backbones import trunk_layers
from train.config import OptimizerConfig

logger = logging.getLogger("train")

OFFICIAL_WARMUP_INTERVAL = 50
"""Steps between two changes of the rate in the official code's warm-up."""

ALGORITHMS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


@dataclass(frozen=True)
class Moment:
    """A step in its run."""

    step: int
    """Step from 0, over the whole run."""
    epoch: int
    """Epoch of the step, from 1."""
    total_steps: int
    """Number of steps of the run."""


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimizer of all parameters, in one fused kernel, which can skip a step on its own."""
    return ALGORITHMS[config.algorithm](
        _groups(model, config),
        lr=config.learning_rate,
        betas=config.betas,
        weight_decay=config.weight_decay,
        fused=True,
    )


def _groups(model: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Weights with the factor of their learning rate: the trunk's from its input on, the head's."""
    if config.trunk_factor == config.layer_decay == 1:
        return [{"params": list(model.parameters()), "factor": 1.0}]
    layers = [list(model.trunk.parameters())]
    factors = [config.trunk_factor]
    if config.layer_decay != 1:
        layers = trunk_layers(model.trunk)
        depths = range(len(layers), 0, -1)
        factors = [config.trunk_factor * config.layer_decay**depth for depth in depths]
    layers, factors = [*layers, list(model.head.parameters())], [*factors, 1.0]
    return [{"params": p, "factor": f} for p, f in zip(layers, factors, strict=True)]


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Go on from the running means in a state; the settings stay those of the optimizer.

    torch compares nothing but the number of weights: a means of another shape is a ValueError here.
    """
    settings = [dict(group) for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, before in zip(optimizer.param_groups, settings, strict=True):
        group.clear()
        group.update(before)
    for group in optimizer.param_groups:
        for weight in group["params"]:
            means = optimizer.state.get(weight, {})
            shapes = {name: tuple(tensor.shape) for name, tensor in means.items()}
            wanted = {"step": (), "exp_avg": weight.shape, "exp_avg_sq": weight.shape}
            if means and shapes != wanted:
                raise ValueError(f"the optimizer has {shapes} for a weight of {weight.shape}")


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its share of the learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


def step_unless(skip: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
    """Do a step, or none if `skip` is true, without asking the device which.

    Only a fused optimizer can; another does the step.
    """
    if all(group["fused"] for group in optimizer.param_groups):
        optimizer.found_inf = skip.float()  # type: ignore[attr-defined]  # as torch's GradScaler
    optimizer.step()


def warn_of_short_run(config: OptimizerConfig, total_steps: int) -> None:
    """Log a warning where a run ends before its learning rate has risen."""
    if config.warmup_steps >= total_steps:
        logger.warning(
            "the run has %d steps, and warms up for %d: it never has the whole learning rate; set "
            "--optimizer.warmup-steps to a tenth of its steps, say",
            total_steps,
            config.warmup_steps,
        )


def learning_rate(config: OptimizerConfig, moment: Moment) -> float:
    return config.learning_rate * _warmup(config, moment.step) * _decay(config, moment)


def _warmup(config: OptimizerConfig, step: int) -> float:
    if config.warmup == "linear":
        return min(1.0, (step + 1) / max(config.warmup_steps, 1))
    changed = step // OFFICIAL_WARMUP_INTERVAL * OFFICIAL_WARMUP_INTERVAL
    return changed / config.warmup_steps if changed < config.warmup_steps else 1.0


def _decay(config: OptimizerConfig, moment: Moment) -> float:
    if config.decay == "steps":
        return config.decay_factor ** sum(e < moment.epoch for e in config.decay_after_epochs)
    decaying = max(moment.total_steps - config.warmup_steps, 1)
    share = min(max(moment.step - config.warmup_steps, 0) / decaying, 1.0)
    return 0.5 * (1 + math.cos(math.pi * share))
