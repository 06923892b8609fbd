"""Ensembles of scores: matched by clip id, refused when they are not of the same clips."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scored_models import model, saved, shuffled

from eval.ensemble import ensemble, main, table
from psla_wds.errors import ScoreError
from psla_wds.evaluation.metrics import evaluate
from psla_wds.evaluation.scores import Scores


def test_the_mean_is_taken_clip_by_clip_in_any_order(tmp_path: Path):
    models = [model(seed) for seed in (1, 2, 3)]
    scores, maps = ensemble(saved(tmp_path, models[0], shuffled(models[1]), models[2]))
    mean = np.mean([m.scores for m in models], axis=0, dtype=np.float64)
    np.testing.assert_allclose(scores.scores, mean, rtol=1e-6)
    assert scores.clip_ids == models[0].clip_ids
    assert maps == pytest.approx([evaluate(m.scores, m.targets).mAP for m in models])
    joint = evaluate(scores.scores, scores.targets).mAP
    assert joint > max(maps)  # independent errors average out
    row = ["3", f"{np.mean(maps):.4f}", f"{max(maps):.4f}", f"{joint:.4f}"]
    assert table(scores, maps).splitlines()[1].split() == row


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: replace(s, mids=s.mids[::-1]), "the same classes in another order"),
        (lambda s: replace(s, mids=("/m/9", *s.mids[1:])), "other classes"),
        (lambda s: replace(s, clip_ids=("x", *s.clip_ids[1:])), r"lack 1 of 60 clips \(clip-0\)"),
        (lambda s: replace(s, targets=1 - s.targets), "targets of 60 clips differ"),
    ],
    ids=["class order", "class", "clip", "targets"],
)
def test_scores_of_something_else_are_refused(
    tmp_path: Path, change: Callable[[Scores], Scores], message: str
):
    with pytest.raises(ScoreError, match=message):
        ensemble(saved(tmp_path, model(1), change(model(2))))


def test_one_model_is_not_an_ensemble(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.argv", ["ensemble", "a.npz", "--output=e.npz"])
    with pytest.raises(ScoreError, match="at least two models, not 1"):
        main()
