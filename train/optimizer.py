"""The optimizer and the learning rate of every step; the defaults are the paper's."""

import logging
import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import nn

from psla_wds.errors import ConfigError
from psla_wds.models.backbones import trunk_layers

logger = logging.getLogger("train")

OFFICIAL_WARMUP_INTERVAL = 50
"""Steps between two changes of the rate in the official code's warm-up."""

ALGORITHMS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Adam and its learning rate. Defaults are the paper's for the full AudioSet."""

    algorithm: Literal["adam", "adamw"] = "adam"
    """adam: weight decay is added to the gradient (L2), as in the official code.
    adamw: it shrinks the weights themselves (Loshchilov and Hutter 2019, algorithm 2)."""
    learning_rate: float = 1e-4
    """After warm-up and before decay."""
    trunk_factor: float = 1.0
    """Of the trunk's learning rate; the head has the rate itself. Below 1 for a trunk that is
    trained already; with 0 its weights stay as they are (BatchNorm's statistics do not)."""
    layer_decay: float = 1.0
    """Of the trunk's learning rate from each layer (stem, blocks, last convolution) to the one
    before it, beginning at the head; below 1 the layers near the input change least (Howard and
    Ruder 2018, Bao et al. 2022). 0.9 leaves 0.07 of the rate to the first of EfficientNet-B2's."""
    betas: tuple[float, float] = (0.95, 0.999)
    """Decay of Adam's running means of the gradient and of its square."""
    weight_decay: float = 5e-7
    """The paper's, for adam; adamw wants far more, 0.01 by its own default."""
    warmup_steps: int = 1000
    """Steps over which the learning rate rises from the run's start; 0 for none."""
    warmup: Literal["linear", "stepped"] = "linear"
    """linear: every step has a higher rate than the one before. stepped: as the official code,
    changed every 50 steps, so that the first 50 have a rate of 0."""
    decay: Literal["steps", "cosine"] = "steps"
    """steps: times `decay_factor` after some epochs (PSLA IV-B). cosine: half a cosine from the
    end of warm-up to 0 at the end of the run (Loshchilov and Hutter 2017, equation 5)."""
    decay_after_epochs: tuple[int, ...] = (10, 15, 20, 25)
    """The learning rate is multiplied by `decay_factor` after each; epochs count from 1."""
    decay_factor: float = 0.5

    def __post_init__(self) -> None:
        epochs = self.decay_after_epochs
        epochs_rise = all(a < b for a, b in pairwise((0, *epochs)))
        rules = (
            (0 < self.learning_rate < math.inf, "learning_rate", "to a number above 0"),
            (0 <= self.trunk_factor <= 1, "trunk_factor", "to a number from 0 to 1"),
            (0 < self.layer_decay <= 1, "layer_decay", "to a number above 0 and at most 1"),
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


@dataclass(frozen=True)
class Moment:
    """A step in its run."""

    step: int
    """From 0, over the whole run."""
    epoch: int
    """That the step lies in, from 1."""
    total_steps: int
    """Of the run."""


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
