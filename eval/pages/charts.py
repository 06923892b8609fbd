"""Charts: axes, the marks between them, and their drawing as SVG for pages and for files.

Colours and type come from a style sheet: the page's, light or dark, or the one in a file.
"""

import math
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from psla_wds.io.atomic_files import atomic_open

Number = int | float
Place = tuple[float, float]

COLOURS = ("first", "second", "third", "fourth", "fifth", "sixth")
"""Styles of the lines in a chart, in this order."""
WIDTH, HEIGHT = 460, 270
LEFT, RIGHT, TOP, BOTTOM = 48, 448, 12, 228
LETTER_WIDTH, LINE_HEIGHT = 7, 15
"""Average size of a letter of 11 px, to keep texts apart."""
MAX_MARKED, MAX_DRAWN = 80, 500
"""Most points of a line that get a mark each, and most points drawn; longer lines show means."""
MARGIN, TITLE_HEIGHT, LEGEND_HEIGHT, LINE_LENGTH = 12, 30, 18, 70
"""Layout of a file, in units of the chart; most letters in a line of its note."""
ZOOM = 3
"""Pixels of a PNG per unit of the chart: 1,380 across."""
FONTS = '"DejaVu Sans", "Liberation Sans", "Noto Sans", Arial, Helvetica, sans-serif'


def short_number(value: Number) -> str:
    """A number in few characters: 0.25, 12k, 3M, 5e-5."""
    if value == 0 or 1e-3 <= abs(value) < 1e3:
        return f"{value:.4g}"
    if 1e3 <= abs(value) < 1e9:
        return f"{value / 1e6:.4g}M" if abs(value) >= 1e6 else f"{value / 1e3:.4g}k"
    digits, exponent = f"{value:.2e}".split("e")
    return f"{float(digits):g}e{int(exponent)}"


def signed_number(value: Number) -> str:
    return f"{value:+.4g}".replace("-", "\N{MINUS SIGN}") if value else "0"


def percent(value: Number) -> str:
    return "\N{EN DASH}" if math.isnan(value) else f"{100 * value:.3g}%"


@dataclass(frozen=True)
class Axis:
    """One direction of a chart, from its first tick to its last."""

    label: str
    """Quantity, with its unit."""
    ticks: tuple[Number, ...]
    low: Number
    high: Number
    log: bool = False
    text: Callable[[Number], str] = short_number

    def fraction(self, value: Number) -> float:
        """Place of `value` between the ends: 0 to 1."""
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
    """A logarithmic axis around the positive `values`."""
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
class Line:
    """A line with gaps at undefined values; if its points are few, each has a mark."""

    name: str
    """Entry in the legend; empty for no entry."""
    x: Sequence[Number]
    y: Sequence[Number]
    style: str
    """Class in the style sheet, which sets the colour."""

    def svg(self, figure: "Figure") -> Markup:
        places = figure.places(*_thin(self.x, self.y))
        steps = [
            f"{'L' if before else 'M'}{place[0]} {place[1]}"
            for before, place in zip([None, *places], places, strict=False)
            if place
        ]
        dot = Markup('<circle cx="{}" cy="{}" r="2.4"/>')
        dots = [dot.format(*place) for place in places if place and len(places) <= MAX_MARKED]
        line = Markup('<g class="line {}"><path d="{}"/>{}</g>')
        return line.format(self.style, "".join(steps), Markup().join(dots))


@dataclass(frozen=True)
class Band:
    """The area between two lines, where both are defined."""

    name: str
    x: Sequence[Number]
    low: Sequence[Number]
    high: Sequence[Number]
    style: str

    def svg(self, figure: "Figure") -> Markup:
        x, low, high = _thin(self.x, self.low, self.high)
        edges = zip(figure.places(x, low), figure.places(x, high), strict=True)
        both = [(down, up) for down, up in edges if down and up]
        outline = [down for down, _ in both] + [up for _, up in reversed(both)]
        path = "L".join(f"{x} {y}" for x, y in outline)
        closed = f"M{path}Z" if path else ""
        return Markup('<path class="band {}" d="{}"/>').format(self.style, closed)


