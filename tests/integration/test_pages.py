"""The pages in a browser: clicks, searches, dark mode, a phone, paper; no scripts, no network."""

import base64
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_folders import epoch_line, step_line, write_run

from eval.compare import Args as CompareArgs
from eval.compare import write
from eval.comparison import compare
from eval.score import Args, score
from psla_wds.evaluation.scores import Scores

pytestmark = pytest.mark.slow

CLASSES, CLIPS = 527, 2000
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PHONE, DESKTOP = 390, 1100


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A report and a comparison of as many classes as AudioSet has."""
    folder = tmp_path_factory.mktemp("pages")
    runs = []
    for number in (1, 2):
        lines = [step_line(50 * i, loss=1 / i) for i in range(1, 40)]
        lines += [epoch_line(i, map_=0.1 * i / number) for i in range(1, 5)]
        run = write_run(folder / f"run-{number}", lines, seed=number, epochs=4)
        scores_of(number).save(run / "scores.npz")
        runs.append(run)
    score(Args(runs[0] / "scores.npz", runs[0], runs[0], bootstrap=20))
    page = folder / "comparison.html"
    write(compare(runs, resamples=20), CompareArgs(tuple(runs), page=page))
    return {"report": runs[0] / "report.html", "comparison": page}


def scores_of(seed: int) -> Scores:
    targets = (np.random.default_rng(0).random((CLIPS, CLASSES)) < 0.02).astype(np.uint8)
    targets[:, 5] = 0
    noise = np.random.default_rng(seed).random((CLIPS, CLASSES))
    names = tuple(f"Class {k}, of sounds that have a long name" for k in range(CLASSES))
    values = (noise + targets * np.linspace(0, 1, CLASSES)).astype(np.float32)
    clip_ids = tuple(f"clip-{i}" for i in range(CLIPS))
    return Scores(clip_ids, values, targets, tuple(f"/m/{k:03d}" for k in range(CLASSES)), names)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("needs chromium and its driver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield opened
    opened.quit()


def show(browser: Any, page: Path, *, width: int = DESKTOP, **emulated: str) -> None:
    """Open a page at a width in px, with scripts unless told otherwise."""
    features = [{"name": "prefers-color-scheme", "value": emulated.get("scheme", "light")}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.execute_cdp_cmd(
        "Emulation.setScriptExecutionDisabled", {"value": "scripts" in emulated}
    )
    browser.get(page.as_uri())


def column(browser: Any, number: int) -> list[str]:
    """The texts of a column of the table of classes, of the rows that show."""
    return browser.execute_script(
        "return [...document.querySelector('table.sortable').tBodies[0].rows]"
        ".filter(row => row.offsetParent).map(row => row.cells[arguments[0]].textContent)",
        number,
    )


def click(browser: Any, title: str) -> None:
    (button,) = [
        b for b in browser.find_elements("css selector", ".sortable th button") if b.text == title
    ]
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
    button.click()


@pytest.mark.parametrize("name", ["report", "comparison"])
def test_classes_are_sorted_by_a_click_and_back_by_another(browser, pages, name: str):
    show(browser, pages[name])
    names = column(browser, 0)
    assert len(names) == CLASSES
    click(browser, "Positives")
    positives = [int(text.replace(",", "")) for text in column(browser, 2)]
    assert positives == sorted(positives, reverse=True)
    click(browser, "Positives")
    assert column(browser, 2)[0] == "0"
    click(browser, "Mid")
    assert column(browser, 1) == [f"/m/{k:03d}" for k in range(CLASSES)]
    assert sorted(column(browser, 0)) == sorted(names)


def test_classes_without_a_value_come_last_either_way(browser, pages):
    show(browser, pages["report"])
    for _ in range(2):
        click(browser, "AP")
        values = column(browser, 3)
        assert values[-1] == "\N{EN DASH}" and "\N{EN DASH}" not in values[:-1]


@pytest.mark.parametrize("name", ["report", "comparison"])
def test_classes_are_found_by_name_and_by_mid(browser, pages, name: str):
    show(browser, pages[name])
    field = browser.find_element("css selector", "input[type=search]")
    field.send_keys("CLASS 12,")
    assert column(browser, 1) == ["/m/012"]
    assert browser.find_element("css selector", ".tools output").text == f"1 of {CLASSES}"
    field.clear()
    field.send_keys("/m/52")
    assert sorted(column(browser, 1)) == [f"/m/{k}" for k in range(520, 527)]


@pytest.mark.parametrize("width", [PHONE, DESKTOP], ids=["phone", "desktop"])
@pytest.mark.parametrize("name", ["report", "comparison"])
def test_a_page_is_no_wider_than_its_window(browser, pages, name: str, width: int):
    show(browser, pages[name], width=width)
    assert browser.execute_script("return document.documentElement.scrollWidth") == width
    cut = browser.execute_script(
        "return [...document.querySelectorAll('h1, h2, h3, p, figure, dl, summary')].filter("
        "e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.textContent)"
    )
    assert not cut
    small = browser.execute_script(
        "return [...document.querySelectorAll('body *')].filter(e => e.textContent.trim() &&"
        " !e.children.length && !e.closest('svg') && !e.matches('script, style')"
        " && parseFloat(getComputedStyle(e).fontSize) < 10).length"
    )
    assert small == 0


@pytest.mark.parametrize("name", ["report", "comparison"])
def test_numbers_stand_on_one_line_on_a_phone(browser, pages, name: str):
    show(browser, pages[name], width=PHONE)
    broken = browser.execute_script(
        "const lines = e => { const range = document.createRange();"
        " range.selectNode(e); return new Set([...range.getClientRects()].map(r => r.top)).size; };"
        "return [...document.querySelectorAll('td.number')].filter(td => [...td.childNodes].some("
        " n => n.nodeType === 3 && n.textContent.trim() && lines(n) > 1)).length"
    )
    assert broken == 0
    ends = browser.find_elements("css selector", "table.sortable td .quiet")
    assert len(ends) >= CLASSES - 1 and ends[0].is_displayed()  # one class has no positives


def contrast(text: str, ground: str) -> float:
    """WCAG's ratio of two colours as a browser writes them."""
    lights = []
    for colour in (text, ground):
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        lights.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(lights) + 0.05) / (min(lights) + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["report", "comparison"])
def test_text_stands_out_in_light_and_in_the_dark(browser, pages, name: str, scheme: str):
    show(browser, pages[name], scheme=scheme)
    ground = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (contrast("rgb(0, 0, 0)", ground) < 5) == (scheme == "dark")
    colours = browser.execute_script(
        "return [...document.querySelectorAll('h1, p, td, th, dt, dd, nav a, summary, svg text')]"
        ".map(e => [e.tagName, getComputedStyle(e)[e.closest('svg') ? 'fill' : 'color']])"
    )
    weak = {(tag, colour) for tag, colour in colours if contrast(colour, ground) < 4.5}
    assert not weak
    lines = browser.execute_script(
        "return [...document.querySelectorAll('.line path')].map(e => getComputedStyle(e).stroke)"
    )
    assert lines and all(contrast(colour, ground) > 3 for colour in lines)


