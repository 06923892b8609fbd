"""Comparisons over the clips that models share, and the command that writes them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from run_folders import epoch_line, not_evaluated, step_line, write_run

from eval.compare import Args, write
from eval.pages.comparison import Comparison, compare, render, to_json, to_text
from eval.pages.figures import runs_figures
from psla_wds.errors import ConfigError, PslaError, ScoreError
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


def test_models_are_compared_on_the_clips_that_all_have(tmp_path: Path):
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
    assert '<br><span class="quiet">20 left out</span>' in render(comparison, ["a", "b"])


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"clip_ids": tuple(map(str, range(40)))}, "no clip is in all"),
        ({"targets": 1 - model(1, range(40)).targets}, "targets of 40 clips"),
        ({"mids": tuple(f"/n/{k}" for k in range(6))}, r"other classes \(6 where 6 .*such as /m/0"),
    ],
    ids=["clips", "targets", "classes"],
)
def test_models_of_other_data_are_refused(tmp_path: Path, changes: dict, problem: str):
    first = model(1, range(40))
    with pytest.raises(ScoreError, match=problem):
        compared(tmp_path, first, replace(first, **changes))
    with pytest.raises(ScoreError, match="nothing to compare"):
        compared(tmp_path, first)


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
    # Apart, the two intervals overlap: only the pairs tell the models from one another.
    assert found.models[2].intervals.mAP.low < found.models[0].intervals.mAP.high
    assert to_text(found).count("may be chance") == 3
    page = render(found, [])
    assert page.count("may be chance") == 3
    assert page.count('number rose"') == 6 and page.count('number fell"') == 0
    ends = better.class_bounds.copy()
    ends[:, 0], ends[:, 1] = (-0.1, 0.2), (-0.2, -0.1)
    unclear = replace(found, changes=(same, replace(better, class_bounds=ends)))
    page = render(unclear, [])
    assert page.count('number rose"') == 4 and page.count('number fell"') == 1


def test_classes_that_gain_and_lose_most_are_listed(tmp_path: Path):
    found = compared(tmp_path, model(1, range(80)), model(2, range(80)))
    values = found.changes[0].class_AP
    gains, losses = found.changes[0].extremes(2)
    assert gains == [k for k in np.argsort(-values) if values[k] > 0][:2]
    assert losses == [k for k in np.argsort(values) if values[k] < 0][:2]
    nothing = replace(found.changes[0], class_AP=np.full(6, np.nan))
    assert nothing.extremes(2) == ([], [])
    assert '<dl class="ranking">' in render(replace(found, changes=(nothing,)), [])


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """Two runs of other rates; the second is half done, and its log is cut in the middle."""
    lines = [step_line(50), epoch_line(1), epoch_line(2, map_=0.4)]
    settings = {"epochs": 2, "reader": {"threads": 1}}
    first = write_run(tmp_path / "first", lines, optimizer={"learning_rate": 1e-3}, **settings)
    settings["reader"] = {"threads": 8}
    second = write_run(tmp_path / "second", lines, optimizer={"learning_rate": 5e-4}, **settings)
    log = second / "log.jsonl"
    log.write_bytes(log.read_bytes()[:-20])
    for seed, run in enumerate((first, second)):
        model(seed, range(80)).save(run / "scores.npz")
    return first, second


def test_runs_are_compared_with_their_settings(runs: tuple[Path, Path]):
    found = compare(runs)
    assert found.settings["optimizer.learning_rate"] == ["0.001", "0.0005"]
    text, page = to_text(found), render(found, ["first", "a b"])
    rows = [line.split() for line in text.splitlines()]
    assert ["optimizer.learning_rate", "0.001", "0.0005"] in rows
    doubts = {
        "second is not done: epoch 1 of 2": 1,
        "second: the log ends in the middle of a line, which is left out": 1,
        "first is not done": 0,
    }
    for doubt, count in doubts.items():
        assert text.count(doubt) == page.count(doubt) == count
    learned = page.split("Settings that differ")[1].split("Where things are")[0]
    assert "optimizer.learning_rate" in learned and "reader.threads" not in learned
    assert "eval.compare first &#39;a b&#39;" in page
    curves = runs_figures(found.runs)[0].marks
    assert [(line.name, line.y) for line in curves] == [("first", [0.25, 0.4]), ("second", [0.25])]


def test_a_run_that_was_not_evaluated_is_marked(tmp_path: Path):
    done = write_run(tmp_path / "done", [epoch_line(1)], epochs=1)
    silent = write_run(tmp_path / "silent", [not_evaluated(1)], epochs=1)
    empty = write_run(tmp_path / "empty", [], epochs=1)
    for run in (done, silent, empty):
        model(1, range(80)).save(run / "scores.npz")
    found = compare([done, silent, empty])
    assert "silent was not evaluated while it trained" in to_text(found)
    assert "silent was not evaluated while it trained." in render(found, [])


def test_a_run_without_scores_says_how_to_get_them(runs: tuple[Path, Path]):
    (runs[1] / "scores.npz").unlink()
    with pytest.raises(ScoreError, match=r"no scores\.npz\n.*\n.*eval\.predict .*second --index"):
        compare(runs)


def test_a_comparison_is_written_as_json_and_as_a_page(runs: tuple[Path, Path], tmp_path: Path):
    args = Args(runs, tmp_path / "out" / "c.json", tmp_path / "out" / "c.html")
    assert write(compare(runs, resamples=20), args) == [args.output, args.page]
    written = json.loads(args.output.read_text())
    assert written["resamples"] == 20 and "low" in written["changes"][0]["mAP"]
    assert args.page.read_text(encoding="utf-8").startswith("<!doctype html>")
    (tmp_path / "file").touch()
    with pytest.raises(PslaError, match="cannot write the comparison: File exists"):
        write(compare(runs), replace(args, output=tmp_path / "file" / "c.json"))


@pytest.mark.parametrize("count", [-1, 5])
def test_too_few_resamples_are_refused(count: int):
    with pytest.raises(ConfigError, match="--bootstrap"):
        Args((), bootstrap=count)
