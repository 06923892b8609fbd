"""The command that fits thresholds, and what carries them: exported folders and reports."""

import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scored_models import model, saved
from tiny_models import CLASSES, RATE_HZ, sweep, tiny_checkpoint

from eval.export import Args as ExportArgs
from eval.export import export
from eval.score import Args as ScoreArgs
from eval.score import score
from eval.thresholds import main
from psla_wds import cli
from psla_wds.errors import ScoreError
from psla_wds.evaluation.metrics import evaluate
from psla_wds.evaluation.score_folder import ScoreFolder
from psla_wds.evaluation.scores import Scores
from psla_wds.evaluation.thresholds import decide, read_thresholds
from psla_wds.labels.class_list import ClassList
from psla_wds.models.checkpoint import save_checkpoint
from psla_wds.models.model_folder import read_model_config
from psla_wds.shards.clip_ids import ClipIds
from psla_wds.tagging.tagger import Tagger

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def fit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command in this process: exit status, stdout, stderr."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["eval.thresholds", *map(str, words)])
        status = 0
        try:
            cli.run(main)
        except SystemExit as stop:
            status = int(stop.code or 0)
        return status, *capsys.readouterr()

    return run


def folder_of(scores: Scores, path: Path) -> Path:
    folder = ScoreFolder(path, ClassList(scores.mids, scores.names))
    folder.begin(ClipIds.of(scores.clip_ids))
    for name in ("scores", "targets"):
        folder.open(name)[:] = getattr(scores, name)
    folder.finish()
    return path


def test_the_file_has_thresholds_and_what_they_give(fit: Run, tmp_path: Path, caplog):
    scores, others = model(1), model(2)
    paths, output = saved(tmp_path, scores, others), tmp_path / "T.json"
    words = ("--min-positives=17", f"--validate={paths[1]}", "--bootstrap=50")
    status, out, _ = fit(paths[0], f"--output={output}", *words)
    record = json.loads(output.read_text())
    read = read_thresholds(output)
    found = decide(scores.scores, scores.targets, read.values)
    assert status == 0 and read.mids == scores.mids and record["clips"] == 60
    assert "60 of the clips to validate on are those of the fit" in caplog.text
    rows = record["per_class"]
    positives = evaluate(scores.scores, scores.targets).num_positives.tolist()
    few = [row["name"] for row in rows if row["pooled"]]
    assert few == [n for n, p in zip(scores.names, positives, strict=True) if p < 17]
    assert 0 < len(few) < 4
    assert f"{len(few)} of 4 classes have fewer than 17 positives" in out
    assert {r["threshold"] for r in rows if r["pooled"]} == {record["pooled_threshold"]}
    for row, precision, recall, f1 in zip(
        rows, found.precision, found.recall, found.f1, strict=True
    ):
        assert (row["precision"], row["recall"], row["f1"]) == (precision, recall, f1)
        assert row["f1_low"] < row["f1"] < row["f1_high"]
    on_others = decide(others.scores, others.targets, read.values)
    assert record["fitted"]["micro"] == vars(found.micro) != vars(on_others.micro)
    assert record["validation"]["macro"] == vars(on_others.macro)
    assert [row["validation_f1"] for row in rows] == on_others.f1.tolist()
    assert f"{on_others.micro.f1:.4f}" in out and out.splitlines()[-1].startswith("wrote ")
    fit(folder_of(scores, tmp_path / "folder"), f"--output={tmp_path}/F.json", *words)
    assert json.loads((tmp_path / "F.json").read_text()) == record


