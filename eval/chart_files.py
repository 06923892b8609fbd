"""Charts as files: SVG that brings its own colours and words, and PNG made from that very SVG."""

import json
import re
import textwrap
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from markupsafe import Markup

from eval.charts import Figure, Series
from eval.svg import HEIGHT, LETTER_WIDTH, WIDTH, content

MARGIN = 12
TITLE_HEIGHT, LEGEND_HEIGHT = 30, 18
LINE_HEIGHT = 15
LINE_LENGTH = 70
"""Letters of a note that fit in a line."""
ZOOM = 3
"""Pixels of a PNG to a unit of the chart: 1,380 across."""
FONTS = '"DejaVu Sans", "Liberation Sans", "Noto Sans", Arial, Helvetica, sans-serif'
FOLDER = Path(__file__).parent


def write_figures(figures: Sequence[Figure], folder: Path) -> None:
    """Write each figure as .svg, and as .png where that can be, and their numbers: figures.json."""
    for figure in figures:
        write_drawing(standalone(figure), folder / figure.name)
    numbers = {figure.name: figure.to_json() for figure in figures}
    text = json.dumps(numbers, indent=1, allow_nan=False) + "\n"
    (folder / "figures.json").write_text(text, encoding="utf-8")


def write_drawing(svg: str, path: Path) -> None:
    """Write an SVG as path.svg, and as path.png unless `why_no_png`."""
    path.with_suffix(".svg").write_text(svg, encoding="utf-8")
    if not why_no_png():
        path.with_suffix(".png").write_bytes(_rasterised(svg, ZOOM))


def standalone(figure: Figure) -> str:
    """The figure as an SVG document: title and legend above the chart, its note below."""
    notes = textwrap.wrap(figure.note, LINE_LENGTH)
    top = TITLE_HEIGHT + (LEGEND_HEIGHT if figure.legend else 0)
    bottom = top + HEIGHT + LINE_HEIGHT
    note = Markup('<text x="{}" y="{}">{}</text>')
    below = [note.format(MARGIN, bottom + LINE_HEIGHT * i, line) for i, line in enumerate(notes)]
    title = Markup('<text class="title" x="{}" y="20">{}</text>').format(MARGIN, figure.title)
    chart = Markup('<g transform="translate(0 {})">{}</g>').format(top, content(figure.chart))
    return document(
        Markup().join([title, _legend(figure), chart, *below]),
        WIDTH,
        bottom + LINE_HEIGHT * len(notes),
    )


def document(marks: Markup, width: int, height: int) -> str:
    """An SVG document on white, with the style of all charts."""
    text = Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {0} {1}" width="{0}" height="{1}">'
        '<style>{2}</style><rect width="{0}" height="{1}" fill="#ffffff"/>{3}</svg>\n'
    )
    return str(text.format(width, height, Markup(_style()), marks))


def _style() -> str:
    """The charts' style sheet, with the colours of the light page: not every program that shows an
    SVG knows variables."""
    page = (FOLDER / "page.css").read_text(encoding="utf-8")
    light = page[: page.index("}")]
    colours = dict(re.findall(r"(--\w+): (#\w+)", light))
    rules = (FOLDER / "charts.css").read_text(encoding="utf-8")
    rules = re.sub(r"var\((--\w+)\)", lambda found: colours[found[1]], rules)
    return f"text {{ font-family: {FONTS}; }}\n{rules}"


def _legend(figure: Figure) -> Markup:
    """A swatch and a name for each line and band, in a row."""
    line = Markup('<g class="line {}"><path d="M{} 34h14"/></g>')
    band = Markup('<path class="band {}" d="M{} 29h14v10h-14z"/>')
    name = Markup('<text class="key" x="{}" y="38">{}</text>')
    x, marks = float(MARGIN), []
    for mark in figure.legend:
        swatch = line if isinstance(mark, Series) else band
        marks += [swatch.format(mark.style, x), name.format(x + 19, mark.name)]
        x += 36 + LETTER_WIDTH * len(mark.name)
    return Markup().join(marks)


def why_no_png() -> str:
    """What is missing for PNG files; empty if nothing is."""
    try:
        text = _rasterised(document(Markup('<text x="5" y="20">0</text>'), 30, 30), 1)
    except ImportError:
        return "PNG files need resvg: pip install 'psla-wds[report]'"
    if text == _rasterised(document(Markup(), 30, 30), 1):  # it leaves out what it has no font for
        return "PNG files need a font: install DejaVu Sans (apt-get install fonts-dejavu-core)"
    return ""


def _rasterised(svg: str, zoom: int) -> bytes:
    resvg = import_module("resvg_py")
    return bytes(resvg.svg_to_bytes(svg_string=svg, zoom=zoom))
