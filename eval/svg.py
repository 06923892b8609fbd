"""Draws charts as inline SVG. Colours and type come from a style sheet: the page's, light or dark,
or the one that a file brings along."""

import math
from collections.abc import Sequence

from markupsafe import Markup

from eval.axes import Axis, Number
from eval.charts import Band, Chart, Dots, Label, Series

WIDTH, HEIGHT = 460, 270
LEFT, RIGHT, TOP, BOTTOM = 48, 448, 12, 228
LETTER_WIDTH, LETTER_HEIGHT = 7, 15
"""Of text of 11 px, on average: names are kept apart by it."""
MAX_MARKED = 80
MAX_DRAWN = 500

Place = tuple[float, float]


def draw(chart: Chart) -> Markup:
    """The chart as an <svg> element, `WIDTH` by `HEIGHT`."""
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, chart.description, content(chart)
    )


def content(chart: Chart) -> Markup:
    """Axes and marks, without the element around them."""
    labels = [mark for mark in chart.marks if isinstance(mark, Label)]
    others = [_mark(mark, chart) for mark in chart.marks if not isinstance(mark, Label)]
    marks = Markup().join([*others, *_labels(labels, chart)])
    return _grid(chart.y_axis) + _baseline(chart.x_axis) + Markup("<g>{}</g>").format(marks)


def _mark(mark: Series | Band | Dots, chart: Chart) -> Markup:
    if isinstance(mark, Series):
        return _line(mark, chart)
    if isinstance(mark, Band):
        return _band(mark, chart)
    return _dots(mark, chart)


def _grid(axis: Axis) -> Markup:
    """Horizontal rules with their values, and what they are of."""
    rule = Markup(
        '<line class="rule" x1="{}" x2="{}" y1="{}" y2="{}"/>'
        '<text x="{}" y="{}" text-anchor="end" dy=".32em">{}</text>'
    )
    rules = Markup().join(
        rule.format(LEFT, RIGHT, _y(axis, t), _y(axis, t), LEFT - 7, _y(axis, t), axis.text(t))
        for t in axis.ticks
    )
    label = Markup('<text class="axis" x="{}" y="{}">{}</text>')
    return rules + label.format(LEFT, BOTTOM + 35, f"↑ {axis.label}")


def _baseline(axis: Axis) -> Markup:
    tick = Markup(
        '<line class="tick" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>'
        '<text x="{0}" y="{3}" text-anchor="middle">{4}</text>'
    )
    ticks = Markup().join(
        tick.format(_x(axis, t), BOTTOM, BOTTOM + 4, BOTTOM + 17, axis.text(t)) for t in axis.ticks
    )
    label = Markup('<text class="axis" x="{}" y="{}" text-anchor="end">{}</text>')
    return ticks + label.format(RIGHT, BOTTOM + 35, f"{axis.label} →")


def _line(series: Series, chart: Chart) -> Markup:
    """The line, broken where a value cannot be drawn; a few points are marked each."""
    x, y = _thin(series.x, series.y)
    places = _places(x, y, chart)
    steps = [
        f"{'L' if i and places[i - 1] else 'M'}{place[0]} {place[1]}"
        for i, place in enumerate(places)
        if place
    ]
    marked = [place for place in places if place] if len(places) <= MAX_MARKED else []
    marks = Markup().join(
        Markup('<circle cx="{}" cy="{}" r="2.4"/>').format(*place) for place in marked
    )
    path = Markup('<path d="{}"/>').format("".join(steps))
    return Markup('<g class="line {}">{}{}</g>').format(series.style, path, marks)


def _band(band: Band, chart: Chart) -> Markup:
    """The area, over the stretch where both its edges can be drawn."""
    x, low, high = _thin(band.x, band.low, band.high)
    edges = zip(_places(x, low, chart), _places(x, high, chart), strict=True)
    both = [(down, up) for down, up in edges if down and up]
    outline = [down for down, _ in both] + [up for _, up in reversed(both)]
    path = "".join(f"{'L' if i else 'M'}{x} {y}" for i, (x, y) in enumerate(outline))
    return Markup('<path class="band {}" d="{}"/>').format(band.style, path + "Z" * bool(path))


def _dots(dots: Dots, chart: Chart) -> Markup:
    dot = Markup('<circle class="dot first" cx="{}" cy="{}" r="2.4"><title>{}</title></circle>')
    return Markup().join(
        dot.format(_x(chart.x_axis, point.x), _y(chart.y_axis, point.y), point.title)
        for point in dots.points
    )


def _labels(labels: Sequence[Label], chart: Chart) -> list[Markup]:
    """The points that are named; a name that would stand on another one is left out."""
    drawn, taken = [], []
    dot = Markup('<circle class="named" cx="{}" cy="{}" r="2.4"><title>{}</title></circle>')
    name = Markup('<text class="label" x="{}" y="{}" text-anchor="{}">{}</text>')
    for label in labels:
        x, y = _x(chart.x_axis, label.x), _y(chart.y_axis, label.y)
        drawn.append(dot.format(x, y, label.text))
        width = LETTER_WIDTH * len(label.text)
        anchor = "start" if x + 5 + width < RIGHT else "end"
        left = x + 5 if anchor == "start" else x - 5 - width
        if all(abs(y - other) > LETTER_HEIGHT or left > end or left + width < start
               for other, start, end in taken):  # fmt: skip
            drawn.append(
                name.format(x + 5 if anchor == "start" else x - 5, y - 5, anchor, label.text)
            )
            taken.append((y, left, left + width))
    return drawn


def _thin(*columns: Sequence[Number]) -> list[Sequence[Number]]:
    """Means of neighbouring points, so that no line has more than can be seen."""
    size = math.ceil(len(columns[0]) / MAX_DRAWN)
    if size <= 1:
        return list(columns)
    starts = range(0, len(columns[0]), size)
    return [[sum(v[i : i + size]) / len(v[i : i + size]) for i in starts] for v in columns]


def _places(x: Sequence[Number], y: Sequence[Number], chart: Chart) -> list[Place | None]:
    """Where the points lie; None for one that cannot be drawn."""
    x_axis, y_axis = chart.x_axis, chart.y_axis
    return [
        (_x(x_axis, a), _y(y_axis, b)) if x_axis.can_show(a) and y_axis.can_show(b) else None
        for a, b in zip(x, y, strict=True)
    ]


def _x(axis: Axis, value: Number) -> float:
    return round(LEFT + axis.fraction(value) * (RIGHT - LEFT), 1)


def _y(axis: Axis, value: Number) -> float:
    return round(BOTTOM - axis.fraction(value) * (BOTTOM - TOP), 1)
