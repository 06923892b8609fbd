"""Comparisons over the clips that models share, and the command that writes them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from run_folders import epoch_line, not_evaluated, step_line, write_run

from eval.compare import main
from eval.pages.comparison import Comparison, compare, render, to_json, to_text
from eval.pages.figures import runs_figures
from psla_wds.errors import ConfigError, ScoreError
from psla_wds.evaluation.metrics import evaluate
from psla_wds.evaluation.scores import Scores


def model(seed: int, clips: range) -> Scores:
    """Scores of some clips of one set of 80."""
    targets = (np.random.default_rng(0).random((80, 6)) < 0.3).astype(np.uint8)
    scores = (0.3 * targets + np.random.default_rng(seed).random((80, 6))).astype(np.float32)
    mids = tuple(f"/m/{k}" for k in range(6))
    rows = list(clips)
    return Scores(tuple(f"clip-{i}" for i in rows), scores[rows], targets[rows], mids, mids)


def compared(folder: Path, *scores: Scores, resamples: int = 0) -> Comparison:
    paths = [folder / f"{name}.npz" for name, _ in zip("abc", scores, strict=False)]
    for path, each in zip(paths, scores, strict=True):
        each.save(path)
    return compare(paths, resamples=resamples)


def test_models_are_compared_on_common_clips(tmp_path: Path):
    a, b = model(1, range(0, 60)), model(2, range(79, 19, -1))
    comparison = compared(tmp_path, a, b)
    found = json.loads(to_json(comparison))
    assert found["common_clips"] == 40
    aps = []
    for scores, seed, row in zip((a, b), (1, 2), found["models"], strict=True):
        common = model(seed, range(20, 60))
        metrics = evaluate(common.scores, common.targets)
        aps.append(metrics.average_precision)
        assert row["clips"] == 60 and row["mAP_common"] == pytest.approx(metrics.mAP)
        assert row["mAP"] == pytest.approx(evaluate(scores.scores, scores.targets).mAP)
    np.testing.assert_allclose([row["AP"] for row in found["classes"]], np.array(aps).T)
    assert comparison.changes[0].means["mAP"] == pytest.approx((aps[1] - aps[0]).mean())
    assert "40 clips are common" in to_text(comparison)
    assert '<br><span class="quiet">20 left out</span>' in render(comparison, [])


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"clip_ids": tuple(map(str, range(40)))}, "no clip is in all"),
        ({"targets": 1 - model(1, range(40)).targets}, "targets of 40 clips"),
        ({"mids": tuple(f"/n/{k}" for k in range(6))}, r"other classes \(6 where 6 .*such as /m/0"),
    ],
    ids=["clips", "targets", "classes"],
)
def test_incomparable_scores_are_refused(tmp_path: Path, changes: dict, problem: str):
    first = model(1, range(40))
    with pytest.raises(ScoreError, match=problem):
        compared(tmp_path, first, replace(first, **changes))
    with pytest.raises(ScoreError, match="nothing to compare"):
        compared(tmp_path, first)
    with pytest.raises(ConfigError, match="too few"):
        compared(tmp_path, first, first, resamples=5)


def test_intervals_of_changes_are_paired(tmp_path: Path):
    a = model(1, range(80))
    noise = np.random.default_rng(3).random((80, 6))
    better = (a.scores + 0.2 * a.targets * noise).astype(np.float32)
    found = compared(tmp_path, a, a, replace(a, scores=better), resamples=100)
    same, better = found.changes
    assert same.means["mAP"] == same.bounds["mAP"].low == same.bounds["mAP"].high == 0
    assert not same.is_clear("mAP") and not np.nan_to_num(same.class_bounds).any()
    assert better.bounds["mAP"].low < better.means["mAP"] < better.bounds["mAP"].high
    assert better.is_clear("mAP") and better.is_clear("mAUC")
    # Apart, the two intervals overlap: only the pairs separate the models.
    assert found.models[2].intervals.mAP.low < found.models[0].intervals.mAP.high
    ends = better.class_bounds.copy()
    ends[:, 0], ends[:, 1] = (-0.1, 0.2), (-0.2, -0.1)
    page = render(replace(found, changes=(same, replace(better, class_bounds=ends))), [])
    assert to_text(found).count("may be chance") == page.count("may be chance") == 3
    assert page.count('number rose"') == 4 and page.count('number fell"') == 1


def test_the_largest_gains_and_losses_are_listed(tmp_path: Path):
    found = compared(tmp_path, model(1, range(80)), model(2, range(80)))
    values = found.changes[0].class_AP
    gains, losses = found.changes[0].extremes(2)
    assert gains == [k for k in np.argsort(-values) if values[k] > 0][:2]
    assert losses == [k for k in np.argsort(values) if values[k] < 0][:2]
    nothing = replace(found.changes[0], class_AP=np.full(6, np.nan))
    assert '<dl class="ranking">' in render(replace(found, changes=(nothing,)), [])


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """Two runs of other rates; the second is half done, and its log is cut in the middle."""
    lines = [step_line(50), epoch_line(1), epoch_line(2, map_=0.4)]
    first, second = (
        write_run(
            tmp_path / name,
            lines,
            epochs=2,
            reader={"threads": threads},
            optimizer={"learning_rate": rate},
        )
        for name, threads, rate in (("first", 1, 1e-3), ("second", 8, 5e-4))
    )
    log = second / "log.jsonl"
    log.write_bytes(log.read_bytes()[:-20])
    for seed, run in enumerate((first, second)):
        model(seed, range(80)).save(run / "scores.npz")
    return first, second


def test_runs_are_compared_with_their_settings(runs: tuple[Path, Path], tmp_path: Path):
    silent = write_run(tmp_path / "silent", [not_evaluated(1)], epochs=1)
    model(1, range(80)).save(silent / "scores.npz")
    found = compare([*runs, silent])
    assert found.settings["optimizer.learning_rate"] == ["0.001", "0.0005", "0.0001"]
    text, page = to_text(found), render(found, ["first", "a b"])
    doubts = {
        "second is not done: epoch 1 of 2": 1,
        "second: the last line of the log is cut, and left out": 1,
        "silent was not evaluated while it trained": 1,
        "first is not done": 0,
    }
    for doubt, count in doubts.items():
        assert text.count(doubt) == page.count(doubt) == count
    learned = page.split("Settings that differ")[1].split("Paths, speed")[0]
    assert "optimizer.learning_rate" in learned and "reader.threads" not in learned
    assert "eval.compare first &#39;a b&#39;" in page
    curves = runs_figures(found.runs)[0].marks
    assert [line.name for line in curves] == ["first", "second", "silent"]
    assert [line.y for line in curves[:2]] == [[0.25, 0.4], [0.25]]


def test_a_run_without_scores_says_how_to_get_them(runs: tuple[Path, Path]):
    (runs[1] / "scores.npz").unlink()
    with pytest.raises(ScoreError, match=r"no scores\.npz\n.*\n.*eval\.predict .*second --index"):
        compare(runs)


def test_the_command_writes_json_and_a_page(
    runs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    output, page = tmp_path / "out" / "c.json", tmp_path / "out" / "c.html"
    words = ["compare", *map(str, runs), f"--output={output}", f"--page={page}", "--bootstrap=20"]
    monkeypatch.setattr("sys.argv", words)
    main()
    written = json.loads(output.read_text())
    assert written["resamples"] == 20 and "low" in written["changes"][0]["mAP"]
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert capsys.readouterr().out.endswith(f"wrote {output} and {page}; next: open {page}\n")
