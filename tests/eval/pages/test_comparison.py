"""Comparisons over the clips that models share, and the command that writes them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from run_folders import epoch_line, not_evaluated, step_line, write_run

from eval.compare import main
from eval.pages.comparison import Comparison, compare, render, to_json, to_text
from psla_wds.errors import ScoreError
from psla_wds.evaluation.metrics import evaluate
from psla_wds.evaluation.scores import Scores


def model(seed: int, clips: range) -> Scores:
    """Scores of some clips of one set of 80."""
    targets = (np.random.default_rng(0).random((80, 6)) < 0.3).astype(np.uint8)
    scores = (0.3 * targets + np.random.default_rng(seed).random((80, 6))).astype(np.float32)
    mids = tuple(f"/m/{k}" for k in range(6))
    rows = list(clips)
    return Scores(tuple(f"clip-{i}" for i in rows), scores[rows], targets[rows], mids, mids)


def compared(folder: Path, *scores: Scores, resamples: int = 20) -> Comparison:
    paths = [folder / f"{number}.npz" for number in range(len(scores))]
    for path, each in zip(paths, scores, strict=True):
        each.save(path)
    return compare(paths, resamples=resamples)


def test_models_are_compared_on_common_clips(tmp_path: Path):
    whole = model(1, range(0, 60)), model(2, range(79, 19, -1))
    comparison = compared(tmp_path, *whole)
    found = json.loads(to_json(comparison))
    common = [model(seed, range(20, 60)) for seed in (1, 2)]
    metrics = [evaluate(scores.scores, scores.targets) for scores in common]
    assert found["common_clips"] == 40
    for scores, expected, row in zip(whole, metrics, found["models"], strict=True):
        assert row["clips"] == 60 and row["mAP_common"] == pytest.approx(expected.mAP)
        assert row["mAP"] == pytest.approx(evaluate(scores.scores, scores.targets).mAP)
    aps = np.array([each.average_precision for each in metrics])
    np.testing.assert_allclose([row["AP"] for row in found["classes"]], aps.T)
    change = comparison.changes[0]
    assert change.means["mAP"] == pytest.approx((aps[1] - aps[0]).mean())
    order = np.argsort(-change.class_AP)
    assert change.extremes(2) == (
        [k for k in order if change.class_AP[k] > 0][:2],
        [k for k in order[::-1] if change.class_AP[k] < 0][:2],
    )
    assert "40 clips are common" in to_text(comparison)
    assert '<br><span class="quiet">20 left out</span>' in render(comparison, [])


def test_incomparable_scores_are_refused(tmp_path: Path):
    first = model(1, range(40))
    for changes, problem in (
        ({"clip_ids": tuple(map(str, range(40)))}, "no clip is in all"),
        ({"targets": 1 - first.targets}, "targets of 40 clips"),
        ({"mids": tuple(f"/n/{k}" for k in range(6))}, "other classes"),
    ):
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
    # Apart, the two intervals overlap: only the pairs separate the models.
    assert found.models[2].intervals.mAP.low < found.models[0].intervals.mAP.high
    ends = better.class_bounds.copy()
    ends[:, 0], ends[:, 1] = (-0.1, 0.2), (-0.2, -0.1)
    page = render(replace(found, changes=(same, replace(better, class_bounds=ends))), [])
    assert to_text(found).count("may be chance") == page.count("may be chance") == 3
    assert page.count('number rose"') == 4 and page.count('number fell"') == 1


def test_runs_are_compared_with_their_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    lines = [step_line(50), epoch_line(1), epoch_line(2, map_=0.4)]
    betas = {"first": [0.9, 0.9], "second": [0.8, 0.9], "silent": [0.9, 0.9]}
    runs = [
        write_run(tmp_path / name, lines, epochs=2, reader={"threads": n}, optimizer={"betas": b})
        for n, (name, b) in enumerate(betas.items(), 1)
    ]
    log = runs[1] / "log.jsonl"
    log.write_bytes(log.read_bytes()[:-20])
    (runs[2] / "log.jsonl").write_text("\n".join(map(not_evaluated, (1, 2))))
    for seed, run in enumerate(runs):
        model(seed, range(80)).save(run / "scores.npz")
    output, page = tmp_path / "out" / "c.json", tmp_path / "out" / "c.html"
    words = [*map(str, runs), f"--output={output}", f"--page={page}", "--bootstrap=20"]
    monkeypatch.setattr("sys.argv", ["compare", *words])
    main()
    text, html = capsys.readouterr().out, page.read_text(encoding="utf-8")
    assert text.endswith(f"wrote {output} and {page}; next: open {page} in a browser\n")
    found = json.loads(output.read_text())
    assert found["settings"]["optimizer.betas"] == ["[0.9, 0.9]", "[0.8, 0.9]", "[0.9, 0.9]"]
    assert found["resamples"] == 20 and "low" in found["changes"][0]["mAP"]
    doubts = {
        "second is not done: epoch 1 of 2": 1,
        "second: the last line of the log is cut, and left out": 1,
        "silent was not evaluated while it trained": 1,
        "first is not done": 0,
    }
    for doubt, count in doubts.items():
        assert text.count(doubt) == html.count(doubt) == count
    learned = html.split("Settings that differ")[1].split("Paths, speed")[0]
    assert "optimizer.betas" in learned and "reader.threads" not in learned
    assert f"psla-wds compare {' '.join(words)}</pre>" in html
    (runs[1] / "scores.npz").unlink()
    with pytest.raises(
        ScoreError, match=r"no scores\.npz\n.*\n.*psla-wds predict .*second --index"
    ):
        compare(runs)
