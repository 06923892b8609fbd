"""Charts as inline SVG. Colours and type come from the page's style sheet, light or dark."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, HEIGHT = 460, 270
LEFT, RIGHT, TOP, BOTTOM = 48, 448, 12, 228
MAX_MARKED = 80
MAX_DRAWN = 500

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


@dataclass(frozen=True)
class Axis:
    """One direction of a chart, from its first tick to its last."""

    label: str
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


@dataclass(frozen=True)
class Series:
    """A named line; `style` is a class of the style sheet which sets its colour."""

    name: str
    x: Sequence[Number]
    y: Sequence[Number]
    style: str


def line_chart(description: str, x_axis: Axis, y_axis: Axis, series: Sequence[Series]) -> Markup:
    return _chart(description, x_axis, y_axis, [_line(s, x_axis, y_axis) for s in series])


@dataclass(frozen=True)
class Point:
    """A dot that says `title` when the pointer rests on it."""

    x: Number
    y: Number
    title: str


def scatter_chart(
    description: str,
    x_axis: Axis,
    y_axis: Axis,
    points: Sequence[Point],
    reference: Series,
) -> Markup:
    dots = Markup().join(
        Markup('<circle class="dot" cx="{}" cy="{}" r="3.2"><title>{}</title></circle>').format(
            _x(x_axis, point.x), _y(y_axis, point.y), point.title
        )
        for point in points
    )
    return _chart(description, x_axis, y_axis, [_line(reference, x_axis, y_axis), dots])


def _chart(description: str, x_axis: Axis, y_axis: Axis, marks: Sequence[Markup]) -> Markup:
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}{}<g>{}</g></svg>').format(
        WIDTH, HEIGHT, description, _grid(y_axis), _baseline(x_axis), Markup().join(marks)
    )


def _grid(axis: Axis) -> Markup:
    """Horizontal rules with their values."""
    rule = Markup(
        '<line class="rule" x1="{}" x2="{}" y1="{}" y2="{}"/>'
        '<text x="{}" y="{}" text-anchor="end" dy=".32em">{}</text>'
    )
    return Markup().join(
        rule.format(LEFT, RIGHT, _y(axis, t), _y(axis, t), LEFT - 7, _y(axis, t), axis.text(t))
        for t in axis.ticks
    )


def _baseline(axis: Axis) -> Markup:
    tick = Markup(
        '<line class="tick" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>'
        '<text x="{0}" y="{3}" text-anchor="middle">{4}</text>'
    )
    ticks = Markup().join(
        tick.format(_x(axis, t), BOTTOM, BOTTOM + 4, BOTTOM + 17, axis.text(t)) for t in axis.ticks
    )
    label = Markup('<text class="axis" x="{}" y="{}" text-anchor="end">{}</text>')
    return ticks + label.format(RIGHT, BOTTOM + 35, axis.label)


def _line(series: Series, x_axis: Axis, y_axis: Axis) -> Markup:
    """The line, broken where a value cannot be drawn; a few points are marked each."""
    points = [
        (_x(x_axis, x), _y(y_axis, y)) if _drawable(x, x_axis) and _drawable(y, y_axis) else None
        for x, y in zip(*_thin(series), strict=True)
    ]
    steps = [
        f"{'L' if i and points[i - 1] else 'M'}{point[0]} {point[1]}"
        for i, point in enumerate(points)
        if point
    ]
    marked = [point for point in points if point] if len(points) <= MAX_MARKED else []
    marks = Markup().join(
        Markup('<circle cx="{}" cy="{}" r="2.4"/>').format(*point) for point in marked
    )
    path = Markup('<path d="{}"/>').format("".join(steps))
    return Markup('<g class="line {}">{}{}</g>').format(series.style, path, marks)


def _thin(series: Series) -> tuple[Sequence[Number], Sequence[Number]]:
    """Means of neighbouring points, so that no line has more than can be seen."""
    size = math.ceil(len(series.x) / MAX_DRAWN)
    if size <= 1:
        return series.x, series.y
    starts = range(0, len(series.x), size)
    x, y = (
        [sum(v[i : i + size]) / len(v[i : i + size]) for i in starts] for v in (series.x, series.y)
    )
    return x, y


def _drawable(value: Number, axis: Axis) -> bool:
    return math.isfinite(value) and (value > 0 or not axis.log)


def _x(axis: Axis, value: Number) -> float:
    return round(LEFT + axis.fraction(value) * (RIGHT - LEFT), 1)


def _y(axis: Axis, value: Number) -> float:
    return round(BOTTOM - axis.fraction(value) * (BOTTOM - TOP), 1)
