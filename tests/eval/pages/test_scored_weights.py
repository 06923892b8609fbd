"""Scores name the weights that gave them, so scores of other weights are noticed."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from run_folders import epoch_line, write_run

from eval.ensemble import ensemble
from eval.pages.comparison import compare, render
from eval.pages.figures import score_figures
from eval.pages.runs import scored_of_run
from eval.score import Args, score
from psla_wds.errors import ScoreError
from psla_wds.evaluation.scores import Origin, Scores
from psla_wds.io.atomic_files import sha256_of
from psla_wds.models.epochs import epoch_path
from train.run.log import read_run

CLASSES = ("/m/0", "/m/1")


def scores_of(weights: Path, epoch: int, first_epoch: int = 0) -> Scores:
    """Scores of 20 clips, marked as those of a checkpoint."""
    values = np.random.default_rng(epoch).random((20, 2), np.float32)
    targets = (np.arange(40).reshape(20, 2) % 3 == 0).astype(np.uint8)
    origins = (Origin(sha256_of(weights), epoch, first_epoch),)
    return Scores(tuple(map(str, range(20))), values, targets, CLASSES, CLASSES, origins)


def train(run: Path, epoch: int) -> Path:
    """Add an epoch to a run."""
    with (run / "log.jsonl").open("a") as file:
        file.write(epoch_line(epoch) + "\n")
    path = epoch_path(run, epoch)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(f"weights of {run.name}, {epoch}".encode())
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of two epochs with the scores of its last one."""
    folder = write_run(tmp_path / "run", [], epochs=2)
    train(folder, 1)
    scores_of(train(folder, 2), 2).save(folder / "scores.npz")
    return folder


@pytest.fixture
def other(run: Path) -> Path:
    """A copy of the run, whose scores are those of an average."""
    folder = run.with_name("other")
    shutil.copytree(run, folder)
    (folder / "average.pt").write_bytes(b"mean of epochs 1 and 2")
    scores_of(folder / "average.pt", 2).save(folder / "scores.npz")
    return folder


def test_an_ensemble_knows_its_weights_if_all_are_known(run: Path, tmp_path: Path):
    first, paths = scores_of(epoch_path(run, 1), 1), [tmp_path / "a.npz", run / "scores.npz"]
    first.save(paths[0])
    found, _ = ensemble(paths)
    assert str(scored_of_run(found.origins, run, where=run)) == "2 checkpoints (epoch 2)"
    assert scored_of_run([*found.origins, Origin("0" * 64, 2)], run, where=run).is_foreign
    replace(first, origins=()).save(paths[0])
    assert ensemble(paths)[0].origins == ()


def test_comparisons_name_weights_and_refuse_old_ones(
    run: Path, other: Path, caplog: pytest.LogCaptureFixture
):
    page = render(compare([run, other], resamples=20), [])
    assert f"{run / 'scores.npz'}, from epoch-002.pt (epoch 2)" in page
    assert f"{other / 'scores.npz'}, from average.pt (epoch 2)" in page
    (other / "average.pt").write_bytes(b"another mean")
    with pytest.raises(ScoreError, match="weights that are not in the run's folder"):
        compare([run, other])
    shutil.rmtree(other / "checkpoints")
    assert str(compare([run, other], resamples=20).models[1].scored) == "unknown weights"
    assert "the run has no checkpoints" in caplog.text
    train(run, 3)
    with pytest.raises(ScoreError, match=r"epoch-002.pt \(epoch 2; the run has 3\)[^$]*predict"):
        compare([run, other])
    files = [folder / "scores.npz" for folder in (run, other)]
    assert compare(files, resamples=20).models[0].scored is None


def test_a_report_names_weights_and_how_to_score_them(
    run: Path, other: Path, caplog: pytest.LogCaptureFixture
):
    def page(folder: Path) -> str:
        score(Args(folder / "scores.npz", folder, folder))
        return (folder / "report.html").read_text()

    assert "scores from epoch-002.pt (epoch 2).</p>" in page(run)
    assert f"eval.predict {run} --index" in page(run) and "eval.average" not in page(run)
    assert json.loads((run / "metrics.json").read_text())["origins"][0].endswith(" 2")
    average = other / "average.pt"
    assert f"eval.average {other} --epochs FIRST 2 --output {average}" in page(other)
    scores_of(average, 2, first_epoch=1).save(other / "scores.npz")
    assert f"eval.average {other} --epochs 1 2 --output {average}" in page(other)
    config = other / "config.json"
    settings = json.loads(config.read_text())
    config.write_text(json.dumps(settings | {"eval_index": ["http://a/b", "c d"]}))
    told = page(other)
    assert f"eval.predict {average} --index http://a/b --index &#39;c d&#39; --output" in told
    assert "--run-dir NEW_RUN --eval-index http://a/b --eval-index &#39;c d&#39;\n" in told
    assert [figure.name for figure in score_figures(read_run(run))] == ["class-ap"]
    assert "scores from" not in caplog.text
    train(run, 3)
    assert f"eval.predict {epoch_path(run, 2)} --index" in page(run)
    assert "scores from epoch-002.pt (epoch 2; the run has 3)" in caplog.text
    assert score_figures(read_run(run)) == [] and "no class-ap" in caplog.text
