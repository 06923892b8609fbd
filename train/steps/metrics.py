"""Loss and gradient of the steps: numbers that stay on the device until they are read."""

import math
from dataclasses import dataclass, fields

import torch

MOST_UNREAD = 256
"""Steps whose numbers the device holds before they must be read."""


@dataclass(frozen=True)
class Measured:
    """A step that was done or skipped."""

    step: int
    """Number of the step from 1, over the whole run."""
    loss: float
    """Loss over the global batch."""
    gradient_norm: float
    """Norm of all gradients before the step; not finite if one of them is not."""
    is_bad: bool
    """Whether it was skipped, since its loss or gradient was not finite."""


class Measures:
    """The numbers of the last steps; reading them waits for the GPU, adding them does not."""

    def __init__(self, device: torch.device) -> None:
        self._rows = torch.zeros(MOST_UNREAD, 3, dtype=torch.float64, device=device)
        self._steps: list[int] = []

    @property
    def is_full(self) -> bool:
        return len(self._steps) == MOST_UNREAD

    def add(
        self, step: int, loss: torch.Tensor, gradient_norm: torch.Tensor, is_bad: torch.Tensor
    ) -> None:
        numbers = [number.double() for number in (loss, gradient_norm, is_bad)]
        self._rows[len(self._steps)] = torch.stack(numbers)
        self._steps.append(step)

    def read(self) -> list[Measured]:
        """The steps since the last read."""
        steps, self._steps = self._steps, []
        rows = self._rows[: len(steps)].tolist()
        return [
            Measured(step, loss, norm, bool(is_bad))
            for step, (loss, norm, is_bad) in zip(steps, rows, strict=True)
        ]


@dataclass
class Means:
    """Sums over good steps since their means were last taken, and the largest gradient."""

    loss: float = 0.0
    num_losses: int = 0
    gradient_norm: float = 0.0
    num_gradients: int = 0
    largest: float = 0.0

    def add(self, measured: Measured) -> None:
        self.loss += measured.loss
        self.num_losses += 1
        if math.isfinite(measured.gradient_norm):  # in float16 a step can be good without this
            self.gradient_norm += measured.gradient_norm
            self.num_gradients += 1
            self.largest = max(self.largest, measured.gradient_norm)

    @property
    def mean_loss(self) -> float:
        """NaN without steps."""
        return self.loss / self.num_losses if self.num_losses else math.nan

    def take(self) -> dict[str, float]:
        """The means, or NaN without steps; counting starts again."""
        means = {
            "loss": self.mean_loss,
            "gradient_norm": self.gradient_norm / max(self.num_gradients, 1),
            "gradient_norm_max": self.largest,
        }
        for field in fields(self):
            setattr(self, field.name, field.default)
        return means
