"""Comparisons over the clips that models share, and what goes along with a class's AP."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from run_folders import epoch_line, not_evaluated, step_line, write_run

from eval.compare import Args, to_json, to_text, write
from eval.comparison import compare
from eval.comparison_page import render
from eval.correlations import correlate, read_quality
from eval.run_charts import runs_figures
from psla_wds.errors import PslaError, ScoreError
from psla_wds.evaluation.metrics import evaluate
from psla_wds.evaluation.scores import Scores


def model(seed: int, clips: range) -> Scores:
    """Scores of some clips of one set of 80."""
    targets = (np.random.default_rng(0).random((80, 6)) < 0.3).astype(np.uint8)
    scores = (0.3 * targets + np.random.default_rng(seed).random((80, 6))).astype(np.float32)
    mids = tuple(f"/m/{k}" for k in range(6))
    rows = list(clips)
    return Scores(tuple(f"clip-{i}" for i in rows), scores[rows], targets[rows], mids, mids)


def test_models_are_compared_on_the_clips_that_all_have(tmp_path: Path):
    a, b = model(1, range(0, 60)), model(2, range(79, 19, -1))
    a.save(tmp_path / "a.npz")
    b.save(tmp_path / "b.npz")
    comparison = compare([tmp_path / "a.npz", tmp_path / "b.npz"])
    found = json.loads(json.dumps(to_json(comparison), allow_nan=False))
    assert found["common_clips"] == 40
    aps = []
    for scores, seed, row in zip((a, b), (1, 2), found["models"], strict=True):
        common = model(seed, range(20, 60))
        metrics = evaluate(common.scores, common.targets)
        aps.append(metrics.average_precision)
        assert row["clips"] == 60 and row["mAP_common"] == pytest.approx(metrics.mAP)
        assert row["mAP"] == pytest.approx(evaluate(scores.scores, scores.targets).mAP)
    assert found["class_AP_correlation"][0]["pearson"] == pytest.approx(np.corrcoef(*aps)[0, 1])
    np.testing.assert_allclose([row["AP"] for row in found["classes"]], np.array(aps).T)
    assert comparison.changes[0].means["mAP"] == pytest.approx((aps[1] - aps[0]).mean())
    assert "40 clips are common" in to_text(comparison)
    assert '<br><span class="quiet">20 left out</span>' in render(comparison, ["a", "b"])


def test_models_without_a_common_clip_or_with_other_labels_are_refused(tmp_path: Path):
    a, b = model(1, range(40)), model(2, range(40, 80))
    others = {
        "b": b,
        "c": replace(a, targets=1 - a.targets),
        "d": replace(a, mids=tuple(f"/n/{k}" for k in range(6))),
    }
    for name, scores in {"a": a, **others}.items():
        scores.save(tmp_path / f"{name}.npz")
    for name, problem in (
        ("b", "no clip is in all"),
        ("c", "targets of 40 clips"),
        ("d", r"other classes \(6 where 6 .*12 are on one side only, such as /m/0, /m/1, /m/2"),
    ):
        with pytest.raises(ScoreError, match=problem):
            compare([tmp_path / "a.npz", tmp_path / f"{name}.npz"])
    with pytest.raises(ScoreError, match="nothing to compare"):
        compare([tmp_path / "a.npz"])


def test_intervals_of_changes_are_paired(tmp_path: Path):
    a = model(1, range(80))
    noise = np.random.default_rng(3).random((80, 6))
    better = (a.scores + 0.2 * a.targets * noise).astype(np.float32)
    for name, scores in (("a", a), ("same", a), ("better", replace(a, scores=better))):
        scores.save(tmp_path / f"{name}.npz")
    found = compare([tmp_path / f"{n}.npz" for n in ("a", "same", "better")], resamples=100)
    same, better = found.changes
    assert same.means["mAP"] == same.bounds["mAP"].low == same.bounds["mAP"].high == 0
    assert not same.is_clear("mAP") and not np.nan_to_num(same.class_bounds).any()
    assert better.bounds["mAP"].low < better.means["mAP"] < better.bounds["mAP"].high
    assert better.is_clear("mAP") and better.is_clear("mAUC")
    # Apart, the two intervals overlap: only the pairs tell the models from one another.
    assert found.models[2].intervals.mAP.low < found.models[0].intervals.mAP.high
    text = to_text(found)
    assert text.count("which may be chance") == 3 and text.count("95 %: ") == 6
    page = render(found, [])
    assert page.count("may be chance") == 3
    assert page.count('number rose"') == 6 and page.count('number fell"') == 0
    assert page.count("0.000 to 0.000</span>") == 6  # of the model that is the same
    ends = better.class_bounds.copy()
    ends[:, 0], ends[:, 1] = (-0.1, 0.2), (-0.2, -0.1)
    unclear = replace(found, changes=(same, replace(better, class_bounds=ends)))
    page = render(unclear, [])
    assert page.count('number rose"') == 4 and page.count('number fell"') == 1


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


def test_runs_are_compared_with_their_settings_and_how_far_they_came(runs: tuple[Path, Path]):
    found = compare(runs)
    assert found.settings["optimizer.learning_rate"] == ["0.001", "0.0005"]
    text = to_text(found)
    assert ["optimizer.learning_rate", "0.001", "|", "0.0005"] in [
        line.split() for line in text.splitlines()
    ]
    assert "second is not done: epoch 1 of 2" in text and "first is not done" not in text
    assert "second: the log ends in the middle of a line, which is left out" in text
    page = render(found, ["first", "a b"])
    assert page.count("the log ends in the middle of a line") == 1
    learned = page.split("Settings that differ")[1].split("Where things are")[0]
    assert "optimizer.learning_rate" in learned and "reader.threads" not in learned
    assert "1 of 2" in page and "eval.compare first &#39;a b&#39;" in page
    curves = runs_figures(found.runs)[0].chart.marks
    assert [(line.name, line.y) for line in curves] == [("first", [0.25, 0.4]), ("second", [0.25])]


def test_a_run_that_was_not_evaluated_is_marked_and_has_no_curve(tmp_path: Path):
    done = write_run(tmp_path / "done", [epoch_line(1)], epochs=1)
    silent = write_run(tmp_path / "silent", [not_evaluated(1)], epochs=1)
    for run in (done, silent):
        model(1, range(80)).save(run / "scores.npz")
    found = compare([done, silent])
    assert "silent was not evaluated while it trained" in to_text(found)
    assert "Not evaluated while it trained: silent." in render(found, [])


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


def test_correlations_are_over_the_classes_that_have_both():
    first = np.array([0.1, 0.2, np.nan, 0.4, 0.9])
    second = np.array([10.0, 1e6, 5.0, np.nan, 2e6])
    found = correlate(first, second)
    assert found.classes == 3 and found.spearman == pytest.approx(1.0)
    assert found.pearson == pytest.approx(np.corrcoef([0.1, 0.2, 0.9], [10, 1e6, 2e6])[0, 1])
    assert np.isnan(correlate(first[:2], np.ones(2)).pearson)


@pytest.mark.parametrize(
    "text", ["", "label_id,num_rated\n/m/0,1\n", "label_id,num_rated,num_true\n/m/0,x,y\n"]
)
def test_ratings_that_cannot_be_read_are_told(tmp_path: Path, text: str):
    (tmp_path / "q.csv").write_text(text)
    if not text:
        (tmp_path / "q.csv").unlink()
    with pytest.raises(ScoreError, match="ratings cannot be read"):
        read_quality(tmp_path / "q.csv", ["/m/0"])


def test_audiosets_ratings_give_a_quality_to_all_classes_that_were_rated():
    folder = os.environ.get("PSLA_AUDIOSET_META")
    if not folder:
        pytest.skip("PSLA_AUDIOSET_META names no folder of AudioSet's metadata")
    from psla_wds.labels.class_list import read_class_list

    classes = read_class_list(Path(folder) / "audioset_class_labels_indices.csv")
    quality = read_quality(Path(folder) / "audioset_qa_true_counts.csv", classes.mids)
    assert np.isfinite(quality).sum() == 457  # the others were not rated
    assert quality[classes.find("Speech")] == 1.0
    assert quality[classes.find("Male speech, man speaking")] == 0.9
    assert np.nanmin(quality) >= 0 and np.nanmax(quality) <= 1
