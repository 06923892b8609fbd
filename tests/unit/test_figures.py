"""Figures: what they show, and their files."""

import json
import math
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from run_folders import epoch_line, not_evaluated, step_line, write_run

from eval import chart_files
from eval.axes import linear_axis
from eval.charts import Chart, Dots, Figure, Label, Point, Series
from eval.class_charts import changes_figure, class_counts_figure
from eval.figures import Args, check_seeds, log_figures, main, score_figures
from eval.run_charts import data_verdict, seeds_figure
from eval.svg import draw
from psla_wds.errors import ConfigError, PslaError
from train.config import OptimizerConfig
from train.run.log import Run, read_run

SVG = "{http://www.w3.org/2000/svg}"


def run_of(folder: Path, maps: list[float | None], **config: object) -> Run:
    lines = [step_line(50), *(epoch_line(i, map_=m) for i, m in enumerate(maps, 1))]
    return read_run(write_run(folder, lines, **config))


def test_seeds_have_a_mean_and_a_spread_where_all_were_evaluated(tmp_path: Path):
    maps = ([0.1, 0.2, 0.3], [0.2, None, 0.4], [0.3, 0.4])
    runs = [run_of(tmp_path / f"{i}", m, seed=i, epochs=3) for i, m in enumerate(maps)]
    curve, *_ = log_figures(runs)
    band, *each, mean = curve.chart.marks
    assert mean.name == "mean of 3 runs" and mean.x == [1, 2, 3]
    assert mean.y[0] == pytest.approx(0.2) and all(map(math.isnan, mean.y[1:]))
    assert (band.low[0], band.high[0]) == (0.1, 0.3)
    assert [line.style for line in each] == ["faint"] * 3
    assert "mAP 0.2000 after epoch 1, standard deviation 0.1000 over 3 runs." in curve.note
    assert curve.note.endswith("Not done: 2: epoch 2 of 3.")
    assert "nan" not in draw(curve.chart) and json.dumps(curve.to_json(), allow_nan=False)


def test_one_run_has_its_curve_and_no_spread(tmp_path: Path):
    curve = seeds_figure([run_of(tmp_path / "run", [0.1, 0.2])])
    assert len(curve.chart.marks) == 1 and curve.note == "mAP 0.2000 after epoch 2."


def test_runs_that_differ_by_more_than_their_seed_have_no_mean(tmp_path: Path):
    first, other = (
        run_of(tmp_path / f"{rate}", [0.1], seed=rate, reader={"threads": rate}) for rate in (1, 2)
    )
    check_seeds([first, other])
    changed = replace(
        other, config=replace(other.config, optimizer=OptimizerConfig(learning_rate=5e-4))
    )
    with pytest.raises(ConfigError, match=r"more than their seed: optimizer\.learning_rate"):
        check_seeds([first, changed])


