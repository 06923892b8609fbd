"""Charts: their axes, the marks between them, and their files."""

import math
from pathlib import Path
from xml.etree import ElementTree

import pytest

from eval.pages import charts
from eval.pages.charts import Band, Dots, Figure, Line, linear_axis, log_axis, short_number

UNIT = linear_axis("share & more", [0, 1])


def parsed(*marks: charts.Mark, axis: charts.Axis = UNIT) -> ElementTree.Element:
    return ElementTree.fromstring(Figure("", "", axis, axis, marks).element())


@pytest.mark.parametrize(
    ("axis_of", "values"),
    [(linear_axis, v) for v in ([0], [3.2], [0, 1e-4], [-5, 1e6], [0.1234, 0.1235], [])]
    + [(log_axis, v) for v in ([1], [10], [0.011, 0.7], [1, 2e6], [0, 7, math.nan], [])],
)
def test_an_axis_spans_its_values_with_few_ticks(axis_of, values: list[float]):
    axis = axis_of("x", values)
    assert 1 <= len(axis.ticks) <= 9
    shown = [value for value in values if axis.can_show(value)]
    assert all(-1e-9 <= axis.fraction(value) <= 1 + 1e-9 for value in shown)


def test_numbers_on_an_axis_are_short():
    shown = {0: "0", 0.25: "0.25", 12_000: "12k", 3e6: "3M", 5e-5: "5e-5"}
    assert [short_number(value) for value in shown] == list(shown.values())


def test_labels_do_not_cover_one_another():
    root = parsed(Dots([0.5] * 3, [0.5, 0.51, 0.9], ["one", "two", "three"], labelled=True))
    labels = [t.text for t in root.iter("text") if t.get("class") == "label"]
    assert labels == ["one", "three"]
    assert [t.text for t in root.iter("title")] == ["one", "two", "three"]


def test_undefined_values_are_gaps_and_long_lines_are_thinned():
    line = Line("", [1, 2, 3, 4], [1, 0, 10, 100], "first")
    band = Band("", [1, 2, 3], [1, math.nan, 1], [10, 10, 10], "first")
    many = Line("", range(1, 10_000), range(1, 10_000), "first")
    paths = [
        p.get("d") for p in parsed(line, band, many, axis=log_axis("x", [1, 100])).iter("path")
    ]
    assert paths[0].count("M") == 2 and paths[0].count("L") == 1
    assert paths[1].count("L") == 3 and paths[1].endswith("Z")
    assert paths[2].count("L") < 500


def test_a_figure_is_a_file_with_its_own_style(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    lines = [Line(f"line {i}", [0, 1], [0.2, math.nan], "first") for i in range(2)]
    note = "A note that is long enough to need a second line, " * 3
    figure = Figure("example", "Title <of it>", UNIT, UNIT, tuple(lines), note)
    monkeypatch.setitem(__import__("sys").modules, "resvg_py", None)  # not installed
    assert "pip install resvg_py" in charts.why_no_png()
    charts.write_drawing(charts.standalone(figure), tmp_path / "example")
    root = ElementTree.parse(tmp_path / "example.svg").getroot()
    texts = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert texts[0] == "Title <of it>" and {"line 0", "line 1"} <= set(texts)
    assert len([t for t in texts if t and "note" in t]) > 1
    written = (tmp_path / "example.svg").read_text()
    assert "var(" not in written and "#2b5fd0" in written
    assert not (tmp_path / "example.png").exists()
    monkeypatch.undo()
    if charts.why_no_png():
        pytest.skip(charts.why_no_png())
    from PIL import Image

    charts.write_drawing(written, tmp_path / "example")
    with Image.open(tmp_path / "example.png") as image:
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 20)}
    assert {(0x2B, 0x5F, 0xD0), (0x15, 0x18, 0x1E)} <= colours  # a line; text, so fonts are found
