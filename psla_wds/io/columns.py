"""Columns: .npy files, memory-mapped, and rows of different lengths in two of them."""

from pathlib import Path

import numpy as np
from jaxtyping import Int64

ROWS_AT_ONCE = 65_536
"""Rows that are copied in one go; a place takes 8 bytes where a byte of an id takes one."""


def map_column(path: Path, dtype: type[np.generic], *, ndim: int = 1) -> np.ndarray:
    """The array in a .npy file, mapped; ValueError or OSError unless it is one of this kind."""
    try:
        # As a plain array over the mapping: `np.memmap` takes 20 times as long to give one entry.
        column = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except OSError:
        raise
    except Exception as error:  # whatever a damaged header leads numpy's parser to
        raise ValueError(f"{path.name} is no column: {type(error).__name__}") from None
    check_kind(column, dtype, path.name, ndim=ndim)
    return column


def check_kind(column: np.ndarray, dtype: type[np.generic], name: str, *, ndim: int = 1) -> None:
    """ValueError unless the column is of this type, with so many dimensions."""
    if column.dtype != dtype or column.ndim != ndim:
        raise ValueError(f"{name} has {column.dtype} of {column.ndim} dimensions")


def check_ragged(starts: np.ndarray, values: np.ndarray, num_rows: int, what: str) -> None:
    """ValueError unless `values[starts[i]:starts[i + 1]]` is row i of `num_rows`, and all are used.

    Args:
        what: the rows hold, for the message.
    """
    if len(starts) != num_rows + 1:
        raise ValueError(f"the starts of {what} have not the length of the other columns")
    if starts[0] != 0 or starts[-1] != len(values) or (np.diff(starts) < 0).any():
        raise ValueError(f"the starts of {what} do not ascend to their end")


def gather_ragged(
    starts: Int64[np.ndarray, " starts"], values: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, ...]:
    """The rows `rows` of (starts, values), as starts and values of their own."""
    lengths = starts[rows + 1] - starts[rows]
    new_starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    shift = starts[rows] - new_starts[:-1]
    gathered = np.empty(new_starts[-1], values.dtype)
    for first in range(0, len(rows), ROWS_AT_ONCE):
        part = slice(first, min(first + ROWS_AT_ONCE, len(rows)))
        begin, end = new_starts[part.start], new_starts[part.stop]
        places = np.arange(begin, end) + np.repeat(shift[part], lengths[part])
        gathered[begin:end] = values[places]
    return new_starts, gathered