def test_a_precision_that_is_nowhere_means_never(fit: Run, tmp_path: Path):
    scores = model(1)
    scores.scores[:, 2] = 1 - scores.targets[:, 2]  # every positive scores below all negatives
    (path,), output = saved(tmp_path, scores), tmp_path / "T.json"
    status, out, _ = fit(path, f"--output={output}", "--min-positives=1", "--precision=0.9")
    rows = json.loads(output.read_text())["per_class"]
    assert status == 0 and "1 classes reach this precision nowhere: C" in out
    assert rows[2]["threshold"] is None and rows[2]["recall"] == 0
    assert all(row["precision"] >= 0.9 for row in rows if row["mid"] != "/m/2")
    assert read_thresholds(output).values[2] == math.inf


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--precision=0"], "precision=0.0 is out of range"),
        (["--min-positives=0"], "min_positives=0 is out of range"),
        (["--validate=other.npz"], "the scores have other classes"),
        (["--output=there/T.json"], "cannot write the thresholds"),
    ],
)
def test_mistakes_of_a_fit_have_three_lines(
    fit: Run, tmp_path: Path, words: list[str], said: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").touch()
    (path,) = saved(tmp_path, model(1))
    replace(model(1), mids=("/m/0", "/m/1", "/m/2", "/m/9")).save(tmp_path / "other.npz")
    status, _, err = fit(path, *words, *([] if "--output" in words[0] else ["--output=T.json"]))
    error = err[err.index("error: ") :].splitlines()
    assert status == 2 and said in error[0] and not (tmp_path / "T.json").exists()
    assert [line.split()[0] for line in error[1:]] == ["where:", "fix:"]


@pytest.fixture
def thresholds(tmp_path: Path) -> Path:
    """Thresholds of the tiny tagger: the second class is never present."""
    rows = [{"mid": m, "threshold": t} for m, t in zip(CLASSES.mids, (0.1, None, 0.9), strict=True)]
    (tmp_path / "T.json").write_text(json.dumps({"per_class": rows}))
    return tmp_path / "T.json"


def test_an_exported_model_has_its_thresholds(tmp_path: Path, thresholds: Path):
    save_checkpoint(tiny_checkpoint(), tmp_path / "c.pt")
    export(ExportArgs((tmp_path / "c.pt",), tmp_path / "with", thresholds=thresholds))
    export(ExportArgs((tmp_path / "with",), tmp_path / "again"))
    export(ExportArgs((tmp_path / "with", tmp_path / "c.pt"), tmp_path / "more"))
    export(ExportArgs((tmp_path / "c.pt",), tmp_path / "without"))
    for name in ("with", "again"):
        assert read_model_config(tmp_path / name).thresholds[1] is None
        found = Tagger.load(tmp_path / name, device="cpu")
        np.testing.assert_array_equal(found.thresholds, np.array([0.1, np.inf, 0.9], np.float32))
        assert found(sweep(0.5), RATE_HZ).thresholds is found.thresholds
        assert "tags.present()" in (tmp_path / name / "README.md").read_text()
    for name in ("more", "without"):  # of an ensemble, other thresholds would be right
        assert "thresholds" not in json.loads((tmp_path / name / "config.json").read_text())
        assert Tagger.load(tmp_path / name, device="cpu").thresholds is None
        assert "tags.present()" not in (tmp_path / name / "README.md").read_text()
    thresholds.write_text(thresholds.read_text().replace("/t/0", "/t/7"))
    with pytest.raises(ScoreError, match="other classes"):
        export(ExportArgs((tmp_path / "c.pt",), tmp_path / "m", thresholds=thresholds))
    assert not (tmp_path / "m").exists()


def test_the_report_shows_what_thresholds_give(tmp_path: Path, capsys):
    scores = model(1)
    (path,) = saved(tmp_path, scores)
    values = (0.5, None, 0.8, 0.7)
    rows = [{"mid": m, "threshold": t} for m, t in zip(scores.mids, values, strict=True)]
    (tmp_path / "T.json").write_text(json.dumps({"per_class": rows}))
    score(ScoreArgs(path, tmp_path / "without"))
    score(ScoreArgs(path, tmp_path / "out", thresholds=tmp_path / "T.json"))
    found = decide(scores.scores, scores.targets, read_thresholds(tmp_path / "T.json").values)
    record = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert record["at_thresholds"]["micro"] == vars(found.micro)
    f1 = found.f1.tolist()
    assert [row["F1"] for row in record["per_class"]] == f1
    assert [row["threshold"] for row in record["per_class"]][:2] == [0.5, None]
    page = (tmp_path / "out" / "report.html").read_text()
    shown = page.partition('id="thresholds"')[2].partition("</section>")[0]
    assert f"{found.micro.f1:.4f}" in shown and f"{found.macro.precision:.4f}" in shown
    names = [n for n in "ABCD" if f"<td>{n}</td>" in shown]
    order = sorted(names, key=lambda n: shown.index(f"<td>{n}</td>"))
    assert order == [scores.names[k] for k in np.argsort(-found.f1)]
    assert 'data-value="Infinity">∞<' in shown and "Infinity" not in json.dumps(record)
    assert f"{found.micro.f1:.4f}" in capsys.readouterr().out
    page = (tmp_path / "without" / "report.html").read_text()
    assert "thresholds" not in page and "at_thresholds" not in page
    record = json.loads((tmp_path / "without" / "metrics.json").read_text())
    assert "at_thresholds" not in record and "F1" not in record["per_class"][0]
