"""The optimizer, and the learning rate of every step."""

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
    """Number of the step from 0, over the whole run."""
    epoch: int
    """Number of its epoch from 1."""
    total_steps: int


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimizer of all parameters: one fused kernel, which can skip a step by itself."""
    return ALGORITHMS[config.algorithm](
        _groups(model, config),
        lr=config.learning_rate,
        betas=config.betas,
        weight_decay=config.weight_decay,
        fused=True,
    )


def _groups(model: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Weights with their factor on the learning rate: the trunk from its input on, the head."""
    if config.trunk_factor == config.layer_decay == 1:
        return [{"params": list(model.parameters()), "factor": 1.0}]
    layers, factors = [list(model.trunk.parameters())], [config.trunk_factor]
    if config.layer_decay != 1:
        layers = trunk_layers(model.trunk)
        depths = range(len(layers), 0, -1)
        factors = [config.trunk_factor * config.layer_decay**depth for depth in depths]
    layers, factors = [*layers, list(model.head.parameters())], [*factors, 1.0]
    return [{"params": p, "factor": f} for p, f in zip(layers, factors, strict=True)]


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load Adam's moments from a state; the settings stay those of the optimizer.

    torch compares only the number of weights; here moments of the wrong shape raise `ValueError`.
    """
    settings = [dict(group) for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, before in zip(optimizer.param_groups, settings, strict=True):
        group.clear()
        group.update(before)
    for group in optimizer.param_groups:
        for weight in group["params"]:
            moments = optimizer.state.get(weight, {})
            shapes = {name: tuple(tensor.shape) for name, tensor in moments.items()}
            wanted = {"step": (), "exp_avg": weight.shape, "exp_avg_sq": weight.shape}
            if moments and shapes != wanted:
                raise ValueError(f"the optimizer has {shapes} for a weight of {weight.shape}")


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its share of the learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


def step_unless(skip: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
    """Do a step unless `skip` is true, without waiting for the device.

    Only a fused optimizer can skip; any other does the step.
    """
    if all(group["fused"] for group in optimizer.param_groups):
        optimizer.found_inf = skip.float()  # type: ignore[attr-defined]  # as torch's GradScaler
    optimizer.step()


def warn_of_short_run(config: OptimizerConfig, total_steps: int) -> None:
    """Warn if a run ends before its learning rate has risen."""
    if config.warmup_steps >= total_steps:
        logger.warning(
            "the run has %d steps, and warms up for %d: it never reaches the full learning rate; "
            "set --optimizer.warmup-steps to a tenth of its steps, for example",
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
