"""What a table of the PSLA paper is: rows of numbers, how each is measured, what the paper has."""

from dataclasses import dataclass
from typing import Literal

from train.variants import Variant

Measure = Literal["log", "average", "checkpoints", "committee", "elsewhere", "labels", "class gain"]
"""Where a number comes from: the training log (mean of the last epochs), the averaged weights, the
mean scores of all epochs, or of several models, the last epoch on other clips or labels, the
report of an enhancement, and the gain in AP by class."""
DataSet = Literal["balanced", "full", "fsd50k"]


@dataclass(frozen=True)
class Reached:
    """A number of the paper."""

    value: float
    deviation: float | None = None
    """Over its seeds, where it states one."""


@dataclass(frozen=True)
class Member:
    """A model of a committee."""

    variant: Variant
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One number of a table: how it is measured, and what the paper has."""

    column: str = "mAP"
    variant: Variant | None = None
    """None for what others published, which is quoted."""
    measure: Measure = "log"
    field: str = "mAP"
    """Of what was measured."""
    paper: Reached | None = None
    unlike: Variant | None = None
    """What the variant is compared with: a number means nothing where the two are the same."""
    members: tuple[Member, ...] = ()
    """Of a committee."""
    best: int | None = None
    """Only so many of the members, those with the highest mAP, form the committee."""


@dataclass(frozen=True)
class Row:
    """A row of a table, with a cell for each of its columns or for some of them."""

    name: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Study:
    """A table or figure of the paper."""

    title: str
    tables: dict[DataSet, tuple[Row, ...]]
    """By what is trained on."""
