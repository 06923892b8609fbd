"""The log of a run: continued without a trace, and followed by W&B on request."""

import json
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer
from tensorboard.summary.writer.event_file_writer import AtomicCounter

from psla_wds.errors import PslaError
from train.recipes import DEMO
from train.run.log import RunLog

RECORDS = [
    {"event": "step", "step": 2, "epoch": 1},
    {"event": "bad_step", "step": 3, "epoch": 1},
    {"event": "step", "step": 4, "epoch": 1},
    {"event": "damaged", "step": 4, "clip_id": "a"},
    {"event": "epoch", "step": 4, "epoch": 1},
    {"event": "step", "step": 6, "epoch": 2},
]


def state_of(step: int, epochs_done: int, damaged: list[str]) -> dict[str, Any]:
    return {"step": step, "epochs_done": epochs_done, "damaged": damaged}


@pytest.mark.parametrize(
    ("state", "kept"),
    [
        (state_of(6, 1, ["a"]), [0, 1, 2, 3, 4, 5]),
        (state_of(5, 1, ["a"]), [0, 1, 2, 3, 4]),
        (state_of(4, 0, []), [0, 1, 2]),  # saved before the epoch was evaluated
        (state_of(3, 0, []), [0, 1]),
        (None, []),
    ],
    ids=["all", "a step", "an epoch", "a bad step", "from the start"],
)
def test_records_of_what_is_done_again_are_dropped(
    tmp_path: Path, state: dict[str, Any] | None, kept: list[int]
):
    log = tmp_path / "log.jsonl"
    odd = '{"event": "epoch", "step": 1, "epoch": null}'
    lines = [odd, *(json.dumps(record) for record in RECORDS)]  # what is not ours is left alone
    log.write_text("\n".join([*lines, '{"event": "step", "st']))
    with RunLog(replace(DEMO, run_dir=tmp_path), state, enabled=True) as run_log:
        run_log.write("step", step=7, loss=1.0)
    *before, last = log.read_text().splitlines()
    assert before == [lines[number] for number in ([0, *(n + 1 for n in kept)] if state else [])]
    assert json.loads(last)["step"] == 7


def test_an_epoch_is_compared_with_the_best_before_it(tmp_path: Path):
    config = replace(DEMO, run_dir=tmp_path)
    with RunLog(config, None, enabled=True) as log:
        assert log.compared(1, 0.25) == "mAP 0.2500"
        for epoch, mAP in enumerate((0.25, 0.5), 1):  # noqa: N806 (as in the log)
            log.write("epoch", step=2 * epoch, epoch=epoch, mAP=mAP)
    with RunLog(config, state_of(4, 2, []), enabled=True) as log:
        assert log.compared(3, 0.375) == "mAP 0.3750 (best: 0.5000 in epoch 2)"
        assert log.compared(4, 0.625) == "mAP 0.6250 (best so far)"
    with RunLog(config, state_of(2, 1, []), enabled=True) as log:  # epoch 2 is done again
        assert log.compared(2, 0.375) == "mAP 0.3750 (best so far)"


@pytest.mark.parametrize(("state", "kept"), [(state_of(4, 1, []), [2, 4]), (None, [])])
def test_bad_steps_done_again_are_not_listed_twice(
    tmp_path: Path, state: dict[str, Any] | None, kept: list[int]
):
    bad = tmp_path / "bad_batches.jsonl"
    bad.write_text("".join(json.dumps({"step": n, "clips": []}) + "\n" for n in (2, 4, 5)))
    with RunLog(replace(DEMO, run_dir=tmp_path), state, enabled=True):
        pass
    assert [json.loads(line)["step"] for line in bad.read_text().splitlines()] == kept


def test_tensorboard_shows_each_step_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # Its reader orders the files of one process by name, where a tenth comes before a ninth.
    monkeypatch.setattr(event_file_writer, "_global_uid", AtomicCounter(10))
    config = replace(DEMO, run_dir=tmp_path)
    for state, steps, loss in ((None, (1, 2, 3), 1.0), (state_of(1, 0, []), (2, 3, 4), 2.0)):
        with RunLog(config, state, enabled=True) as log:
            for step in steps:
                log.write("step", step=step, loss=loss)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    shown = [(event.step, event.value) for event in events.Scalars("step/loss")]
    assert shown == [(1, 1.0), (2, 2.0), (3, 2.0), (4, 2.0)]


@pytest.mark.parametrize("left", [None, ""])
def test_a_log_that_is_gone_is_a_warning(tmp_path: Path, caplog, left: str | None):
    config = replace(DEMO, run_dir=tmp_path)
    for state, gone in ((None, False), (state_of(4, 1, []), True)):
        if gone and left is None:
            (tmp_path / "log.jsonl").unlink()
        elif gone:
            (tmp_path / "log.jsonl").write_text(left)
        with RunLog(config, state, enabled=True) as log:
            log.write("epoch", step=4, epoch=1)
        warned = [record.getMessage() for record in caplog.records]
        assert len(warned) == gone
    assert "log.jsonl is gone" in warned[0] and "step 4" in warned[0]


def test_a_run_folder_that_vanishes_is_one_error(tmp_path: Path, capsys):
    config = replace(DEMO, run_dir=tmp_path / "run")
    config.run_dir.mkdir()
    with pytest.raises(PslaError), RunLog(config, None, enabled=True) as log:
        while config.run_dir.exists():  # the thread of TensorBoard may write meanwhile
            shutil.rmtree(config.run_dir, ignore_errors=True)
        (config.run_dir).write_text("in its place")
        for step in range(100):
            log.write("step", step=step, loss=1.0)
            time.sleep(0.02)
    assert "Traceback" not in capsys.readouterr().err


FAKE_WANDB = """
import json, os
from types import SimpleNamespace

def init(**given):
    if os.environ.get("WANDB_FAILS"):
        raise ValueError("api_key not configured\\nand much more")
    with open(os.environ["WANDB_CALLS"], "a") as file:
        file.write(json.dumps(given) + "\\n")
    return SimpleNamespace(id=given["id"] or "abc123")
"""


@pytest.fixture
def wandb_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Calls of a stand-in for the package, which needs an account."""
    (tmp_path / "wandb.py").write_text(FAKE_WANDB)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setenv("WANDB_CALLS", str(tmp_path / "calls.jsonl"))
    return tmp_path / "calls.jsonl"


def test_wandb_follows_tensorboard_under_one_id(wandb_calls: Path, tmp_path: Path):
    config = replace(DEMO, run_dir=tmp_path / "run", wandb="taggers")
    config.run_dir.mkdir()
    for state in (None, state_of(1, 0, [])):
        with RunLog(config, state, enabled=True) as log:
            log.write("step", step=2, loss=0.5)
    first, second = [json.loads(line) for line in wandb_calls.open()]
    assert (first["project"], first["name"], first["id"]) == ("taggers", "run", None)
    assert (second["id"], second["resume"]) == ("abc123", "allow")
    assert first["sync_tensorboard"] and first["config"]["batch_size"] == DEMO.batch_size


def test_failing_wandb_is_one_warning(
    wandb_calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
):
    monkeypatch.setenv("WANDB_FAILS", "1")
    config = replace(DEMO, run_dir=tmp_path / "run", wandb="taggers")
    config.run_dir.mkdir()
    with RunLog(config, None, enabled=True) as log:
        log.write("step", step=1, loss=0.5)
    assert (config.run_dir / "log.jsonl").read_text().count("\n") == 1
    (message,) = [record.getMessage() for record in caplog.records]
    assert "api_key not configured" in message and "much more" not in message
