"""The command which turns a score file into metrics.json and report.html."""

import json
import re
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from run_folders import epoch_line, not_evaluated, step_line, write_run

from eval.axes import linear_axis, log_axis, short_number
from eval.class_charts import class_results
from eval.correlations import correlate
from eval.report import Report, render
from eval.score import Args, score
from psla_wds.errors import ConfigError, PslaError, ScoreError
from psla_wds.evaluation.metrics import evaluate
from psla_wds.evaluation.score_folder import ScoreFolder
from psla_wds.evaluation.scores import Scores
from psla_wds.labels.class_list import ClassList
from psla_wds.shards.clip_ids import ClipIds
from train.run.log import read_run

EVIL = "<script>alert('&')</script>"


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


class Page(HTMLParser):
    """What a browser would make of the report, as far as the tests ask."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows, self.tags, self.attributes, self.charts = [], [], [], []
        self.classes: list[list[str]] = []  # rows of the table of classes
        self._table = ""
        self._cells, self._in_cell = [], False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value) for name, value in attrs]
        if tag == "svg":
            self.charts.append(dict(attrs)["aria-label"])
        if tag == "table":
            self._table = dict(attrs).get("class") or ""
        if tag == "tr":
            self._cells = []
            self.rows.append(self._cells)
            if "sortable" in self._table:
                self.classes.append(self._cells)
        if tag in ("td", "th"):
            self._cells.append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self._cells[-1] += data.strip()


def page_of(score_path: Path, run: Path | None = None) -> tuple[Page, str]:
    output = score_path.parent / "out"
    score(Args(score_path, output, run))
    text = (output / "report.html").read_text(encoding="utf-8")
    return Page(text), text


def test_metrics_json_holds_what_evaluate_gives(scores: Scores, score_path: Path):
    page_of(score_path)
    record = json.loads((score_path.parent / "out" / "metrics.json").read_text())
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
    assert record == {
        "mAP": metrics.mAP,
        "mAUC": metrics.mAUC,
        "d_prime": metrics.d_prime,
        "mean_prevalence": metrics.mean_prevalence,
        "clips": 40,
        "classes": 5,
        "classes_scored": 4,
    }


def test_accuracy_is_reported_for_single_labels(scores: Scores, tmp_path: Path):
    targets = np.eye(5, dtype=np.uint8)[scores.scores.argmax(axis=1)]
    replace(scores, targets=targets).save(tmp_path / "single.npz")
    page_of(tmp_path / "single.npz")
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["accuracy"] == 1.0


def test_the_screen_shows_the_means_and_ends_with_what_to_open(score_path: Path, capsys):
    page_of(score_path)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[0] == "mAP"
    assert "1 without a positive clip" in "\n".join(lines)
    output = score_path.parent / "out"
    assert lines[-1].startswith(f"wrote {output / 'metrics.json'}")
    assert lines[-1].endswith(f"next: open {output / 'report.html'}")


def test_the_report_holds_every_class_once(scores: Scores, score_path: Path):
    page, _ = page_of(score_path)
    rows = page.classes[1:]
    expected = list(zip(scores.mids, scores.names, strict=True))
    assert sorted((row[1], row[0]) for row in rows) == expected
    assert rows[-1] == ["Silence", "/m/3", "0", "\N{EN DASH}", "\N{EN DASH}"]


def test_a_folder_of_scores_is_scored_as_a_file_is(
    scores: Scores, score_path: Path, tmp_path: Path
):
    folder = ScoreFolder(tmp_path / "folder", ClassList(scores.mids, scores.names))
    folder.begin(ClipIds.of(scores.clip_ids))
    for name in ("scores", "targets"):
        folder.open(name)[:] = getattr(scores, name)
    folder.finish()
    for path in (score_path, tmp_path / "folder"):
        score(Args(path, tmp_path / f"of-{path.name}"))
    file, of_folder = (
        (tmp_path / f"of-{name}" / "metrics.json").read_text() for name in ("scores.npz", "folder")
    )
    assert file == of_folder


def test_results_that_cannot_be_written_are_told(score_path: Path, tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(PslaError, match=r"cannot write the results: [^$]*run the command again"):
        score(Args(score_path, tmp_path / "file" / "folder"))


def test_clips_without_any_label_are_told_and_nothing_is_written(scores: Scores, tmp_path: Path):
    replace(scores, targets=np.zeros((40, 5), np.uint8)).save(tmp_path / "unlabelled.npz")
    with pytest.raises(ScoreError, match="nothing to score"):
        page_of(tmp_path / "unlabelled.npz")
    assert not (tmp_path / "out").exists()


def test_intervals_and_correlations_stand_in_the_results_when_asked_for(
    score_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    quality = tmp_path / "quality.csv"
    ratings = "".join(f"/m/{k},10,{k + 3}\n" for k in range(5))
    quality.write_text("label_id,num_rated,num_true\n" + ratings)
    score(Args(score_path, tmp_path / "out", bootstrap=50, quality=quality))
    record = json.loads((tmp_path / "out" / "metrics.json").read_text())
    for name in ("mAP", "mAUC", "d_prime"):
        interval = record["intervals_95"][name]
        assert interval["low"] < record[name] < interval["high"]
    for row in record["per_class"]:
        if row["AP"] is None:
            assert row["AP_low"] is None
        else:
            assert row["AP_low"] < row["AP"] < row["AP_high"]
    expected = correlate(
        np.array([np.nan if r["AP"] is None else r["AP"] for r in record["per_class"]]),
        np.arange(3, 8) / 10,
    )
    assert record["correlations"]["annotation quality"] == asdict(expected)
    text = capsys.readouterr().out
    assert "95 %: " in text and "AP and annotation quality: correlation" in text


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
def test_options_that_need_another_say_so(options: dict[str, object], fix: str):
    with pytest.raises(ConfigError, match=f"fix:   set.*{fix}"):
        Args(Path("p.npz"), Path("out"), **options)


def test_the_report_escapes_what_comes_from_data(score_path: Path, run_folder: Path):
    page, text = page_of(score_path, run_folder)
    assert page.tags.count("script") == 1
    assert EVIL not in text
    assert ["wandb", EVIL] in page.rows


def test_the_report_needs_no_network(score_path: Path, run_folder: Path):
    page, text = page_of(score_path, run_folder)
    assert not {"src", "srcset", "action"} & {name for name, _ in page.attributes}
    assert all(value.startswith("#") for name, value in page.attributes if name == "href")
    assert not re.search(r"https?://|url\(|@import", text)
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'; "
            "script-src 'unsafe-inline'") in page.attributes  # fmt: skip


def test_training_curves_are_there_with_a_run_and_only_then(score_path: Path, run_folder: Path):
    without, text = page_of(score_path)
    assert len(without.charts) == 2 and "--run RUN" in text
    with_run, text = page_of(score_path, run_folder)
    assert [label.split(" by ")[0] for label in with_run.charts[:-2]] == [
        "Loss",
        "Evaluation mAP",
        "Learning rate",
        "Share of time spent waiting for data,",
    ]
    assert "Epoch 2 of 30, step 200" in text and "--run &#39;" in text


def test_a_log_cut_in_its_last_line_is_used_up_to_there_and_said(score_path, run_folder):
    log = run_folder / "log.jsonl"
    log.write_bytes(log.read_bytes()[:-20])
    run = read_run(run_folder)
    assert run.cut and [record.epoch for record in run.epochs] == [1]
    assert "ends in the middle of a line" in page_of(score_path, run_folder)[1]


def test_a_whole_last_line_without_its_newline_counts(run_folder: Path):
    log = run_folder / "log.jsonl"
    log.write_text(log.read_text().rstrip("\n"))
    run = read_run(run_folder)
    assert not run.cut and len(run.epochs) == 2


def test_an_empty_log_makes_a_report(score_path: Path, run_folder: Path):
    (run_folder / "log.jsonl").write_text("")
    assert "No epoch is finished yet" in page_of(score_path, run_folder)[1]


@pytest.mark.parametrize(
    "line",
    ["{", "3", "{}", '{"event": "step", "step": 1}', step_line(9).replace("0.5", '"high"'), ""],
    ids=["cut", "a number", "no event", "lacks keys", "text for a number", "empty"],
)
def test_a_malformed_line_is_named_by_its_number(run_folder: Path, line: str):
    log = run_folder / "log.jsonl"
    before = log.read_text().splitlines()
    log.write_text("\n".join([*before[:2], line, *before[2:]]) + "\n")
    with pytest.raises(ScoreError, match=r"log\.jsonl, line 3"):
        read_run(run_folder)


def test_after_a_resume_the_later_record_of_a_step_counts(run_folder: Path):
    with (run_folder / "log.jsonl").open("a") as log:
        log.write(f"{step_line(100, loss=0.1)}\n{epoch_line(1, map_=0.9)}\n")
    run = read_run(run_folder)
    assert [(r.step, r.loss) for r in run.steps] == [(50, 0.5), (100, 0.1), (150, 0.5)]
    assert [(r.epoch, r.mAP) for r in run.epochs] == [(1, 0.9), (2, 0.25)]


def test_a_number_that_was_not_finite_leaves_a_gap_in_the_curve(score_path, run_folder):
    with (run_folder / "log.jsonl").open("a") as log:
        log.write(f"{epoch_line(3, map_=None)}\n{step_line(200, loss=float('nan'))}\n")
    assert "nan" not in page_of(score_path, run_folder)[1].split("<section", 2)[1]


def test_a_run_that_was_never_evaluated_shows_its_training(score_path, run_folder):
    log = run_folder / "log.jsonl"
    lines = [step_line(50), not_evaluated(1), step_line(100), not_evaluated(2)]
    log.write_text("".join(line + "\n" for line in lines))
    run = read_run(run_folder)
    assert [(r.epoch, r.evaluated, r.train_loss) for r in run.epochs] == [
        (1, False, 0.4),
        (2, False, 0.4),
    ]
    page, text = page_of(score_path, run_folder)
    assert "Not evaluated: epoch 1, 2." in text
    assert page.charts[:2] == ["Loss by step", "Learning rate by step"]
    assert '<i class="swatch first"></i>training' in text
    assert '<i class="swatch second"></i>evaluation' not in text


def test_an_epoch_that_was_not_evaluated_is_a_gap_and_said(score_path, run_folder):
    with (run_folder / "log.jsonl").open("a") as log:
        log.write(f"{not_evaluated(3)}\n{epoch_line(4)}\n")
    run = read_run(run_folder)
    assert [r.evaluated for r in run.epochs] == [True, True, False, True]
    text = page_of(score_path, run_folder)[1]
    assert "Not evaluated: epoch 3." in text and "nan" not in text.split("<section", 2)[1]


def test_an_evaluation_that_lacks_a_number_is_still_refused(run_folder: Path):
    record = json.loads(epoch_line(3))
    del record["mAUC"]
    with (run_folder / "log.jsonl").open("a") as log:
        log.write(json.dumps(record) + "\n")
    with pytest.raises(ScoreError, match="'nothing' for mAUC"):
        read_run(run_folder)


def test_the_report_shows_intervals_correlations_and_empty_classes(score_path, scores):
    output, quality = score_path.parent / "out", score_path.parent / "quality.csv"
    rows = "".join(f"/m/{k},10,{10 - k}\n" for k in range(5))
    quality.write_text(f"label_id,num_rated,num_true\n{rows}")
    score(Args(score_path, output, bootstrap=50, quality=quality))
    text = (output / "report.html").read_text(encoding="utf-8")
    record = json.loads((output / "metrics.json").read_text())
    for name in ("mAP", "mAUC", "d_prime"):
        low, high = (record["intervals_95"][name][end] for end in ("low", "high"))
        digits = 3 if name == "d_prime" else 4
        assert f"<dd>95 %: {low:.{digits}f} to {high:.{digits}f}</dd>" in text
    first = record["per_class"][0]
    assert f'ends">{first["AP_low"]:.3f}\N{EN DASH}{first["AP_high"]:.3f}</span>' in text
    found = record["correlations"]["annotation quality"]
    assert [
        "annotation quality", f"{found['pearson']:.4f}", f"{found['spearman']:.4f}", "4",
    ] in Page(text).rows  # fmt: skip
    assert "<summary>1 without a positive clip, in no mean</summary>" in text
    assert (
        "<p>Silence</p>" in text and text.count('class="quiet ends"') == 4
    )  # not of the class without a positive


def test_classes_that_a_mapping_leaves_out_are_in_the_report(score_path, scores):
    metrics = evaluate(scores.scores, scores.targets)
    results = class_results(scores, metrics)
    report = Report(
        score_path, "0", score_path.parent, metrics, None, results, None, left_out=(EVIL, "B")
    )
    text = render(report)
    assert "<summary>2 left out by the mapping</summary>" in text
    assert EVIL not in text.split("<style>")[1].split("<script>")[0]


@pytest.mark.parametrize("name", ["config.json", "log.jsonl"])
def test_a_folder_that_is_no_run_is_named(run_folder: Path, name: str):
    (run_folder / name).unlink()
    with pytest.raises(ScoreError, match=f"the run folder has no {name}"):
        read_run(run_folder)


@pytest.mark.parametrize("values", [[0], [3.2], [0, 1e-4], [-5, 1e6], [0.1234, 0.1235], []])
def test_a_linear_axis_spans_its_values_with_few_ticks(values):
    axis = linear_axis("x", values)
    assert 2 <= len(axis.ticks) <= 9
    assert all(-1e-9 <= axis.fraction(value) <= 1 + 1e-9 for value in values)


@pytest.mark.parametrize("values", [[1], [10], [0.011, 0.7], [1, 2e6], [0, 7, float("nan")], []])
def test_a_log_axis_spans_its_positive_values_with_few_ticks(values):
    axis = log_axis("x", values)
    assert 1 <= len(axis.ticks) <= 9
    assert all(-1e-9 <= axis.fraction(value) <= 1 + 1e-9 for value in values if value > 0)


def test_numbers_on_an_axis_are_short():
    assert [short_number(v) for v in (0, 0.25, 12_000, 3e6, 5e-5)] == [
        "0",
        "0.25",
        "12k",
        "3M",
        "5e-5",
    ]