def test_a_run_that_was_not_evaluated_has_no_learning_curve(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    silent = read_run(write_run(tmp_path / "silent", [step_line(50), not_evaluated(1)], seed=2))
    names = [figure.name for figure in log_figures([silent])]
    assert names == ["loss", "learning-rate", "data-wait"]
    assert "was not evaluated while it trained" in caplog.text
    with pytest.raises(ConfigError, match="no mean over runs of which one was not evaluated"):
        log_figures([run_of(tmp_path / "run", [0.1], seed=1), silent])
    assert score_figures(silent) == [] and "python -m eval.predict" in caplog.text


@pytest.mark.parametrize(
    ("waits", "words"),
    [
        ({"data_wait": 0.01}, "The step, not the data"),
        ({"data_wait": 0.3, "storage_wait": 0.2}, "Reads set the pace"),
        ({"data_wait": 0.3, "storage_wait": 0.1}, "Decoding sets the pace"),
    ],
    ids=["step", "storage", "decoding"],
)
def test_the_verdict_is_that_of_the_training(tmp_path: Path, waits: dict[str, float], words: str):
    run = read_run(write_run(tmp_path / "run", [epoch_line(1, **waits)]))
    assert words in data_verdict(run)
    assert not data_verdict(replace(run, epochs=()))


def test_names_in_a_chart_do_not_stand_on_one_another():
    counts = np.array([1000, 999, 998, 10, 0])
    figure = class_counts_figure(counts, ["Music", "Speech", "Vehicle", "Toothbrush", "Empty"])
    texts = [t.text for t in ElementTree.fromstring(draw(figure.chart)).iter("text")]
    assert {"Music", "Toothbrush"} <= set(texts) and "Empty" not in texts
    assert "100 times" in figure.note and "1 classes have none" in figure.note
    axis = linear_axis("x", [0, 1])
    near = tuple(Label(0.5, y, name) for y, name in ((0.5, "one"), (0.51, "two"), (0.9, "three")))
    texts = ElementTree.fromstring(draw(Chart("", axis, axis, near))).iter("text")
    assert [t.text for t in texts if t.get("class") == "label"] == ["one", "three"]


def test_changes_without_intervals_and_undefined_ones_are_drawn():
    nothing = np.full(3, np.nan)
    figure = changes_figure(np.array([0.1, np.nan, -0.2]), nothing, nothing, "other")
    assert "1 of 2 classes gain" in figure.note and len(figure.chart.marks) == 2


def an_example() -> Figure:
    axis = linear_axis("mAP & more", [0, 1])
    lines = [Series(f"line {i}", [0, 1], [0.2, float("nan")], "first") for i in range(2)]
    dots = Dots([Point(0.5, 0.5, "<a dot>")])
    note = "A note that is long enough to need a second line, " * 3
    return Figure("example", "Title <of it>", Chart("words", axis, axis, (*lines, dots)), note)


def test_a_figure_is_an_svg_file_of_its_own(tmp_path: Path):
    chart_files.write_figures([an_example()], tmp_path)
    root = ElementTree.parse(tmp_path / "example.svg").getroot()
    texts = [element.text for element in root.iter(f"{SVG}text")]
    assert texts[0] == "Title <of it>" and {"line 0", "line 1"} <= set(texts)
    assert len([t for t in texts if t and "note" in t]) > 1
    style = root.find(f"{SVG}style").text
    assert "var(" not in style and "#2b5fd0" in style
    numbers = json.loads((tmp_path / "figures.json").read_text())["example"]
    assert numbers["x"] == "mAP & more" and numbers["marks"][0]["y"] == [0.2, None]


def test_a_png_is_the_svg_in_pixels(tmp_path: Path):
    pytest.importorskip("resvg_py", reason="needs pip install 'psla-wds[report]'")
    from PIL import Image

    if chart_files.why_no_png():
        pytest.skip(chart_files.why_no_png())
    chart_files.write_figures([an_example()], tmp_path)
    size = ElementTree.parse(tmp_path / "example.svg").getroot().get("height")
    with Image.open(tmp_path / "example.png") as image:
        assert image.size == (3 * 460, 3 * int(size))
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 20)}
    assert (0x2B, 0x5F, 0xD0) in colours  # a line, in the colour of the style sheet
    assert (0x15, 0x18, 0x1E) in colours  # the title: there is text


def test_without_resvg_or_a_font_there_are_svg_files_and_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(chart_files, "import_module", missing)
    assert "psla-wds[report]" in chart_files.why_no_png()
    chart_files.write_figures([an_example()], tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"example.svg", "figures.json"}
    monkeypatch.setattr(chart_files, "_rasterised", lambda svg, zoom: b"the same")
    assert "fonts-dejavu-core" in chart_files.why_no_png()


def test_figures_need_a_run_and_a_new_folder(tmp_path: Path):
    with pytest.raises(ConfigError, match="there is no run"):
        Args((), tmp_path / "new")
    with pytest.raises(ConfigError, match="something is there already"):
        Args((tmp_path,), tmp_path)


def test_plans_are_left_out_on_request_and_a_bad_place_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    run = write_run(tmp_path / "run", [step_line(50), epoch_line(1)], epochs=1)
    words = ["figures", str(run), "--no-plans"]
    monkeypatch.setattr("sys.argv", [*words, f"--output={tmp_path / 'figures'}"])
    main()
    assert (tmp_path / "figures" / "loss.svg").exists()
    assert "data" not in [record.name for record in caplog.records]  # which looks for the shards
    monkeypatch.setattr("sys.argv", [*words, f"--output={run / 'log.jsonl' / 'figures'}"])
    with pytest.raises(PslaError, match="cannot write the figures: Not a directory"):
        main()
