"""The command that turns a score file into metrics.json and report.html."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from run_folders import epoch_line, not_evaluated, step_line, write_run

from eval.pages.report import Report, class_results, render, to_text
from eval.score import Args, correlate, read_quality, score
from psla_wds.config import to_json
from psla_wds.errors import ConfigError, PslaError, ScoreError
from psla_wds.evaluation.metrics import evaluate
from psla_wds.evaluation.score_folder import ScoreFolder
from psla_wds.evaluation.scores import Scores
from psla_wds.labels.class_list import ClassList, read_class_list
from psla_wds.shards.clip_ids import ClipIds
from psla_wds.shards.index_files import open_indexes
from train.recipes import DEMO

EVIL = "<script>alert('&')</script>"
DASH = "\N{EN DASH}"


@pytest.fixture
def scores() -> Scores:
    """40 clips, five classes: the fourth has no positives, the last has markup for a name."""
    rng = np.random.default_rng(0)
    targets = (rng.random((40, 5)) < 0.3).astype(np.uint8)
    targets[:, 3] = 0
    return Scores(
        clip_ids=tuple(f"clip-{i}" for i in range(40)),
        scores=rng.random((40, 5), np.float32),
        targets=targets,
        mids=tuple(f"/m/{k}" for k in range(5)),
        names=("Speech", "Rain, on a roof", "Hund ä", "Silence", EVIL),
    )


@pytest.fixture
def score_path(scores: Scores, tmp_path: Path) -> Path:
    scores.save(tmp_path / "scores.npz")
    return tmp_path / "scores.npz"


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    lines = [step_line(step) for step in (50, 100)] + [epoch_line(1), step_line(150), epoch_line(2)]
    return write_run(tmp_path / "runs" / "a run", lines, seed=7, wandb=EVIL)


def results_of(score_path: Path, run: Path | None = None, **more: object) -> tuple[dict, str]:
    """The content of metrics.json, and the page."""
    output = score_path.parent / "out"
    score(Args(score_path, output, run, **more))
    record = json.loads((output / "metrics.json").read_text())
    return record, (output / "report.html").read_text(encoding="utf-8")


def page_of(score_path: Path, run: Path | None = None, **more: object) -> str:
    return results_of(score_path, run, **more)[1]


def test_metrics_json_holds_what_evaluate_gives(scores: Scores, score_path: Path):
    record, _ = results_of(score_path)
    metrics = evaluate(scores.scores, scores.targets)
    assert record.pop("per_class") == [
        {
            "mid": scores.mids[k],
            "name": scores.names[k],
            "AP": None if k == 3 else metrics.average_precision[k],
            "AUC": None if k == 3 else metrics.roc_auc[k],
            "positives": metrics.num_positives[k],
        }
        for k in range(5)
    ]
    means = {name: getattr(metrics, name) for name in ("mAP", "mAUC", "d_prime")}
    counts = {"clips": 40, "classes": 5, "classes_scored": 4}
    assert record == {**means, "mean_prevalence": metrics.mean_prevalence, **counts}


def test_accuracy_is_reported_for_single_labels(scores: Scores, tmp_path: Path):
    targets = np.eye(5, dtype=np.uint8)[scores.scores.argmax(axis=1)]
    replace(scores, targets=targets).save(tmp_path / "single.npz")
    record, page = results_of(tmp_path / "single.npz")
    assert record["accuracy"] == 1.0 and "<dt>Accuracy</dt><dd>100%</dd>" in page


def test_the_screen_shows_means_and_what_to_open(score_path: Path, capsys):
    page_of(score_path)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[0] == "mAP"
    assert "1 classes without a positive are left out" in lines
    output = score_path.parent / "out"
    assert lines[-1].startswith(f"wrote {output / 'metrics.json'}")
    assert lines[-1].endswith(f"next: open {output / 'report.html'}")


def test_the_page_holds_every_class_once(scores: Scores, score_path: Path):
    page = page_of(score_path)
    rows = page.partition("sortable")[2].partition("<tbody>")[2].split("<tr>")[1:]
    mids = [re.search('class="mid">(.*?)<', row)[1] for row in rows]
    assert sorted(mids) == list(scores.mids) and mids[-1] == "/m/3"
    assert rows[-1].count(DASH) == 2 and "<td>Silence</td>" in rows[-1]


def test_a_folder_of_scores_is_scored_as_a_file_is(scores: Scores, tmp_path: Path):
    scores.save(tmp_path / "file" / "scores.npz")
    folder = ScoreFolder(tmp_path / "folder" / "scores", ClassList(scores.mids, scores.names))
    folder.begin(ClipIds.of(scores.clip_ids))
    for name in ("scores", "targets"):
        folder.open(name)[:] = getattr(scores, name)
    folder.finish()
    of_file, _ = results_of(tmp_path / "file" / "scores.npz")
    of_folder, _ = results_of(tmp_path / "folder" / "scores")
    assert of_file == of_folder


def test_results_that_cannot_be_written_are_an_error(score_path: Path, tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(PslaError, match=r"cannot write the results: [^$]*run the command again"):
        score(Args(score_path, tmp_path / "file" / "folder"))


def test_clips_without_labels_are_an_error(scores: Scores, tmp_path: Path):
    replace(scores, targets=np.zeros((40, 5), np.uint8)).save(tmp_path / "unlabelled.npz")
    with pytest.raises(ScoreError, match="nothing to score"):
        page_of(tmp_path / "unlabelled.npz")
    assert not (tmp_path / "out").exists()


def test_intervals_and_correlations_stand_everywhere(score_path: Path, capsys):
    quality = score_path.parent / "quality.csv"
    ratings = "".join(f"/m/{k},10,{k + 3}\n" for k in range(5))
    quality.write_text("label_id,num_rated,num_true\n" + ratings)
    record, page = results_of(score_path, bootstrap=50, quality=quality)
    text = capsys.readouterr().out
    for name, digits in (("mAP", 4), ("mAUC", 4), ("d_prime", 3)):
        low, high = (record["intervals_95"][name][end] for end in ("low", "high"))
        assert low < record[name] < high
        assert f"<dd>95 %: {low:.{digits}f} to {high:.{digits}f}</dd>" in page
        assert f"{low:.4f} to {high:.4f}" in text
    for row in record["per_class"]:
        if row["AP"] is None:
            assert row["AP_low"] is None
            continue
        assert row["AP_low"] < row["AP"] < row["AP_high"]
        assert f'ends">{row["AP_low"]:.3f}{DASH}{row["AP_high"]:.3f}</span>' in page
    assert page.count('class="quiet ends"') == 4
    values = [row["AP"] for row in record["per_class"] if row["AP"] is not None]
    expected = np.corrcoef(values, [0.3, 0.4, 0.5, 0.7])[0, 1]
    found = record["correlations"]["annotation quality"]
    assert found == {"pearson": pytest.approx(expected), "classes": 4}
    assert f"correlation {expected:.4f}" in page and f"correlation {expected:.4f}" in text
    assert "<summary>1 without a positive clip, in no mean</summary>" in page


def test_correlations_are_over_classes_that_have_both():
    first, second = np.array([0.1, 0.2, np.nan, 0.4, 0.9]), np.array([10, 1e6, 5, np.nan, 2e6])
    found = correlate(first, second)
    assert found.classes == 3
    assert found.pearson == pytest.approx(np.corrcoef([0.1, 0.2, 0.9], [10, 1e6, 2e6])[0, 1])
    assert np.isnan(correlate(first[:2], np.ones(2)).pearson)


@pytest.mark.parametrize("text", [None, "label_id\n/m/0\n", "label_id,num_rated,num_true\n1,x,y\n"])
def test_ratings_that_cannot_be_read_are_an_error(tmp_path: Path, text: str | None):
    if text:
        (tmp_path / "q.csv").write_text(text)
    with pytest.raises(ScoreError, match="ratings cannot be read"):
        read_quality(tmp_path / "q.csv")


def test_audiosets_ratings_are_read():
    folder = os.environ.get("PSLA_AUDIOSET_META")
    if not folder:
        pytest.skip("PSLA_AUDIOSET_META names no folder of AudioSet's metadata")
    classes = read_class_list(Path(folder) / "audioset_class_labels_indices.csv")
    quality = read_quality(Path(folder) / "audioset_qa_true_counts.csv")
    assert len(quality.keys() & set(classes.mids)) == 457  # the others were not rated
    assert quality[classes.mids[classes.find("Male speech, man speaking")]] == 0.9
    assert 0 <= min(quality.values()) and max(quality.values()) <= 1


@pytest.mark.parametrize(
    ("options", "fix"),
    [
        ({"labels": Path("o")}, "--index"),
        ({"mapping": "esc50"}, "--index"),
        ({"train_labels": Path("o")}, "--train-index"),
        ({"bootstrap": 5}, "1000"),
    ],
    ids=str,
)
def test_options_that_need_another_are_refused(options: dict[str, object], fix: str):
    with pytest.raises(ConfigError, match=f"fix:   set.*{fix}"):
        Args(Path("p.npz"), Path("out"), **options)


def test_the_page_escapes_data_and_needs_no_network(score_path: Path, run_folder: Path):
    page = page_of(score_path, run_folder)
    assert page.count("<script>") == 1 and EVIL not in page
    assert "<code>wandb</code></td><td><code>&lt;script&gt;" in page
    assert not re.search(r"https?://|url\(|@import|\s(src|srcset|action)=", page)
    assert set(re.findall(r'href="(.)', page)) == {"#"}
    assert "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'" in page
    targets = re.findall(r'<a href="#(\w+)"', page)
    assert targets and all(page.count(f'id="{target}"') == 1 for target in targets)


def charts_in(page: str) -> list[str]:
    return [label.partition(":")[0] for label in re.findall('role="img" aria-label="(.*?)"', page)]


CLASS_CHARTS = ["Average precision by positives", "Average precision of every class"]
STEP_CHARTS = ["Learning rate", "Waiting for data"]


def test_a_run_adds_its_training_to_the_page(score_path: Path, run_folder: Path):
    without = page_of(score_path)
    assert charts_in(without) == CLASS_CHARTS and "--run RUN" in without
    page = page_of(score_path, run_folder)
    assert charts_in(page) == ["Loss", "Evaluation mAP", *STEP_CHARTS, *CLASS_CHARTS]
    assert "Epoch 2 of 30, step 200; 0.03 hours, 900 clips/s." in page
    assert "Epoch 2 was bounded by the step: 2.0% of the time went to waiting for data." in page
    assert f"--run &#39;{run_folder}&#39;" in page


@pytest.mark.parametrize(
    ("lines", "said", "charts"),
    [
        ([], "No epoch is finished yet", []),
        (['{"event": "step", "st'], "ends in the middle of a line", []),
        ([epoch_line(1), not_evaluated(2)], "Not evaluated: epoch 2.", ["Loss", "Evaluation mAP"]),
        ([step_line(9), not_evaluated(1)], "Not evaluated: epoch 1.", ["Loss", *STEP_CHARTS]),
        ([epoch_line(1, map_=None)], "Epoch 1", ["Loss", "Evaluation mAP"]),
        (['{"event": "damaged", "clip_id": "c.1"}'], "1 damaged clips were replaced", []),
    ],
    ids=["empty", "cut", "a gap", "never evaluated", "not finite", "damaged"],
)
def test_what_a_log_lacks_is_said(
    score_path: Path, run_folder: Path, lines: list[str], said: str, charts: list[str]
):
    (run_folder / "log.jsonl").write_text("\n".join(lines))
    page = page_of(score_path, run_folder)
    assert said in page and charts_in(page) == charts + CLASS_CHARTS
    assert "nan" not in page.partition('aria-labelledby="training"')[2]


def test_training_clips_are_drawn_and_found_among_those_scored(
    scores: Scores, shards: Path, tmp_path: Path
):
    index = open_indexes([f"{shards}:train"])
    config = replace(DEMO, index=(f"{shards}:train",), epochs=1, batch_size=6)
    run = write_run(tmp_path / "run", [epoch_line(1, step=6)], **to_json(config))
    ids = (index.clip_id(0), index.clip_id(7), *scores.clip_ids[2:])
    replace(scores, clip_ids=ids).save(tmp_path / "p.npz")
    page = page_of(tmp_path / "p.npz", run)
    assert "2 of the 40 clips scored are training clips" in page
    assert {"Clips of every class", "Clips not seen so far"} <= set(charts_in(page))


def test_classes_that_a_mapping_leaves_out_are_listed(score_path: Path, scores: Scores):
    metrics = evaluate(scores.scores, scores.targets)
    results = class_results(scores, metrics, None)
    report = Report(
        score_path, "0", score_path.parent, metrics, None, results, left_out=(EVIL, "B")
    )
    assert "<summary>2 left out by the mapping</summary>" in render(report)
    assert f"2 classes left out: {EVIL}, B" in to_text(report)
