"""Where a run's numbers go: TensorBoard, and W&B by a package of its name that writes a file."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_training import arguments

LOGGED = ("loss", "learning_rate", "data_wait", "clips_per_s", "gradient_norm")

FAKE = """
import json, os, time

FAILS = os.environ.get("FAILS")
if FAILS == "import":
    raise RuntimeError("a broken package")

class Settings:
    def __init__(self, **settings):
        self.settings = settings

class Run:
    def __init__(self, given):
        self.id, self.lines = given["id"] or "abc123", open(os.environ["FAKE_WANDB"], "a")
        given["settings"] = given["settings"].settings
        self.lines.write(json.dumps({"init": given}) + "\\n")

    def log(self, values, step):
        if FAILS == "hang" and step >= 3:
            time.sleep(600)
        if FAILS == "log" and step >= 3:
            raise ConnectionError("no network\\nand much more")
        self.lines.write(json.dumps({"step": step, **values}) + "\\n")

    def finish(self):
        self.lines.write('{"finish": true}\\n')
        self.lines.close()

def init(**given):
    if FAILS == "hang at once":
        time.sleep(600)
    if FAILS == "init":
        raise ValueError("api_key not configured")
    return Run(given)
"""


def run_with_fake(folder: Path, program: list[str]) -> subprocess.CompletedProcess[str]:
    """A program that finds the fake."""
    (folder / "wandb.py").write_text(FAKE)
    path = os.pathsep.join([str(folder), *sys.path])
    environment = os.environ | {"PYTHONPATH": path, "FAKE_WANDB": str(folder / "told.jsonl")}
    return subprocess.run(
        [sys.executable, *program], env=environment, capture_output=True, text=True, timeout=300
    )


def told(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "told.jsonl").open()]


def test_a_run_tells_wandb_what_its_log_has_and_goes_on_under_its_id(shards: Path, tmp_path: Path):
    run_dir = tmp_path / "run"
    words = arguments(shards, run_dir, "--wandb=taggers", "--epochs=1")
    done = run_with_fake(tmp_path, ["-m", "train.main", *words])
    assert done.returncode == 0, done.stderr
    first, *records, last = told(tmp_path)
    given = first["init"]
    assert (given["project"], given["name"], given["id"]) == ("taggers", "run", None)
    assert given["resume"] == "allow" and given["config"]["batch_size"] == 6
    log = [json.loads(line) for line in (run_dir / "log.jsonl").open()]
    assert len(records) == len(log) == 7 and last == {"finish": True}
    for logged, sent in zip(log, records, strict=True):
        event = logged["event"]
        numbers = {k: v for k, v in logged.items() if k not in ("event", "epoch", "step")}
        assert sent == {"step": logged["step"], **{f"{event}/{k}": v for k, v in numbers.items()}}
    assert {f"step/{name}" for name in LOGGED} <= records[0].keys()
    assert (run_dir / "wandb-id.txt").read_text().strip() == "abc123"

    board = EventAccumulator(str(run_dir / "tensorboard")).Reload()
    assert {f"step/{name}" for name in LOGGED} | {"epoch/mAP"} <= set(board.Tags()["scalars"])
    losses = [(event.step, event.value) for event in board.Scalars("step/loss")]
    assert losses == [(r["step"], pytest.approx(r["loss"])) for r in log if r["event"] == "step"]


PROGRAM = """
import logging, os, sys
from dataclasses import replace
from pathlib import Path
from train.recipes import DEMO
from train.run.records import RunLog

logging.basicConfig(format="%(message)s")
for fails in ("import", "init", "log", ""):
    print("==", fails, file=sys.stderr)
    sys.modules.pop("wandb", None)
    os.environ["FAILS"] = fails
    folder = Path(sys.argv[1]) / fails
    folder.mkdir(parents=True, exist_ok=True)
    with RunLog(replace(DEMO, run_dir=folder, wandb="taggers"), None, enabled=True) as log:
        for step in range(1, 7):
            log.write("step", step=step, epoch=1, loss=0.5)
"""


def test_whatever_fails_there_is_one_warning_and_the_log_is_whole(tmp_path: Path):
    done = run_with_fake(tmp_path, ["-c", PROGRAM, str(tmp_path / "runs")])
    assert done.returncode == 0, done.stderr
    said = dict(part.split("\n", 1) for part in done.stderr.split("== ")[1:])
    assert [said[fails].count("W&B") for fails in ("import", "init", "log", "")] == [1, 1, 1, 0]
    assert "could not begin" in said["import"] and "a broken package" in said["import"]
    assert "could not log" in said["log"] and "much more" not in said["log"]
    for fails in said:
        assert len((tmp_path / "runs" / fails / "log.jsonl").read_text().splitlines()) == 6
    steps = [line["step"] for line in told(tmp_path) if "step" in line]
    assert steps == [1, 2, 1, 2, 3, 4, 5, 6]


PROGRAM_THAT_HANGS = PROGRAM.replace('("import", "init", "log", "")', '("hang", "hang at once")')
WITHOUT_PATIENCE = (
    "import train.run.wandb_sink as w; w.CLOSE_WAIT_S, w.MOST_WAITING = 0.5, {most}\n"
)


@pytest.mark.parametrize(("most", "reason"), [(1000, "within 0.5 s"), (1, "for 1 records")])
def test_a_call_that_never_returns_holds_no_run(tmp_path: Path, most: int, reason: str):
    program = WITHOUT_PATIENCE.format(most=most) + PROGRAM_THAT_HANGS
    started = time.monotonic()
    done = run_with_fake(tmp_path, ["-c", program, str(tmp_path / "runs")])
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started < 60
    said = dict(part.split("\n", 1) for part in done.stderr.split("== ")[1:])
    for fails in ("hang", "hang at once"):
        assert said[fails].count("W&B") == 1 and reason in said[fails]
        assert len((tmp_path / "runs" / fails / "log.jsonl").read_text().splitlines()) == 6
