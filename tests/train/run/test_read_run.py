"""Logs read back: cut, resumed, without evaluation, or damaged."""

import json
from pathlib import Path

import pytest
from run_folders import epoch_line, not_evaluated, step_line, write_run

from psla_wds.errors import ScoreError
from train.run.log import read_run


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    lines = [step_line(step) for step in (50, 100)] + [epoch_line(1), step_line(150), epoch_line(2)]
    return write_run(tmp_path / "run", lines)


def test_a_log_cut_in_its_last_line_is_used_up_to_there(run_folder: Path):
    log = run_folder / "log.jsonl"
    log.write_bytes(log.read_bytes()[:-20])
    run = read_run(run_folder)
    assert run.cut and [record.epoch for record in run.epochs] == [1]


def test_a_whole_last_line_without_its_newline_counts(run_folder: Path):
    log = run_folder / "log.jsonl"
    log.write_text(log.read_text().rstrip("\n"))
    run = read_run(run_folder)
    assert not run.cut and len(run.epochs) == 2


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


def test_after_a_resume_the_later_record_counts(run_folder: Path):
    with (run_folder / "log.jsonl").open("a") as log:
        log.write(f"{step_line(100, loss=0.1)}\n{epoch_line(1, map_=0.9)}\n")
    run = read_run(run_folder)
    assert [(r.step, r.loss) for r in run.steps] == [(50, 0.5), (100, 0.1), (150, 0.5)]
    assert [(r.epoch, r.mAP) for r in run.epochs] == [(1, 0.9), (2, 0.25)]


def test_epochs_without_evaluation_are_marked(run_folder: Path):
    with (run_folder / "log.jsonl").open("a") as log:
        log.write(f"{not_evaluated(3)}\n{epoch_line(4)}\n")
    assert [r.evaluated for r in read_run(run_folder).epochs] == [True, True, False, True]


def test_an_evaluation_that_lacks_a_number_is_refused(run_folder: Path):
    record = json.loads(epoch_line(3))
    del record["mAUC"]
    with (run_folder / "log.jsonl").open("a") as log:
        log.write(json.dumps(record) + "\n")
    with pytest.raises(ScoreError, match="'nothing' for mAUC"):
        read_run(run_folder)


@pytest.mark.parametrize("name", ["config.json", "log.jsonl"])
def test_a_folder_that_is_not_a_run_is_named(run_folder: Path, name: str):
    (run_folder / name).unlink()
    with pytest.raises(ScoreError, match=f"the run folder has no {name}"):
        read_run(run_folder)