@dataclass(frozen=True)
class Dots:
    """Points with a title that shows under the pointer."""

    x: Sequence[Number]
    y: Sequence[Number]
    titles: Sequence[str]
    labelled: bool = False
    """Whether titles are drawn in the chart too, except those that would cover another."""

    def svg(self, figure: "Figure") -> Markup:
        dot = Markup('<circle class="{}" cx="{}" cy="{}" r="2.4"><title>{}</title></circle>')
        name = Markup('<text class="label" x="{}" y="{}" text-anchor="{}">{}</text>')
        style = "named" if self.labelled else "dot first"
        drawn: list[Markup] = []
        taken: list[tuple[float, float, float]] = []
        for place, title in zip(figure.places(self.x, self.y), self.titles, strict=True):
            if place is None:
                continue
            x, y = place
            drawn.append(dot.format(style, x, y, title))
            width = LETTER_WIDTH * len(title)
            anchor, at = ("start", x + 5) if x + 5 + width < RIGHT else ("end", x - 5)
            left = at if anchor == "start" else at - width
            free = all(abs(y - other) > LINE_HEIGHT or left > end or left + width < start
                       for other, start, end in taken)  # fmt: skip
            if self.labelled and free:
                drawn.append(name.format(at, y - 5, anchor, title))
                taken.append((y, left, left + width))
        return Markup().join(drawn)


def _thin(*columns: Sequence[Number]) -> list[Sequence[Number]]:
    """Means of neighbouring points, so that a page with long lines stays small."""
    size = math.ceil(len(columns[0]) / MAX_DRAWN)
    if size <= 1:
        return list(columns)
    starts = range(0, len(columns[0]), size)
    return [[sum(v[i : i + size]) / len(v[i : i + size]) for i in starts] for v in columns]


Mark = Line | Band | Dots


@dataclass(frozen=True)
class Figure:
    """Marks between two axes, the first mark at the bottom, with a title and a note."""

    name: str
    """Stem of its file names."""
    title: str
    x_axis: Axis
    y_axis: Axis
    marks: tuple[Mark, ...]
    note: str = ""

    @property
    def legend(self) -> list[Line | Band]:
        """The named lines and bands, if there are several."""
        named = [mark for mark in self.marks if isinstance(mark, Line | Band) and mark.name]
        return named if len(named) > 1 else []

    @property
    def most_points(self) -> int:
        """Defined points of the mark that has most."""
        drawn = (mark.low if isinstance(mark, Band) else mark.y for mark in self.marks)
        return max((sum(map(math.isfinite, y)) for y in drawn), default=0)

    def places(self, x: Sequence[Number], y: Sequence[Number]) -> list[Place | None]:
        """Places of points; None for an undefined one."""
        x_axis, y_axis = self.x_axis, self.y_axis
        return [
            (_across(x_axis, a), _up(y_axis, b)) if x_axis.can_show(a) and y_axis.can_show(b)
            else None
            for a, b in zip(x, y, strict=True)
        ]  # fmt: skip

    def svg(self) -> Markup:
        """Axes and marks, `WIDTH` by `HEIGHT`, without the element around them."""
        marks = Markup().join(mark.svg(self) for mark in self.marks)
        return _grid(self.y_axis) + _baseline(self.x_axis) + Markup("<g>{}</g>").format(marks)

    def element(self) -> Markup:
        """The chart as an <svg> element of a page."""
        words = f"{self.title}: {self.y_axis.label} by {self.x_axis.label}"
        element = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>')
        return element.format(WIDTH, HEIGHT, words, self.svg())

    def to_json(self) -> dict[str, Any]:
        """The numbers and words of the chart."""
        words = {"title": self.title, "note": self.note}
        axes = {"x": self.x_axis.label, "y": self.y_axis.label}
        kept = [{k: v for k, v in vars(mark).items() if k != "style"} for mark in self.marks]
        return words | axes | {"marks": kept}


def _across(axis: Axis, value: Number) -> float:
    return round(LEFT + axis.fraction(value) * (RIGHT - LEFT), 1)


def _up(axis: Axis, value: Number) -> float:
    return round(BOTTOM - axis.fraction(value) * (BOTTOM - TOP), 1)


def _grid(axis: Axis) -> Markup:
    """Horizontal rules with their values, and the label of the axis."""
    rule = Markup(
        '<line class="rule" x1="{0}" x2="{1}" y1="{2}" y2="{2}"/>'
        '<text x="{3}" y="{2}" text-anchor="end" dy=".32em">{4}</text>'
    )
    rules = [rule.format(LEFT, RIGHT, _up(axis, t), LEFT - 7, axis.text(t)) for t in axis.ticks]
    label = Markup('<text class="axis" x="{}" y="{}">↑ {}</text>')
    return Markup().join([*rules, label.format(LEFT, BOTTOM + 35, axis.label)])


