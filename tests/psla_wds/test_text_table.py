"""Numbers and tables as commands print them."""

from math import inf, nan

from psla_wds.text_table import (
    MOST_LETTERS,
    counted,
    decimal,
    of_bytes,
    of_seconds,
    signed,
    text_table,
)


def test_numbers_have_signs_and_dashes_for_people():
    assert [decimal(v, 2) for v in (0.126, nan, inf)] == ["0.13", "–", "∞"]  # noqa: RUF001
    assert [signed(v, 1) for v in (0.25, 0.0, -0.25, nan)] == ["+0.2", "0.0", "−0.2", "–"]  # noqa: RUF001


def test_sizes_and_times_have_the_unit_that_fits():
    sizes = [0, 999, 14_200_000, 999_900_000, 1_840_000_000, 2.3e12]
    assert [of_bytes(size) for size in sizes] == [
        *("0 bytes", "999 bytes", "14 MB", "1 GB", "1.8 GB", "2,300 GB")
    ]
    times = [0.04, 1.87, 59.9, 240, 5400, 5980, 360_000]
    assert [of_seconds(time) for time in times] == [
        *("0 s", "1.9 s", "60 s", "4 min", "90 min", "1.7 h", "100 h")
    ]
    assert [counted(n, "clip") for n in (0, 1, 1234)] == ["0 clips", "1 clip", "1,234 clips"]


def test_columns_are_aligned_and_rows_may_end_early():
    rows = [["class", "AP"], ["a", "0.5", "x"], ["longer", "10.25"]]
    assert text_table(rows, "<><").splitlines() == [
        "class      AP",
        "a         0.5  x",
        "longer  10.25",
    ]
    assert text_table([]) == ""


def test_long_cells_keep_both_ends():
    cell = text_table([["a" * 50 + "b" * 50]])
    assert len(cell) == MOST_LETTERS
    assert (cell[0], cell[-1]) == ("a", "b")
