"""Charts as values: what is drawn, in words and numbers. `eval.svg` draws them."""

import math
from dataclasses import dataclass
from typing import Any

from eval.axes import Axis, Number

COLOURS = ("first", "second", "third", "fourth", "fifth", "sixth")
"""Styles of lines that are to be told apart, in this order."""


@dataclass(frozen=True)
class Series:
    """A named line; `style` is a class of the style sheet, which sets its colour."""

    name: str
    x: list[Number]
    y: list[Number]
    style: str


@dataclass(frozen=True)
class Band:
    """What lies between two lines."""

    name: str
    x: list[Number]
    low: list[Number]
    high: list[Number]
    style: str


@dataclass(frozen=True)
class Point:
    """A dot that says `title` when the pointer rests on it."""

    x: Number
    y: Number
    title: str


@dataclass(frozen=True)
class Dots:
    points: list[Point]


@dataclass(frozen=True)
class Label:
    """A point that is named in the chart."""

    x: Number
    y: Number
    text: str


Mark = Series | Band | Dots | Label


@dataclass(frozen=True)
class Chart:
    """Marks between two axes, the first at the bottom; `description` is for who cannot see it."""

    description: str
    x_axis: Axis
    y_axis: Axis
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Figure:
    """A chart with its words: what it shows, and what to see in it."""

    name: str
    """Of its files."""
    title: str
    chart: Chart
    note: str

    @property
    def legend(self) -> list[Series | Band]:
        """The lines and bands by name, where there are several to tell apart."""
        named = [mark for mark in self.chart.marks if isinstance(mark, Series | Band)]
        named = [mark for mark in named if mark.name]
        return named if len(named) > 1 else []

    def to_json(self) -> dict[str, Any]:
        """The numbers that it shows."""
        axes = (self.chart.x_axis.label, self.chart.y_axis.label)
        record = {"title": self.title, "note": self.note, "x": axes[0], "y": axes[1]}
        return record | {"marks": [_numbers(mark) for mark in self.chart.marks]}


def _numbers(mark: Mark) -> dict[str, Any]:
    if isinstance(mark, Dots):
        return {"points": [vars(point) for point in mark.points]}
    kept = {name: value for name, value in vars(mark).items() if name != "style"}
    return {
        name: [v if math.isfinite(v) else None for v in value] if isinstance(value, list) else value
        for name, value in kept.items()
    }
