"""The axes of charts: round ticks around values, and numbers in few letters."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

Number = int | float


def short_number(value: Number) -> str:
    """As few characters as tell it: 0.25, 12k, 3M, 5e-5."""
    if value == 0 or 1e-3 <= abs(value) < 1e3:
        return f"{value:.4g}"
    if 1e3 <= abs(value) < 1e9:
        return f"{value / 1e6:.4g}M" if abs(value) >= 1e6 else f"{value / 1e3:.4g}k"
    digits, exponent = f"{value:.2e}".split("e")
    return f"{float(digits):g}e{int(exponent)}"


def percent(value: Number) -> str:
    return "\N{EN DASH}" if math.isnan(value) else f"{100 * value:.3g}%"


def signed(value: Number) -> str:
    """A difference, with its sign."""
    return f"{value:+.4g}".replace("-", "\N{MINUS SIGN}") if value else "0"


@dataclass(frozen=True)
class Axis:
    """One direction of a chart, from its first tick to its last."""

    label: str
    """What is shown, with its unit."""
    ticks: tuple[Number, ...]
    low: Number
    high: Number
    log: bool = False
    text: Callable[[Number], str] = short_number

    def fraction(self, value: Number) -> float:
        """Where `value` lies between the ends."""
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return (value - low) / (high - low)

    def can_show(self, value: Number) -> bool:
        return math.isfinite(value) and (value > 0 or not self.log)


def linear_axis(
    label: str,
    values: Iterable[Number],
    *,
    smallest_step: Number = 0,
    text: Callable[[Number], str] = short_number,
) -> Axis:
    """An axis around `values`, with about five round ticks."""
    finite = [v for v in values if math.isfinite(v)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    if low == high:
        low, high = (low, low + 1) if low == 0 else (low - abs(low) / 2, low + abs(low) / 2)
    magnitude = 10 ** math.floor(math.log10((high - low) / 4))
    step = magnitude * min((1, 2, 5, 10), key=lambda m: abs((high - low) / (m * magnitude) - 4.5))
    step = max(step, smallest_step)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(float(f"{i * step:.12g}") for i in range(first, last + 1))
    return Axis(label, ticks, ticks[0], ticks[-1], text=text)


def log_axis(label: str, values: Iterable[Number]) -> Axis:
    """A logarithmic axis around the positive ones of `values`."""
    positive = [v for v in values if 0 < v < math.inf] or [1.0, 10.0]
    low, high = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
    round_numbers = [float(f"{digit}e{e}") for e in range(low, high + 1) for digit in (1, 2, 5)]
    start = max(n for n in round_numbers if n <= min(positive))
    end = min(n for n in [*round_numbers, 10.0 ** (high + 1)] if n >= max(positive) and n > start)
    ticks = tuple(n for n in round_numbers if start <= n <= end)
    if len(ticks) > 9:
        decades = [10.0**e for e in range(low, high + 1) if start <= 10.0**e <= end]
        ticks = tuple(decades[:: math.ceil(len(decades) / 6)])
    return Axis(label, ticks, start, end, log=True)
