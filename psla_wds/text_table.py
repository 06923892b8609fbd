"""Numbers and tables as text: what commands print, and what pages show."""

import math
from collections.abc import Iterable, Sequence

from psla_wds.printable import printable

MOST_LETTERS = 40
"""Letters of a cell; longer ones lose their middle."""


def decimal(value: float, digits: int) -> str:
    """A number for people; a dash where it is not defined."""
    return "\N{EN DASH}" if math.isnan(value) else f"{value:.{digits}f}".replace("inf", "∞")


def signed(value: float, digits: int) -> str:
    """A difference for people, with its sign; a dash where it is not defined."""
    text = decimal(value, digits).replace("-", "\N{MINUS SIGN}")
    return f"+{text}" if value > 0 else text


def text_table(rows: Iterable[Sequence[str]], align: str = "<") -> str:
    """Rows in columns as wide as their longest cell; rows may end early.

    Args:
        align: `<` (text) or `>` (numbers) for each column; columns beyond it hold numbers.
    """
    cut = [[_cut(printable(cell)) for cell in row] for row in rows]
    columns = max(map(len, cut), default=0)
    widths = [max(len(row[i]) for row in cut if i < len(row)) for i in range(columns)]
    sides = align.ljust(columns, ">")
    lines = [
        "  ".join(f"{cell:{sides[i]}{widths[i]}}" for i, cell in enumerate(row)) for row in cut
    ]
    return "\n".join(line.rstrip() for line in lines)


def _cut(cell: str) -> str:
    half = MOST_LETTERS // 2
    return cell if len(cell) <= MOST_LETTERS else f"{cell[: half - 1]}…{cell[-half:]}"
