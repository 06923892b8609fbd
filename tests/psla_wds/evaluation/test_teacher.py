"""A teacher's scores: kept, found by clip id, mixed as clips are, refused if they do not fit."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from label_overlays import named_index
from scored_models import model, saved, shuffled

from eval.ensemble import Args, ensemble
from psla_wds.errors import ConfigError, ScoreError
from psla_wds.evaluation import score_folder
from psla_wds.evaluation.score_folder import META, ScoreFolder, read_top_scores, top_scores
from psla_wds.evaluation.scores import Scores
from psla_wds.evaluation.teacher import apply_teacher, joint_teacher
from psla_wds.labels.class_list import ClassList
from psla_wds.sampling.augment import mixed_targets, plain_draws
from psla_wds.shards.clip_ids import ClipIds
from psla_wds.shards.index import ShardIndex
from psla_wds.shards.soft_labels import SoftLabels

MIDS = ("/m/a", "/m/b", "/m/c", "/m/d", "/m/e")
SCORES = np.random.default_rng(0).random((6, 5)).astype(np.float32)
IDS = tuple(f"clip-{'x' * i}{i}" for i in range(6))


@pytest.fixture
def index() -> ShardIndex:
    return named_index({clip_id: [i % 5] for i, clip_id in enumerate(IDS)}, MIDS)


def write(folder: Path, index: ShardIndex, scores: np.ndarray, top_k: int) -> Path:
    """In two parts, as two ranks write them."""
    writer = ScoreFolder(folder, index.classes, top_k=top_k)
    writer.begin(index.clip_ids)
    for rows in (np.arange(1, len(index), 2), np.arange(0, len(index), 2)):
        writer.write(rows, scores[rows])
    assert not folder.exists()
    writer.finish()
    return folder


def densely(scores: np.ndarray, k: int) -> np.ndarray:
    """All but the k highest of each clip are 0; in half precision, within 0 and 1."""
    kth = np.sort(scores, axis=1)[:, -k][:, None]
    return np.where(scores >= kth, scores, 0).astype(np.float16).astype(np.float32).clip(0, 1)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_the_highest_scores_of_a_clip_are_its_soft_labels(index: ShardIndex, tmp_path: Path, k):
    scores = SCORES * 1.5 - 0.1  # a head may leave [0, 1]
    taught = apply_teacher(index, write(tmp_path / "t", index, scores, k))
    rows = np.array([4, 0, 4, 5])
    np.testing.assert_array_equal(taught.soft_labels.targets(rows), densely(scores, k)[rows])
    stored = read_top_scores(tmp_path / "t")
    assert stored.scores.nbytes + stored.classes.nbytes == 4 * k * len(index)
    assert [path.name for path in tmp_path.iterdir()] == ["t"]
    equal, first = top_scores(np.array([[0.5, 0.1, 0.5, 0.5]], np.float32), 2)
    assert (equal.tolist(), first.tolist()) == ([[0.5, 0.5]], [[0, 2]])


def test_clips_are_found_by_their_ids_in_any_choice_of_them(index: ShardIndex, tmp_path: Path):
    folder = write(tmp_path / "t", index, SCORES, 3)
    some = index.select(np.array([5, 2, 3]), "some")
    taught = apply_teacher(some, folder)
    expected = densely(SCORES, 3)[[5, 2, 3]]
    np.testing.assert_array_equal(taught.soft_labels.targets(np.arange(3)), expected)
    fewer = taught.select(np.array([2, 0]), "fewer")
    np.testing.assert_array_equal(fewer.soft_labels.targets(np.arange(2)), expected[[2, 0]])


def test_soft_targets_are_mixed_as_the_clips_are(index: ShardIndex, tmp_path: Path):
    taught = apply_teacher(index, write(tmp_path / "t", index, SCORES, 5))
    draws = replace(
        plain_draws(np.array([3, 1])),
        partners=np.array([-1, 4]),
        lam=np.array([1, 0.7], np.float32),
    )
    soft, kept = mixed_targets(taught.soft_labels, draws), densely(SCORES, 5)
    np.testing.assert_array_equal(soft[0], kept[3])
    np.testing.assert_allclose(soft[1], 0.7 * kept[1] + 0.3 * kept[4], rtol=1e-6)


def test_the_fingerprint_differs_with_the_teacher(index: ShardIndex, tmp_path: Path):
    other = SCORES.copy()
    other[2, 1] += 0.01
    folders = [write(tmp_path / n, index, s, 5) for n, s in (("a", SCORES), ("b", other))]
    again = write(tmp_path / "c", index, SCORES, 5)
    prints = [apply_teacher(index, folder).fingerprint for folder in (*folders, again)]
    assert prints[0] == prints[2] and len({index.fingerprint, *prints}) == 3


def test_a_clip_that_was_not_scored_is_an_error(index: ShardIndex, tmp_path: Path):
    folder = write(tmp_path / "t", index.select(np.array([0, 1, 3, 5]), "some"), SCORES, 2)
    with pytest.raises(ScoreError, match=rf"not scored 2 of 6 clips: {IDS[2]}, {IDS[4]}"):
        apply_teacher(index, folder)


def test_other_classes_are_refused(index: ShardIndex, tmp_path: Path):
    folder = write(tmp_path / "t", index, SCORES, 2)
    labels = {clip_id: [0] for clip_id in IDS}
    for mids in (MIDS[::-1], MIDS[:4]):
        with pytest.raises(ScoreError, match="classes are not those of the shards"):
            apply_teacher(named_index(labels, mids), folder)


def test_a_diverged_teacher_leaves_no_folder(index: ShardIndex, tmp_path: Path):
    for bad in (np.nan, np.inf, 1e5):  # the last is infinite in half precision
        scores = SCORES.copy()
        scores[3, 2] = bad
        with pytest.raises(ScoreError, match="not finite"):
            write(tmp_path / "t", index, scores, 2)
    assert not (tmp_path / "t").exists()


def spoil(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    return lambda f: np.save(f / f"{name}.npy", change(np.load(f / f"{name}.npy")))


def with_meta(**changes: object) -> Callable[[Path], object]:
    return lambda f: (f / META).write_text(json.dumps(json.loads((f / META).read_text()) | changes))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / META).unlink(), "no teacher's scores here"),
        (lambda f: (f / META).write_text("{}"), "it holds all scores"),
        (with_meta(format_version=9), "format 9"),
        (with_meta(top_k=3), "do not fit together"),
        (lambda f: (f / "scores.npy").unlink(), "cannot be used"),
        (spoil("scores", lambda a: a.astype(np.float32)), "float32 of 2 dimensions"),
        (spoil("scores", lambda a: a * np.float16("nan")), "not finite"),
        (spoil("scores", lambda a: a / np.float16(2)), "have changed since they were written"),
        (spoil("classes", lambda a: a + np.uint16(4)), "a class that is not listed"),
        (spoil("classes", lambda a: a * np.uint16(0)), "two scores of one class"),
        (spoil("id_starts", lambda a: a[:-1]), "not the length"),
    ],
)  # fmt: skip
def test_a_damaged_folder_is_refused(index: ShardIndex, tmp_path: Path, change, message: str):
    folder = write(tmp_path / "t", index, SCORES, 2)
    change(folder)
    with pytest.raises(ScoreError, match=message):
        apply_teacher(index, folder)


# --- several models as one teacher


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


def test_the_mean_is_taken_clip_by_clip(tmp_path: Path):
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


def test_top_scores_alone_make_no_score_file(tmp_path: Path):
    paths = [top_folder(tmp_path / name, model(1), 2) for name in "ab"]
    with pytest.raises(ScoreError, match="only the highest scores of each clip"):
        ensemble(paths)


def test_top_k_needs_a_folder():
    for changes in ({"top_k": 0}, {"output": Path("e.npz")}):
        with pytest.raises(ConfigError, match="cannot be written to"):
            Args(**{"scores": (), "output": Path("e"), "top_k": 3} | changes)


def test_more_scores_than_classes_cannot_be_kept(tmp_path: Path):
    with pytest.raises(ConfigError, match="a clip has 4 scores, not 5"):
        joint_teacher(saved(tmp_path, model(1), model(2)), tmp_path / "t", 5)
    assert not list(tmp_path.glob("t*"))
