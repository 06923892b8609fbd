"""Settings that are read only with certain others: given in vain, they are refused."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any

from psla_wds.errors import ConfigError
from psla_wds.models.initial_weights import IMAGENET, RANDOM
from train.recipes import TrainConfig


@dataclass(frozen=True)
class ReadWith:
    """`setting` has an effect only where `holds` is true of the value of `other`."""

    setting: str
    other: str
    holds: Callable[[Any], bool]


def _is_path(source: str) -> bool:
    return source not in (IMAGENET, RANDOM)


RULES = (
    ReadWith("distill_weight", "distill", lambda folder: folder is not None),
    ReadWith("subset_seed", "subset", lambda subset: subset is not None),
    ReadWith("batch_norm_group", "batch_norm", lambda over: over == "groups"),
    ReadWith("other_features", "model.initial_weights", _is_path),
    ReadWith("model.initial_sha256", "model.initial_weights", _is_path),
    ReadWith("augment.mixup_alpha", "augment.mixup_rate", lambda rate: rate > 0),
    ReadWith("optimizer.layer_decay", "optimizer.trunk_factor", lambda factor: factor > 0),
    ReadWith("optimizer.warmup", "optimizer.warmup_steps", lambda steps: steps > 0),
    ReadWith("optimizer.decay_after_epochs", "optimizer.decay", lambda decay: decay == "steps"),
    ReadWith("optimizer.decay_factor", "optimizer.decay", lambda decay: decay == "steps"),
    ReadWith("optimizer.decay_factor", "optimizer.decay_after_epochs", bool),
)


def check_all_read(config: TrainConfig, recipe: TrainConfig) -> None:
    """Raise if a setting differs from the recipe's and nothing reads it.

    What stands in the recipe itself is no mistake: its steps of decay, say, under another decay.
    """
    for rule in RULES:
        given, other = value_of(config, rule.setting), value_of(config, rule.other)
        if given != value_of(recipe, rule.setting) and not rule.holds(other):
            raise ConfigError(
                f"{rule.setting} is not read where {rule.other} is {other}",
                where=_flag(rule.setting),
                fix=f"leave it out, or set another {_flag(rule.other)}",
            )


def value_of(config: TrainConfig, setting: str) -> Any:
    """The value of a setting by its dotted name."""
    return reduce(getattr, setting.split("."), config)


def _flag(setting: str) -> str:
    return "--" + setting.replace("_", "-")
