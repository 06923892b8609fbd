"""Charts: their axes, what is drawn between them, and their files."""

import json
import math
from pathlib import Path
from xml.etree import ElementTree

import pytest

from eval.pages import charts
from eval.pages.charts import Band, Dots, Figure, Line, linear_axis, log_axis, short_number
from eval.pages.page import json_text

SVG = "{http://www.w3.org/2000/svg}"


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
    axis = linear_axis("x", [0, 1])
    dots = Dots([0.5] * 3, [0.5, 0.51, 0.9], ["one", "two", "three"], labelled=True)
    root = ElementTree.fromstring(Figure("", "", axis, axis, (dots,)).element())
    labels = [t.text for t in root.iter("text") if t.get("class") == "label"]
    assert labels == ["one", "three"]
    assert [t.text for t in root.iter("title")] == ["one", "two", "three"]


def test_what_cannot_be_drawn_is_a_gap():
    axis = log_axis("x", [1, 100])
    line = Line("", [1, 2, 3, 4], [1, 0, 10, 100], "first")
    band = Band("", [1, 2, 3], [1, math.nan, 1], [10, 10, 10], "first")
    root = ElementTree.fromstring(Figure("", "", axis, axis, (line, band)).element())
    of_line, of_band = (path.get("d") for path in root.iter("path"))
    assert of_line.count("M") == 2 and of_line.count("L") == 1
    assert of_band.count("L") == 3 and of_band.endswith("Z")


def test_a_line_of_many_points_is_drawn_by_means():
    axis = linear_axis("x", [0, 10_000])
    line = Line("", range(10_000), range(10_000), "first")
    assert line.svg(Figure("", "", axis, axis, (line,))).count("L") < 500


def an_example() -> Figure:
    axis = linear_axis("mAP & more", [0, 1])
    lines = [Line(f"line {i}", [0, 1], [0.2, math.nan], "first") for i in range(2)]
    note = "A note that is long enough to need a second line, " * 3
    dots = Dots([0.5], [0.5], ["<a dot>"])
    return Figure("example", "Title <of it>", axis, axis, (*lines, dots), note)


def test_a_figure_is_an_svg_file_with_its_own_style(tmp_path: Path):
    charts.write_drawing(charts.standalone(an_example()), tmp_path / "example")
    root = ElementTree.parse(tmp_path / "example.svg").getroot()
    texts = [element.text for element in root.iter(f"{SVG}text")]
    assert texts[0] == "Title <of it>" and {"line 0", "line 1"} <= set(texts)
    assert len([t for t in texts if t and "note" in t]) > 1
    style = root.find(f"{SVG}style").text
    assert "var(" not in style and "#2b5fd0" in style


def test_the_numbers_of_a_figure_are_strict_json():
    numbers = json.loads(json_text(an_example().to_json()))
    assert numbers["x"] == "mAP & more" and numbers["marks"][0]["y"] == [0.2, None]


def test_a_png_is_the_svg_in_pixels(tmp_path: Path):
    pytest.importorskip("resvg_py", reason="needs pip install 'psla-wds[report]'")
    from PIL import Image

    if charts.why_no_png():
        pytest.skip(charts.why_no_png())
    charts.write_drawing(charts.standalone(an_example()), tmp_path / "example")
    with Image.open(tmp_path / "example.png") as image:
        assert image.width == 3 * charts.WIDTH
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 20)}
    assert (0x2B, 0x5F, 0xD0) in colours  # a line, in the colour of the style sheet
    assert (0x15, 0x18, 0x1E) in colours  # the title: there is text


def test_without_resvg_or_a_font_there_is_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(charts, "import_module", missing)
    assert "psla-wds[report]" in charts.why_no_png()
    charts.write_drawing(charts.standalone(an_example()), tmp_path / "example")
    assert [path.name for path in tmp_path.iterdir()] == ["example.svg"]
    monkeypatch.setattr(charts, "_rasterised", lambda svg, zoom: b"the same")
    assert "fonts-dejavu-core" in charts.why_no_png()
