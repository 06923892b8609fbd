"""The look of pages: size, contrast in both modes, and their script in a browser."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from run_folders import epoch_line, step_line, write_run

from eval import pages
from eval.pages.comparison import compare, render
from eval.score import Args, score
from psla_wds.evaluation.scores import Scores

CLASSES, CLIPS = 527, 400
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=500,900", "--dump-dom"]
PROBE = """<script>
const column = number => [...document.querySelectorAll("table.sortable tbody tr")]
  .filter(row => !row.hidden).map(row => row.cells[number].textContent);
const click = title => [...document.querySelectorAll(".sortable th button")]
  .find(button => button.textContent === title).click();
click("Positives");
const most = column(2);
click("Positives");
const fewest = column(2);
const field = document.querySelector("input");
field.value = "CLASS 12,";
field.dispatchEvent(new Event("input"));
const found = column(1), count = document.querySelector(".tools output").textContent;
const fits = document.documentElement.scrollWidth <= innerWidth;
const ends = [most[0], fewest.at(-1), fewest[0], most.at(-1)];
document.title = JSON.stringify([...ends, found, count, fits]);
</script>"""


def scores_of(seed: int) -> Scores:
    targets = (np.random.default_rng(0).random((CLIPS, CLASSES)) < 0.02).astype(np.uint8)
    targets[:, 5] = 0
    noise = np.random.default_rng(seed).random((CLIPS, CLASSES))
    names = tuple(f"Class {k}, of sounds that have a long name" for k in range(CLASSES))
    values = (noise + targets * np.linspace(0, 1, CLASSES)).astype(np.float32)
    clip_ids = tuple(f"clip-{i}" for i in range(CLIPS))
    return Scores(clip_ids, values, targets, tuple(f"/m/{k:03d}" for k in range(CLASSES)), names)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A report and a comparison with as many classes as AudioSet has."""
    folder, runs = tmp_path_factory.mktemp("pages"), []
    for number in (1, 2):
        lines = [step_line(50 * i, loss=1 / i) for i in range(1, 40)]
        lines += [epoch_line(i, map_=0.1 * i / number) for i in range(1, 5)]
        runs.append(write_run(folder / f"run-{number}", lines, seed=number, epochs=4))
        scores_of(number).save(runs[-1] / "scores.npz")
    score(Args(runs[0] / "scores.npz", runs[0], runs[0], bootstrap=20))
    report = (runs[0] / "report.html").read_text(encoding="utf-8")
    return {"report": report, "comparison": render(compare(runs, resamples=20), [])}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["report", "comparison"])
def test_classes_are_sorted_and_found_in_a_browser(
    written: dict[str, str], name: str, tmp_path: Path
):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if not chromium:
        pytest.skip("needs chromium: apt-get install chromium")
    page = tmp_path / "page.html"
    page.write_text(written[name] + PROBE, encoding="utf-8")
    words = [chromium, *FLAGS, f"--user-data-dir={tmp_path / 'browser'}", page.as_uri()]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    most = str(scores_of(1).targets.sum(axis=0).max())
    title = re.search("<title>(.*?)</title>", done.stdout)[1]
    assert title == f'["{most}","{most}","0","0",["/m/012"],"1 of {CLASSES}",true]'


def contrast(text: str, ground: str) -> float:
    """WCAG's ratio of two colours, such as #15181e."""
    lights = []
    for colour in (text, ground):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        lights.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(lights) + 0.05) / (min(lights) + 0.05)


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_text_and_lines_stand_out(mode: str):
    style = (Path(pages.__file__).parent / "page.css").read_text()
    light, dark = (dict(re.findall(r"(--\w+): (#\w+)", part)) for part in style.split("}")[:2])
    colours = light if mode == "light" else dark
    assert (contrast("#000000", colours["--paper"]) < 5) == (mode == "dark")
    for name in ("ink", "quiet", "first", "second", "third"):
        assert contrast(colours[f"--{name}"], colours["--paper"]) > 4.5
    for name in ("fourth", "fifth", "sixth"):
        assert contrast(colours[f"--{name}"], colours["--paper"]) > 3
    for name in ("bar", "loss", "wash"):  # grounds of text
        assert contrast(colours["--ink"], colours[f"--{name}"]) > 4.5


def test_pages_with_all_classes_stay_small(written: dict[str, str]):
    assert all(len(page.encode()) < 800_000 for page in written.values())
