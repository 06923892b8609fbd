"""The command that turns a score file into metrics.json and report.html."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from run_folders import epoch_line, not_evaluated, step_line, write_run

from eval.pages.report import make_report, render, to_text
from eval.score import Args, score
from psla_wds.config import to_json
from psla_wds.errors import ConfigError, PslaError, ScoreError
from psla_wds.evaluation.metrics import evaluate
from psla_wds.evaluation.score_folder import ScoreFolder
from psla_wds.evaluation.scores import Scores
from psla_wds.labels.class_list import ClassList
from psla_wds.shards.clip_ids import ClipIds
from psla_wds.shards.index_files import open_indexes
from train.recipes import DEMO

EVIL = "<script>alert('&')</script>"
DASH = "\N{EN DASH}"
STEPS, NOT_FINITE = (step_line(8), step_line(9)), epoch_line(2, map_=None)


@pytest.fixture
def scores() -> Scores:
    """40 clips, five classes: the fourth has no positives, the last is named in markup."""
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
    score(Args(score_path, output, run, **more), ["P.npz", "a word"])
    record = json.loads((output / "metrics.json").read_text())
    return record, (output / "report.html").read_text(encoding="utf-8")


def test_metrics_json_holds_the_metrics(scores: Scores, score_path: Path, capsys):
    record, page = results_of(score_path)
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
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[0] == "mAP" and lines[-1].endswith("out/report.html in a browser")
    rows = page.partition("sortable")[2].partition("<tbody>")[2].split("<tr>")[1:]
    mids = [re.search('class="mid">(.*?)<', row)[1] for row in rows]
    assert sorted(mids) == list(scores.mids) and mids[-1] == "/m/3"
    assert rows[-1].count(DASH) == 2 and "<td>Silence</td>" in rows[-1]


def test_a_folder_of_scores_and_single_labels(scores: Scores, tmp_path: Path):
    single = np.eye(5, dtype=np.uint8)[scores.scores.argmax(axis=1)]
    scores = replace(scores, targets=single)
    scores.save(tmp_path / "file" / "scores.npz")
    folder = ScoreFolder(tmp_path / "folder" / "scores", ClassList(scores.mids, scores.names))
    folder.begin(ClipIds.of(scores.clip_ids))
    for name in ("scores", "targets"):
        folder.open(name)[:] = getattr(scores, name)
    folder.finish()
    record, page = results_of(tmp_path / "file" / "scores.npz")
    assert record == results_of(tmp_path / "folder" / "scores")[0]
    assert record["accuracy"] == 1.0 and "<dt>Accuracy</dt><dd>100%</dd>" in page


def test_impossible_reports_are_refused(scores: Scores, score_path: Path, tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(PslaError, match=r"cannot write the results: [^$]*run the command again"):
        score(Args(score_path, tmp_path / "file" / "folder"))
    replace(scores, targets=np.zeros((40, 5), np.uint8)).save(tmp_path / "unlabelled.npz")
    with pytest.raises(ScoreError, match="nothing to score"):
        results_of(tmp_path / "unlabelled.npz")
    with pytest.raises(ConfigError, match="at least 20"):
        results_of(score_path, bootstrap=5)
    options = {"index": {"labels": Path("o"), "mapping": "esc50"}, "run": {"train_index": ("s",)}}
    for needed, given in options.items():
        with pytest.raises(ConfigError, match=f"fix:   set --{needed}"):
            Args(score_path, tmp_path, **given)
    assert not (tmp_path / "out").exists()


def test_intervals_are_in_all_results(score_path: Path, capsys):
    record, page = results_of(score_path, bootstrap=50)
    text = capsys.readouterr().out
    for name, digits in (("mAP", 4), ("mAUC", 4), ("d_prime", 3)):
        low, high = (record["intervals_95"][name][end] for end in ("low", "high"))
        assert low < record[name] < high
        assert f"<dd>95 %: {low:.{digits}f} to {high:.{digits}f}</dd>" in page
        assert f"{low:.4f} to {high:.4f}" in text
    ends = [(row["AP_low"], row["AP_high"]) for row in record["per_class"] if row["AP"]]
    shown = [f'ends">{low:.3f}{DASH}{high:.3f}</span>' in page for low, high in ends]
    assert shown == [True] * 4 and page.count('class="quiet ends"') == 4


def test_the_page_escapes_data_and_needs_no_network(score_path: Path, run_folder: Path):
    _, page = results_of(score_path, run_folder)
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


def test_a_run_adds_its_training_to_the_page(scores: Scores, score_path: Path, run_folder: Path):
    report = make_report(scores, score_path, left_out=(EVIL, "B"))
    assert "<summary>2 left out by the mapping</summary>" in render(report, [])
    assert f"left out by the mapping: {EVIL}, B" in to_text(report)
    _, without = results_of(score_path)
    assert charts_in(without) == CLASS_CHARTS and "--run RUN" in without
    _, page = results_of(score_path, run_folder)
    assert charts_in(page) == ["Loss", "Evaluation mAP", *STEP_CHARTS, *CLASS_CHARTS]
    assert "Epoch 2 of 30, step 200; 0.03 hours, 900 clips/s." in page
    assert "Epoch 2 was bounded by the step: 2.0% of the time went to waiting for data." in page
    assert "psla-wds score P.npz &#39;a word&#39;</pre>" in page


@pytest.mark.parametrize("num_classes", [6, 40])
def test_mistakes_are_in_a_report_of_single_labels(tmp_path: Path, num_classes: int):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, num_classes, 300)
    targets = np.eye(num_classes, dtype=np.uint8)[labels]
    values = (targets + 0.8 * rng.random(targets.shape)).astype(np.float32)
    values[7] = np.roll(targets[7], 1) + 0.25  # the clip that is most wrong
    names = tuple(f"{k} & {EVIL}" for k in range(num_classes))
    ids = tuple(f"clip-{i}{EVIL}" for i in range(300))
    Scores(ids, values, targets, names, names).save(tmp_path / "s.npz")
    _, page = results_of(tmp_path / "s.npz")
    assert EVIL not in page and ('class="matrix"' in page) == (num_classes == 6)
    section = page[page.index('id="mistakes"') :]
    assert section.index("clip-7&lt;") < section.index("</tr>", section.index("clip-"))
    if num_classes == 6:
        first = np.bincount(values[labels == 0].argmax(axis=1), minlength=6)
        cells = re.findall(r"<td[^>]*>(\d*)</td>", section[: section.index("</tr>\n", 3000)])
        assert [int(cell or 0) for cell in cells[:6]] == first.tolist()


def test_a_chart_of_one_dot_is_left_out(scores: Scores, score_path: Path, tmp_path: Path):
    folder = write_run(tmp_path / "short", [step_line(50), epoch_line(1)])
    _, page = results_of(score_path, folder)
    assert {"Loss", "Learning rate"}.isdisjoint(charts_in(page))


@pytest.mark.parametrize(
    ("lines", "said", "charts"),
    [
        ([], "No epoch is finished yet", []),
        (['{"event": "step", "st'], "last line of the log is cut", []),
        ([epoch_line(1), not_evaluated(2)], "Not evaluated: epoch 2.", ["Loss"]),
        ([*STEPS, not_evaluated(1)], "Not evaluated: epoch 1.", ["Loss", *STEP_CHARTS]),
        ([epoch_line(1), NOT_FINITE, epoch_line(3)], "Epoch 3", ["Loss", "Evaluation mAP"]),
        (['{"event": "damaged", "clip_id": "c.1"}'], "1 damaged clips were replaced", []),
    ],
    ids=["empty", "cut", "a gap", "never evaluated", "not finite", "damaged"],
)
def test_gaps_of_a_log_are_reported(
    score_path: Path, run_folder: Path, lines: list[str], said: str, charts: list[str]
):
    (run_folder / "log.jsonl").write_text("\n".join(lines))
    _, page = results_of(score_path, run_folder)
    assert said in page and charts_in(page) == charts + CLASS_CHARTS
    drawn = page.partition('aria-labelledby="training"')[2].partition("</section>")[0]
    assert "nan" not in drawn


def test_training_clips_are_found_among_the_scored(scores: Scores, shards: Path, tmp_path: Path):
    index = open_indexes([f"{shards}:train"])
    config = replace(DEMO, index=(f"{shards}:train",), epochs=1, batch_size=6)
    run = write_run(tmp_path / "run", [epoch_line(1, step=6)], **to_json(config))
    ids = (index.clip_id(0), index.clip_id(7), *scores.clip_ids[2:])
    replace(scores, clip_ids=ids).save(tmp_path / "p.npz")
    _, page = results_of(tmp_path / "p.npz", run)
    assert "2 of the 40 scored clips are training clips" in page
    assert {"Clips of every class", "Clips not seen so far"} <= set(charts_in(page))
