"""Several models as one teacher: the mean of their scores, from files and folders of any kind."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scored_models import model, saved, shuffled

from eval.ensemble import Args, ensemble
from psla_wds.errors import ConfigError, ScoreError
from psla_wds.evaluation import score_folder
from psla_wds.evaluation.score_folder import ScoreFolder, read_top_scores
from psla_wds.evaluation.scores import Scores
from psla_wds.evaluation.teacher import joint_teacher
from psla_wds.labels.class_list import ClassList
from psla_wds.shards.clip_ids import ClipIds
from psla_wds.shards.soft_labels import SoftLabels


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(score_folder, "ROWS_AT_ONCE", 7)


def top_folder(path: Path, scores: Scores, top_k: int) -> Path:
    folder = ScoreFolder(path, ClassList(scores.mids, scores.names), top_k=top_k)
    folder.begin(ClipIds.of(scores.clip_ids))
    folder.write(np.arange(len(scores)), scores.scores)
    folder.finish()
    return path


def learned(folder: Path, num_classes: int = 4) -> np.ndarray:
    top = read_top_scores(folder)
    rows = np.arange(len(top.clip_ids))
    return SoftLabels(top.scores, top.classes, rows, num_classes).targets(rows)


def test_the_mean_is_taken_clip_by_clip_from_files_and_top_scores(tmp_path: Path):
    one, two, three = (model(seed) for seed in (1, 2, 3))
    paths = [*saved(tmp_path, one, shuffled(two)), top_folder(tmp_path / "c", shuffled(three), 2)]
    assert joint_teacher(paths, tmp_path / "t", 4) == 60
    cut = np.where(three.scores >= np.sort(three.scores, axis=1)[:, [-2]], three.scores, 0)
    parts = [one.scores.clip(0, 1), two.scores.clip(0, 1), cut.clip(0, 1)]
    np.testing.assert_allclose(learned(tmp_path / "t"), np.mean(parts, axis=0), atol=1e-3)
    assert list(read_top_scores(tmp_path / "t").clip_ids) == list(one.clip_ids)


def test_it_keeps_the_highest_means(tmp_path: Path):
    models = [model(seed) for seed in (1, 2)]
    joint_teacher(saved(tmp_path, *models), tmp_path / "t", 2)
    mean = np.mean([m.scores.clip(0, 1) for m in models], axis=0)
    highest = np.where(mean >= np.sort(mean, axis=1)[:, [-2]], mean, 0)
    np.testing.assert_allclose(learned(tmp_path / "t"), highest, atol=1e-3)


def test_scores_of_something_else_are_refused_and_nothing_is_written(tmp_path: Path):
    one, two = model(1), model(2)
    stranger = replace(two, clip_ids=("x", *two.clip_ids[1:]))
    fewer = replace(two, clip_ids=two.clip_ids[1:], scores=two.scores[1:], targets=two.targets[1:])
    for other, message in (
        (replace(two, mids=two.mids[::-1]), "classes differ from those of .*, or their order"),
        (stranger, r"60 clips lack 1 of the 60 of .*0.npz, such as clip-0"),
        (fewer, r"59 clips lack 1 of the 60"),
    ):
        with pytest.raises(ScoreError, match=message):
            joint_teacher(saved(tmp_path, one, other), tmp_path / "t", 2)
    with pytest.raises(ScoreError, match="60 clips lack 0 of the 59"):
        joint_teacher(saved(tmp_path, fewer, two), tmp_path / "t", 2)
    with pytest.raises(ConfigError, match="a clip has 4 scores, not 5"):
        joint_teacher(saved(tmp_path, one, two), tmp_path / "t", 5)
    assert not list(tmp_path.glob("t*"))


def test_top_scores_alone_make_no_score_file(tmp_path: Path):
    paths = [top_folder(tmp_path / name, model(1), 2) for name in "ab"]
    with pytest.raises(ScoreError, match="only the highest scores of each clip"):
        ensemble(paths)


def test_top_k_needs_a_folder():
    for changes in ({"top_k": 0}, {"output": Path("e.npz")}):
        with pytest.raises(ConfigError, match="cannot be written to"):
            Args(**{"scores": (), "output": Path("e"), "top_k": 3} | changes)
