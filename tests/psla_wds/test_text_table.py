"""Numbers and tables as commands print them."""

from math import inf, nan

from psla_wds.text_table import MOST_LETTERS, decimal, signed, text_table


def test_numbers_have_signs_and_dashes_for_people():
    assert [decimal(v, 2) for v in (0.126, nan, inf)] == ["0.13", "–", "∞"]  # noqa: RUF001
    assert [signed(v, 1) for v in (0.25, 0, -0.25, nan)] == ["+0.2", "0.0", "−0.2", "–"]  # noqa: RUF001


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
