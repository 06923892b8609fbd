"""Scores know which weights gave them: those of a run that went on are not taken for its own."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from run_folders import epoch_line, write_run

from eval.compare import to_json
from eval.comparison import compare
from eval.comparison_page import render
from eval.ensemble import ensemble
from eval.figures import score_figures
from eval.score import Args, score
from eval.scored_runs import scored_of_run
from psla_wds.errors import ScoreError
from psla_wds.evaluation.score_folder import ScoreFolder
from psla_wds.evaluation.scores import Origin, Scores
from psla_wds.labels.class_list import ClassList
from psla_wds.models.checkpoint import epoch_path
from psla_wds.shards.clip_ids import ClipIds
from train.run.log import read_run

CLASSES = ("/m/0", "/m/1")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def scores_of(*weights: tuple[Path, int]) -> Scores:
    """Scores of 20 clips, marked as those of these files and epochs."""
    rng = np.random.default_rng(len(weights))
    targets = (np.arange(40).reshape(20, 2) % 3 == 0).astype(np.uint8)
    ids, origins = tuple(map(str, range(20))), tuple(Origin(sha256(p), e) for p, e in weights)
    return Scores(ids, rng.random((20, 2), np.float32), targets, CLASSES, CLASSES, origins)


def train(run: Path, epoch: int) -> Path:
    """One more epoch of a run that is there."""
    with (run / "log.jsonl").open("a") as file:
        file.write(epoch_line(epoch) + "\n")
    path = epoch_path(run, epoch)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(f"weights of {run.name}, {epoch}".encode())
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of two epochs, its last one scored."""
    folder = write_run(tmp_path / "run", [], epochs=2)
    train(folder, 1)
    scores_of((train(folder, 2), 2)).save(folder / "scores.npz")
    return folder


@pytest.fixture
def other(run: Path) -> Path:
    shutil.copytree(run, run.with_name("other"))
    return run.with_name("other")


def test_origins_come_back_from_a_file_and_from_a_folder(run: Path):
    scores = Scores.load(run / "scores.npz")
    assert scores.origins == (Origin(sha256(epoch_path(run, 2)), 2),)
    writer = ScoreFolder(run / "folder", ClassList(CLASSES, CLASSES))
    writer.begin(ClipIds.of(scores.clip_ids))
    writer.open("scores")[:] = scores.scores
    writer.finish(scores.origins)
    assert Scores.load(run / "folder").origins == scores.origins


@pytest.mark.parametrize("origins", [["x"], [f"{'a' * 64} -1"], [1.0], [[f"{'a' * 64} 1"]]])
def test_an_origin_that_is_none_is_told(run: Path, origins: list):
    with np.load(run / "scores.npz") as file:
        arrays = dict(file) | {"origins": np.array(origins)}
    np.savez(run / "scores.npz", **arrays)
    with pytest.raises(ScoreError, match="what it says of its weights cannot be read"):
        Scores.load(run / "scores.npz")


def test_the_mean_of_models_has_the_origins_of_all_if_all_are_known(run: Path, tmp_path: Path):
    first = scores_of((epoch_path(run, 1), 1))
    first.save(tmp_path / "a.npz")
    found = ensemble([tmp_path / "a.npz", run / "scores.npz"]).scores
    assert [origin.epoch for origin in found.origins] == [1, 2]
    assert str(scored_of_run(found.origins, run, where=tmp_path)) == "2 checkpoints (epoch 2)"
    foreign = Origin("0" * 64, 2)
    found_of_both = scored_of_run([*found.origins, foreign], run, where=tmp_path)
    assert str(found_of_both) == "weights that the run's folder does not have"
    replace(first, origins=()).save(tmp_path / "a.npz")
    assert ensemble([tmp_path / "a.npz", run / "scores.npz"]).scores.origins == ()


def test_runs_are_compared_by_scores_of_what_they_have_now(run: Path, other: Path):
    average = other / "average.pt"
    average.write_bytes(b"mean of epochs 1 and 2")
    scores_of((average, 2)).save(other / "scores.npz")
    found = compare([run, other])
    named = [model["weights"] for model in to_json(found)["models"]]
    assert named == ["epoch-002.pt (epoch 2)", "average.pt (epoch 2)"]
    assert f"{other / 'scores.npz'}, of average.pt (epoch 2)" in render(found, [])


def test_scores_of_a_run_that_went_on_are_refused(run: Path, other: Path):
    train(other, 3)
    refusal = r"those of epoch-002.pt \(epoch 2, and the run has 3\)[^$]*eval.predict .*other"
    with pytest.raises(ScoreError, match=refusal):
        compare([run, other])
    assert compare([run, other / "scores.npz"]).models[1].scored is None  # no run is named


def test_scores_of_an_average_that_was_made_anew_are_refused(run: Path, other: Path):
    average = other / "average.pt"
    average.write_bytes(b"mean of epochs 1 and 2")
    scores_of((average, 2)).save(other / "scores.npz")
    average.write_bytes(b"another mean")
    with pytest.raises(ScoreError, match="weights that the run does not have"):
        compare([run, other])
    score(Args(other / "scores.npz", other, other))  # both are named by hand
    said = "scores of weights that the run&#39;s folder does not have"
    assert said in (other / "report.html").read_text()


def test_scores_without_a_mark_or_a_run_without_checkpoints_are_a_warning(
    run: Path, other: Path, caplog: pytest.LogCaptureFixture
):
    old = replace(Scores.load(run / "scores.npz"), origins=())
    old.save(run / "scores.npz")
    shutil.rmtree(other / "checkpoints")
    found = compare([run, other])
    assert all(str(model.scored) == "weights that are not known" for model in found.models)
    told = [record.getMessage().rpartition(": ")[2] for record in caplog.records]
    assert told == ["the score file does not say", "the run has no checkpoints"]


def test_a_report_says_which_epoch_it_is_of_and_how_to_have_it_again(
    run: Path, caplog: pytest.LogCaptureFixture
):
    score(Args(run / "scores.npz", run / "a", run))
    page = (run / "a" / "report.html").read_text()
    assert "scores of epoch-002.pt (epoch 2).</p>" in page
    assert f"eval.predict {run} --index" in page and "eval.average" not in page
    assert json.loads((run / "a" / "metrics.json").read_text())["origins"][0].endswith(" 2")
    assert "score" not in [record.name for record in caplog.records]
    train(run, 3)
    score(Args(run / "scores.npz", run / "b", run))
    page = (run / "b" / "report.html").read_text()
    assert "scores of epoch-002.pt (epoch 2, and the run has 3).</p>" in page
    assert f"eval.predict {epoch_path(run, 2)} --index" in page
    (told,) = [record for record in caplog.records if record.name == "score"]
    assert "epoch 2, and the run has 3" in told.getMessage()


def test_a_report_of_an_average_says_how_to_make_it(run: Path):
    (run / "average.pt").write_bytes(b"mean")
    scores_of((run / "average.pt", 2)).save(run / "scores.npz")
    score(Args(run / "scores.npz", run, run))
    page = (run / "report.html").read_text()
    assert f"eval.average {run} --epochs FIRST LAST --output {run}/average.pt" in page
    assert f"eval.predict {run}/average.pt --index" in page


def test_a_figure_of_scores_that_are_not_the_runs_is_left_out(
    run: Path, caplog: pytest.LogCaptureFixture
):
    assert [figure.name for figure in score_figures(read_run(run))] == ["class-ap"]
    train(run, 3)
    assert score_figures(read_run(run)) == []
    assert caplog.records[0].getMessage().startswith("no class-ap: the scores are those of")
