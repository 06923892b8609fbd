"""Variants of a recipe: what the paper changes from row to row of its tables."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal

from psla_wds.models.config import NUM_HEADS, Head
from train.config import TrainConfig, value_of


@dataclass(frozen=True)
class Change:
    """Settings that go together, by their dotted names."""

    name: str
    settings: Mapping[str, Any]
    """Values, or functions from the base's value to the new one."""

    def of(self, config: TrainConfig) -> TrainConfig:
        """The configuration with the change."""
        for name, value in self.settings.items():
            new = value(value_of(config, name)) if callable(value) else value
            config = _with_setting(config, name.split("."), new)
        return config


@dataclass(frozen=True)
class Enhancement:
    """Labels that are added before training (PSLA III-D), by a teacher's scores."""

    type: Literal["I", "II", "both"] = "both"
    threshold: str = "mean"
    """mean, or a percentile."""

    @property
    def name(self) -> str:
        return f"{self.type}-{self.threshold}"


@dataclass(frozen=True)
class Variant:
    """The paper's method, changed; without changes it is the recipe as it stands."""

    changes: tuple[Change, ...] = ()
    """In order: a later one wins."""
    labels: Enhancement | None = None
    """None for the labels as they were annotated."""

    def but(self, *changes: Change) -> "Variant":
        return replace(self, changes=self.changes + changes)

    def enhanced(self, labels: Enhancement | None) -> "Variant":
        return replace(self, labels=labels)

    def config(self, base: TrainConfig) -> TrainConfig:
        """The base with the changes, labels apart."""
        for change in self.changes:
            base = change.of(base)
        return base

    def name(self, base: TrainConfig) -> str:
        """Of what differs from the base; variants that do the same have one name."""
        names = [change.name for change in self.changes if change.of(base) != base]
        names += [f"labels-{self.labels.name}"] if self.labels else []
        return "-".join(names) or "recipe"


def _with_setting(config: Any, path: list[str], value: Any) -> Any:
    """A configuration in which the setting at `path` has another value."""
    first, *rest = path
    return replace(
        config, **{first: _with_setting(getattr(config, first), rest, value) if rest else value}
    )


def settings_of(config: Any, prefix: str = "") -> dict[str, Any]:
    """Every setting of a configuration, by its dotted name."""
    found: dict[str, Any] = {}
    for part in fields(config):
        value = getattr(config, part.name)
        if is_dataclass(value):
            found |= settings_of(value, f"{prefix}{part.name}.")
        else:
            found[prefix + part.name] = value
    return found


def flags(config: TrainConfig, base: TrainConfig) -> tuple[str, ...]:
    """The options of train/main.py that make `config` out of `base`."""
    before, words = settings_of(base), []
    for name, value in settings_of(config).items():
        if value != before[name]:
            values = value if isinstance(value, tuple) else (value,)
            words += [f"--{name.replace('_', '-')}", *map(str, values)]
    return tuple(words)


NO_PRETRAINING = Change("no-pretraining", {"model.initial_weights": "none"})
NO_SAMPLING = Change(
    "no-sampling", {"sampler.sampling": "shuffle", "sampler.draws_per_epoch": None}
)
NO_MASKING = Change("no-masking", {"augment.freq_mask": 0, "augment.time_mask": 0})
NO_MIXUP = Change("no-mixup", {"augment.mixup_rate": 0.0})

MEAN = Enhancement()
"""What the paper trains on: both types, the mean score as the threshold."""


def mixup_rate(rate: float) -> Change:
    """Share of draws that are mixed (PSLA table V)."""
    return Change(f"mixup-rate-{rate:g}", {"augment.mixup_rate": rate})


def mixup_alpha(alpha: float) -> Change:
    """The weight of mixing is drawn from Beta(alpha, alpha) (PSLA table VI)."""
    return Change(f"mixup-alpha-{alpha:g}", {"augment.mixup_alpha": alpha})


def longer(times: int) -> Change:
    """So many times the epochs."""
    return Change(f"epochs-times-{times}", {"epochs": lambda epochs: times * epochs})


def subset(clips: int) -> Change:
    """So many of the clips, with the paper's schedule for a set of that size (PSLA figure 3)."""
    return Change(
        f"subset-{clips}", {"subset": clips, "optimizer.decay_after_epochs": milestones(clips)}
    )


def milestones(clips: int) -> tuple[int, ...]:
    """Epochs after which the rate halves in 30 epochs on so many clips of AudioSet.

    The paper does not tell them: they stand in the training script of the official code.
    """
    first = 10 if clips > 200_000 else 15 if clips > 150_000 else 20
    return tuple(range(first, 30, 5))


def network(backbone: str, head: Head) -> Change:
    """Another network (PSLA table XIII)."""
    settings: dict[str, Any] = {
        "model.backbone": backbone,
        "model.head": head,
        "model.num_heads": NUM_HEADS,
    }
    if not backbone.startswith("efficientnet"):
        settings["model.drop_connect_rate"] = None  # of which the others have none
    return Change(f"{backbone}-{head}", settings)
