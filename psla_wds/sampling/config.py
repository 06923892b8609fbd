"""Settings of the draws. Without numpy, so that a command can list them at once."""

from dataclasses import dataclass
from typing import Annotated, Literal

from psla_wds.config import Within, check_ranges
from psla_wds.errors import ConfigError

Sampling = Literal["balanced", "systematic", "shuffle"]
Crop = Literal["random", "start"]


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """Which clips an epoch draws. Defaults are the paper's for the full AudioSet."""

    sampling: Sampling = "balanced"
    """balanced: with replacement, by the weight of a clip's classes (PSLA III-B).
    systematic: as often on average, and never a whole draw more or less than that.
    shuffle: each clip once."""
    draws_per_epoch: Annotated[int | None, Within(1, 10**8)] = None
    """Draws of a balanced or systematic epoch. Default: as many as there are clips."""

    def __post_init__(self) -> None:
        check_ranges(self, "sampler")
        if self.draws_per_epoch is not None and self.sampling == "shuffle":
            raise ConfigError(
                "a shuffled epoch has each clip once, not a number of draws",
                where="sampler",
                fix="leave out --sampler.draws-per-epoch, or set --sampler.sampling balanced",
            )

    def num_draws(self, num_clips: int) -> int:
        """Draws of an epoch over `num_clips` clips."""
        return self.draws_per_epoch or num_clips

    def steps_per_epoch(self, num_clips: int, batch_size: int) -> int:
        """Whole batches of an epoch; the remaining draws, fewer than a batch, are not used."""
        return self.num_draws(num_clips) // batch_size


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Random changes of a draw. Defaults are the paper's: mixup and masks."""

    mixup_rate: Annotated[float, Within(0, 1)] = 0.5
    """Share of draws that are mixed with a second clip (Table V)."""
    mixup_alpha: Annotated[float, Within(0, 1e6, without=(0,))] = 10.0
    """The mixing weight is drawn from Beta(alpha, alpha) (Table VI)."""
    freq_mask: Annotated[int, Within(0, 4096)] = 48
    """Largest width of the frequency mask in mels. 0: none."""
    time_mask: Annotated[int, Within(0, 1_000_000)] = 192
    """Largest width of the time mask in frames. 0: none."""
    gain_db: Annotated[float, Within(0, 200)] = 0.0
    """Largest change of level in dB, up or down, of a clip and of its partner before they are mixed
    (PaSST, Koutini et al. 2022, trains with a gain too). 0: none."""
    time_roll: Annotated[float, Within(0, 0.5)] = 0.0
    """Largest shift of a clip and of its partner in either direction, as a share of its length; the
    end that is pushed out comes in at the other side (PaSST trains with a roll too). 0: none."""
    crop: Crop = "random"
    """Part of a clip that the model hears if the clip is longer than its window
    (--features.num-frames). random: a part at another place in each draw, and another of its
    partner. start: the first, as in the paper's code, which never hears the remainder."""

    def __post_init__(self) -> None:
        check_ranges(self, "augment")
