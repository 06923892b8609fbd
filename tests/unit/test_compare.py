"""Comparisons over the clips that models share, and what goes along with a class's AP."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import run_command

from eval.compare import compare
from eval.correlations import correlate, read_quality
from eval.metrics import evaluate
from eval.scores import Scores
from psla_wds.errors import ScoreError


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
    done = run_command("eval.compare", str(tmp_path / "a.npz"), str(tmp_path / "b.npz"),
                       f"--output={tmp_path / 'c.json'}")  # fmt: skip
    found = json.loads((tmp_path / "c.json").read_text())
    assert found["common_clips"] == 40
    aps = []
    for scores, seed, row in zip((a, b), (1, 2), found["models"], strict=True):
        common = model(seed, range(20, 60))
        metrics = evaluate(common.scores, common.targets)
        aps.append(metrics.average_precision)
        assert row["clips"] == 60 and row["mAP_common"] == pytest.approx(metrics.mAP)
        assert row["mAP"] == pytest.approx(evaluate(scores.scores, scores.targets).mAP)
    assert found["class_AP_correlation"][0]["pearson"] == pytest.approx(np.corrcoef(*aps)[0, 1])
    assert "40 clips are common" in done.stdout


def test_models_without_a_common_clip_or_with_other_targets_are_refused(tmp_path: Path):
    a, b = model(1, range(40)), model(2, range(40, 80))
    a.save(tmp_path / "a.npz")
    b.save(tmp_path / "b.npz")
    replace(a, targets=1 - a.targets).save(tmp_path / "c.npz")
    with pytest.raises(ScoreError, match="no clip is in all"):
        compare([tmp_path / "a.npz", tmp_path / "b.npz"])
    with pytest.raises(ScoreError, match="targets of 40 clips"):
        compare([tmp_path / "a.npz", tmp_path / "c.npz"])
    with pytest.raises(ScoreError, match="nothing to compare"):
        compare([tmp_path / "a.npz"])


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
    from psla_wds.labels import read_class_list

    classes = read_class_list(Path(folder) / "audioset_class_labels_indices.csv")
    quality = read_quality(Path(folder) / "audioset_qa_true_counts.csv", classes.mids)
    assert np.isfinite(quality).sum() == 457  # the others were not rated
    assert quality[classes.find("Speech")] == 1.0
    assert quality[classes.find("Male speech, man speaking")] == 0.9
    assert np.nanmin(quality) >= 0 and np.nanmax(quality) <= 1