@pytest.mark.parametrize("name", ["report", "comparison"])
def test_a_page_says_nothing_to_the_console_and_asks_for_nothing(browser, pages, name: str):
    browser.get_log("browser"), browser.get_log("performance")
    show(browser, pages[name])
    assert browser.get_log("browser") == []
    asked = re.findall(r'"url":"([^"]+)"', str(browser.get_log("performance")))
    assert asked and {url for url in asked if not url.startswith("data:")} == {pages[name].as_uri()}


def test_all_of_it_can_be_read_without_scripts(browser, pages):
    show(browser, pages["report"], scripts="off")
    text = browser.find_element("css selector", "body").text
    assert text.count("of sounds that have a long name") > CLASSES
    assert not browser.find_element("css selector", ".tools").is_displayed()
    for link in browser.find_elements("css selector", "nav a"):
        target = link.get_dom_attribute("href").removeprefix("#")
        assert browser.find_elements("id", target)


@pytest.mark.parametrize("name", ["report", "comparison"])
def test_a_page_prints_on_paper_with_its_table_whole(browser, pages, name: str):
    show(browser, pages[name], scheme="dark")
    pdf = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {})["data"])
    assert 8 < len(re.findall(rb"/Type\s*/Page\b", pdf)) < 40
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert not browser.find_element("css selector", ".tools").is_displayed()
    ground = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert contrast("rgb(0, 0, 0)", ground) == pytest.approx(21)


def test_pages_of_all_of_audiosets_classes_stay_small(pages):
    assert all(page.stat().st_size < 800_000 for page in pages.values())