def _baseline(axis: Axis) -> Markup:
    tick = Markup(
        '<line class="tick" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>'
        '<text x="{0}" y="{3}" text-anchor="middle">{4}</text>'
    )
    ends = (BOTTOM, BOTTOM + 4, BOTTOM + 17)
    ticks = [tick.format(_across(axis, t), *ends, axis.text(t)) for t in axis.ticks]
    label = Markup('<text class="axis" x="{}" y="{}" text-anchor="end">{} →</text>')
    return Markup().join([*ticks, label.format(RIGHT, BOTTOM + 35, axis.label)])


def write_drawing(svg: str, path: Path) -> None:
    """Write an SVG document as path.svg and, before it, as path.png unless `why_no_png`."""
    if not why_no_png():
        with atomic_open(path.with_suffix(".png")) as file:
            file.write(_rasterised(svg, ZOOM))
    with atomic_open(path.with_suffix(".svg"), "w") as file:
        file.write(svg)


def standalone(figure: Figure) -> str:
    """The figure as an SVG document: title and legend above the chart, its note below."""
    notes = textwrap.wrap(figure.note, LINE_LENGTH)
    top = TITLE_HEIGHT + (LEGEND_HEIGHT if figure.legend else 0)
    bottom = top + HEIGHT + LINE_HEIGHT
    note = Markup('<text x="{}" y="{}">{}</text>')
    below = [note.format(MARGIN, bottom + LINE_HEIGHT * i, line) for i, line in enumerate(notes)]
    title = Markup('<text class="title" x="{}" y="20">{}</text>').format(MARGIN, figure.title)
    chart = Markup('<g transform="translate(0 {})">{}</g>').format(top, figure.svg())
    marks = Markup().join([title, *_legend(figure), chart, *below])
    return document(marks, WIDTH, bottom + LINE_HEIGHT * len(notes))


def _legend(figure: Figure) -> list[Markup]:
    """A swatch and a name for each line and band, in a row."""
    line = Markup('<g class="line {}"><path d="M{} 34h14"/></g>')
    band = Markup('<path class="band {}" d="M{} 29h14v10h-14z"/>')
    name = Markup('<text class="key" x="{}" y="38">{}</text>')
    x, marks = MARGIN, []
    for mark in figure.legend:
        swatch = line if isinstance(mark, Line) else band
        marks += [swatch.format(mark.style, x), name.format(x + 19, mark.name)]
        x += 36 + LETTER_WIDTH * len(mark.name)
    return marks


def document(marks: Markup, width: int, height: int) -> str:
    """An SVG document on white, with the style and the light colours of the pages; they replace
    the style sheet's variables, which some programs do not know."""
    folder = Path(__file__).parent
    light = (folder / "page.css").read_text(encoding="utf-8").partition("}")[0]
    colours = dict(re.findall(r"(--\w+): (#\w+)", light))
    rules = (folder / "charts.css").read_text(encoding="utf-8")
    rules = re.sub(r"var\((--\w+)\)", lambda found: colours[found[1]], rules)
    text = Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {0} {1}" width="{0}" height="{1}">'
        '<style>{2}</style><rect width="{0}" height="{1}" fill="#ffffff"/>{3}</svg>\n'
    )
    style = Markup(f"text {{ font-family: {FONTS}; }}\n{rules}")
    return str(text.format(width, height, style, marks))


def why_no_png() -> str:
    """The reason why PNG files cannot be written; empty if they can."""
    texts = (Markup('<text x="5" y="20">0</text>'), Markup())
    try:
        letter, nothing = (_rasterised(document(text, 30, 30), 1) for text in texts)
    except ImportError:
        return "PNG files need resvg: python -m pip install resvg_py"
    if letter == nothing:  # resvg leaves out text that it has no font for
        return "PNG files need a font: install DejaVu Sans (apt-get install fonts-dejavu-core)"
    return ""


def _rasterised(svg: str, zoom: int) -> bytes:
    import resvg_py  # an extra

    return bytes(resvg_py.svg_to_bytes(svg_string=svg, zoom=zoom))
