"""Steps and tables: the commands of a study, run as make would run them, and known results."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from run_folders import epoch_line, write_run

from psla_wds.config import to_json
from psla_wds.errors import ConfigError
from train.recipes import RECIPES
from train.study.paper import table
from train.study.run import Runner, Step, start_process, with_all_before
from train.study.settings import StudyArgs, begin, check_begun
from train.study.steps import Lacking, Steps
from train.study.tables import Numbers, find_numbers, gather, to_text

BALANCED, FULL, FSD50K, ESC50, DEMO = (
    RECIPES[name][1] for name in ("audioset-balanced", "audioset-full", "fsd50k", "esc50", "demo")
)
BASE = replace(DEMO, index=("train",), eval_index=("eval",))
COPY = """import pathlib, shutil, sys
pathlib.Path(sys.argv[2]).parent.mkdir(exist_ok=True)
shutil.copyfile(*sys.argv[1:])
"""


def steps(base=BALANCED, **options: object) -> Steps:
    args = StudyArgs(**{"name": "ablation", "work": Path("w")} | options)
    return Steps(args, replace(base, index=("train",), eval_index=("eval",)), 1000)


@pytest.mark.parametrize(
    ("base", "options", "first"),
    [
        (BALANCED, {}, 41),
        (FULL, {"set": "full"}, 16),
        (FSD50K, {"name": "fsd50k"}, 21),
        (ESC50, {"set": "esc50"}, 11),
        (DEMO, {}, 5),  # after the second decay
        (replace(DEMO, epochs=3), {}, 2),  # there is no second decay
        (DEMO, {"average_from": 3}, 3),
    ],
)
def test_weights_are_averaged_over_the_papers_epochs(base, options, first: int):
    assert steps(base, **options).averaged == (first, base.epochs)


def test_without_an_ontology_labels_are_those_annotated():
    model = steps().model("psla")
    assert model.name == "recipe" and "no --ontology" in model.notes[0]
    for teacher, before in ((None, ["runs/recipe/seed-0"]), (Path("t.pt"), [])):
        made = steps(ontology=Path("o.json"), teacher=teacher)
        train = made.train(made.model("psla"), 2)
        assert "--labels=w/labels/train-both-mean" in train.words and "--seed=2" in train.words
        overlay = ["labels/teacher-train", "labels/train-both-mean"]
        assert list(with_all_before([train])) == [*before, *overlay, train.name]


def test_runs_of_a_study_name_their_urls_and_places():
    reader = replace(DEMO.reader, stage=Path("fast"))
    base = replace(BASE, index=("s3://a", "b"), reader=reader, wandb="w")
    made = Steps(StudyArgs(name="ablation", work=Path("w")), base, 1000)
    words = made.train(made.model("psla"), 0).words
    named = ["--index=s3://a", "--index=b", "--reader.stage=fast", "--wandb=w"]
    assert list(words[-4:]) == named and "--eval-index=eval" not in words


def test_a_row_that_changes_nothing_here_is_a_gap():
    base = replace(DEMO, augment=replace(DEMO.augment, freq_mask=0, time_mask=0))
    found = find_numbers(table("ablation", "balanced"), Numbers(steps(base), seeds=1))
    gaps = [cell.row for (cell, _), number in found.items() if isinstance(number, Lacking)]
    assert gaps == ["- pretraining", "- masking", "- label enhancement"]


def test_accuracy_is_that_of_scores_and_no_paper_has_it():
    cells = table("ablation", "esc50")
    numbers = Numbers(steps(ESC50, set="esc50"), seeds=1)
    found = find_numbers(cells, numbers)
    scored = {c.row: n.steps[0].name for (c, _), n in found.items() if c.column == "accuracy"}
    run = "runs/recipe/seed-0"
    assert scored["PSLA"] == f"{run}/epochs"
    assert scored["- ensemble"] == f"{run}/last"
    assert scored["- ensemble, + weight averaging"] == f"{run}/average"
    (shown,) = gather(cells, numbers, found, lambda step: False)["tables"]
    assert [column["name"] for column in shown["columns"]] == ["", "mAP, ours", "accuracy, ours"]


def test_a_folder_keeps_to_the_settings_it_began_with(tmp_path: Path):
    args = StudyArgs(name="sampling", work=tmp_path / "work")
    shards = {"index": "a", "eval_index": "b"}
    later, moved = replace(args, ontology=Path("o.json")), replace(BASE, index=("moved",))
    for given, config in ((args, BASE), (later, moved), (args, BASE)):
        begin(given, config, check_begun(given, config, shards))
    for other, config, found, message in (
        (args, replace(BASE, seed=1), shards, "seed was 0, now 1"),
        (args, BASE, shards | {"index": "c"}, "index was a, now c"),
        (replace(args, average_from=2), BASE, shards, "average_from was None, now 2"),
        (replace(args, ontology=Path("p.json")), BASE, shards, "ontology was o.json, now p.json"),
        (replace(args, set="full"), BASE, shards, "set was balanced, now full"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_begun(other, config, found)


def copy(work: Path, name: str, source: Path, *after: Step) -> Step:
    """A step that copies a file to a folder of its own."""
    output = work / name / "copy.json"
    return Step(name, "copy_file", (str(source), str(output)), output, after)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "copy_file.py").write_text(COPY)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "source.json").write_text("{}")
    return tmp_path / "source.json"


def test_a_step_runs_when_missing_or_older_than_its_input(source: Path, tmp_path: Path):
    first = copy(tmp_path, "first", source)
    second = copy(tmp_path, "second", first.output, first)
    for _ in range(2):  # the second time nothing is left to do
        assert Runner(1, start_process).run([first, second]) == []
        made = second.output.stat().st_mtime_ns
        (tmp_path / "second" / "old").touch()
    assert Runner(1, start_process).is_done(second)
    os.utime(first.output, ns=(made + 10**9, made + 10**9))
    assert not Runner(1, start_process).is_done(second)
    first.output.unlink()
    assert Runner(1, start_process).run([first, second]) == []
    assert second.output.stat().st_mtime_ns > made
    assert not (tmp_path / "second" / "old").exists()  # the folder is written as a whole


def test_a_failed_step_is_reported_and_others_go_on(source: Path, tmp_path: Path):
    bad = copy(tmp_path, "bad", tmp_path / "nowhere.json")
    needy, other = copy(tmp_path, "needy", bad.output, bad), copy(tmp_path, "other", source)
    runner = Runner(1, start_process)
    assert runner.run([bad, needy, other]) == ["bad"]
    assert [runner.is_done(step) for step in (bad, needy, other)] == [False, False, True]


def write_trained(step: Step, maps: list[float]) -> None:
    """A run as training leaves it; its checkpoint is empty."""
    lines = [epoch_line(epoch, value) for epoch, value in enumerate(maps, 1)]
    write_run(step.folder, lines, **to_json(replace(BASE, run_dir=step.folder)))
    step.output.parent.mkdir()
    step.output.touch()


def test_a_table_has_means_deviations_changes_and_gaps(tmp_path: Path):
    steps = Steps(StudyArgs(name="sampling", work=tmp_path), BASE, 100)
    cells, numbers = table("sampling", "balanced"), Numbers(steps, seeds=3)
    plain, masked = steps.model("plain"), steps.model("no-mixup")
    write_trained(steps.train(plain, 0), [0.9, *[0.1] * 5])  # the last five count
    write_trained(steps.train(plain, 1), [0.9, 0.1, 0.1, 0.2, 0.3, 0.3])
    write_trained(steps.train(masked, 0), [0.14] * 6)
    write_trained(steps.train(masked, 1), [0.22] * 6)
    write_trained(steps.train(masked, 2), [0.5] * 4)  # stopped
    runner = Runner(1, start_process)
    record = gather(cells, numbers, find_numbers(cells, numbers), runner.is_done)
    first, second, third = (row["cells"]["mAP"] for row in record["tables"][0]["rows"])
    assert (first["ours"], first["deviation"]) == pytest.approx((0.15, 0.0707), abs=1e-4)
    assert second["seeds"] == pytest.approx({"0": 0.14, "1": 0.22})
    assert second["change"] == pytest.approx([0.03, 0.01414], abs=1e-5)
    assert second["gaps"] == {"2": "runs/no-mixup/seed-2 is not done"}
    assert third["ours"] is None and third["change"] is None and third["gaps"].keys() == set("012")
    text = to_text({"title": "t"} | record)
    assert "0.3108 ± 0.0013" in text and "0.1800 ± 0.0566 (+0.0300 ± 0.0141) of 2 seeds (3)" in text
    assert "(2) random initial weights" in text and "between runs of one seed" in text
    assert len({len(line) for line in text.splitlines() if line.startswith("|")}) == 1
    json.dumps(record, allow_nan=False)
