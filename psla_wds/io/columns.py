"""Columns: .npy files, mapped if they are large, and rows of different lengths in two of them."""

import io
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from psla_wds.io.locations import Location
from psla_wds.io.stores import at

HEADER_BYTES = 65_535 + 10
"""Most that the header of a column can take."""
ROWS_AT_ONCE = 65_536
"""Rows that are copied in one go; a place takes 8 bytes where a byte of an id takes one."""


def map_column(
    location: Location, dtype: type[np.generic], *, ndim: int = 1, max_bytes: int = 2**40
) -> np.ndarray:
    """The array in a .npy file, mapped from a disk if it is large, else read into memory.

    ValueError or OSError unless the file is whole, of this type, with so many dimensions.

    Args:
        max_bytes: most bytes to read from behind a URL.
    """
    content = at(location).view(max_bytes=max_bytes)
    try:
        # Not by `np.load`: it would make room for as much as the header claims, and `np.memmap`
        # takes 20 times as long to give one entry.
        header = io.BytesIO(content[:HEADER_BYTES])
        if np.lib.format.read_magic(header) != (1, 0):
            raise ValueError("it has another version of .npy than is written here")
        shape, is_fortran, found = np.lib.format.read_array_header_1_0(header)
        column = np.frombuffer(content, found, offset=header.tell())
        column = column.reshape(shape, order="F" if is_fortran else "C")
    except Exception as error:  # whatever a damaged header leads numpy's parser to
        raise ValueError(f"{location.name} is not a column: {type(error).__name__}") from None
    if column.dtype != dtype or column.ndim != ndim:
        raise ValueError(f"{location.name} has {column.dtype} of {column.ndim} dimensions")
    return column


def save_column(path: Path, column: np.ndarray) -> None:
    """Write a .npy file as `np.save` does, which does not notice when a disk is full: C's buffers
    hold the last bytes, and the error of their writing is lost."""
    column = np.ascontiguousarray(column)
    with path.open("wb") as file:
        header = np.lib.format.header_data_from_array_1_0(column)
        np.lib.format.write_array_header_1_0(file, header)
        file.write(column.data)


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
