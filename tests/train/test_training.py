"""Training, as a user starts it: its log and checkpoints, and where it goes on."""

import json
import random
import re
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import run_command
from damaged_clips import flip_bits
from training_runs import (
    arguments,
    config_of,
    final_weights,
    logged_losses,
    num_logged,
    records,
    same_weights,
    start,
    torchrun,
    wait_until,
)

from psla_wds.errors import ConfigError, PslaError, StaleIndexError
from psla_wds.evaluation.metrics import evaluate
from psla_wds.evaluation.scores import Scores
from psla_wds.features.config import FeatureConfig
from psla_wds.models.audio_tagger import loss
from psla_wds.models.epochs import epoch_checkpoints
from psla_wds.models.initial_weights import build_model
from psla_wds.reading.config import ReaderConfig
from psla_wds.sampling.config import SamplerConfig
from psla_wds.shards.index_files import open_indexes
from train.config import read_made_with
from train.main import parse
from train.recipes import DEMO
from train.run.log import read_run
from train.start import train


@pytest.fixture(scope="module")
def trained(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs, by two processes."""
    run_dir = tmp_path_factory.mktemp("runs") / "two"
    done = torchrun(2, arguments(shards, run_dir), cwd=run_dir.parent)
    assert f"wrote 2 epochs to {run_dir}" in done.stdout.splitlines()[-1]
    return run_dir


@pytest.fixture(scope="module")
def uninterrupted(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, by this process alone."""
    run_dir = tmp_path_factory.mktemp("runs") / "one"
    train(parse(arguments(shards, run_dir)))
    return run_dir


def test_a_run_writes_its_log_and_the_weights_of_every_epoch(trained: Path):
    log = read_run(trained)
    steps_per_epoch = 36 // 6
    assert [record.step for record in log.steps] == list(range(1, 2 * steps_per_epoch + 1))
    assert [record.epoch for record in log.epochs] == [1, 2]
    assert all(0 <= r.data_wait <= 1 and r.clips_per_s > 0 for r in log.steps)
    assert all(0 <= r.mAP <= 1 and r.eval_loss > 0 for r in log.epochs)
    assert sorted(epoch_checkpoints(trained)) == [1, 2]
    assert list((trained / "tensorboard").iterdir())
    assert not list(trained.rglob("*.tmp"))


def test_scores_of_a_checkpoint_are_those_that_training_logged(
    trained: Path, shards: Path, tmp_path: Path
):
    output = tmp_path / "p.npz"
    words = [str(trained), f"--index={shards}:eval", f"--output={output}", "--batch-size=5"]
    run_command("eval.predict", *words)
    scores, index = Scores.load(output), open_indexes([f"{shards}:eval"])
    assert scores.clip_ids == tuple(index.clip_id(row) for row in range(len(index)))
    assert scores.scores.std(axis=0).min() > 1e-4  # or the order would be rounding
    logged = read_run(trained).epochs[-1]
    assert evaluate(scores.scores, scores.targets).mAP == pytest.approx(logged.mAP, abs=1e-6)


def test_an_epoch_is_scored_by_the_windows_asked_for(shards: Path, tmp_path: Path):
    settled = {"model": replace(DEMO.model, batch_norm_momentum=1.0)}
    evaluated = {"eval_index": (f"{shards}:eval",), "features": FeatureConfig(num_frames=32)}
    train(config_of(shards, tmp_path / "run", eval_windows=1, **evaluated, **settled))
    losses, said = [], ("not heard; leave out --windows 1", "is the mean of at most 2 windows")
    for windows, line in zip(("--windows=1", "--windows=2"), said, strict=True):
        words = [str(tmp_path / "run"), f"--index={shards}:eval", f"--output={tmp_path}/p.npz"]
        words += [windows, "--overwrite"]
        assert line in run_command("eval.predict", *words).stderr
        scores = Scores.load(tmp_path / "p.npz")
        targets = torch.from_numpy(scores.targets).float()
        losses.append(float(loss(torch.from_numpy(scores.scores), targets)))
    assert losses[0] == pytest.approx(read_run(tmp_path / "run").epochs[-1].eval_loss, abs=1e-5)
    assert abs(losses[1] - losses[0]) > 1e-4


def test_stepped_warm_up_has_no_rate_but_moves_the_statistics(shards: Path, tmp_path: Path):
    """The official code does its first 50 steps at a rate of 0; these are six."""
    optimizer = replace(DEMO.optimizer, warmup="stepped")
    config = config_of(shards, tmp_path / "run", log_every_steps=1, optimizer=optimizer)
    train(config)
    torch.manual_seed(config.seed)
    initial, found = build_model(config.model, 4).state_dict(), final_weights(config.run_dir)
    parameters = [name for name in initial if ".running_" not in name and "num_batches" not in name]
    assert all(torch.equal(found[name], initial[name]) for name in parameters)
    assert not torch.equal(found["trunk._bn0.running_mean"], initial["trunk._bn0.running_mean"])
    assert [rate for *_, rate in logged_losses(config.run_dir)] == [0.0] * 6


# --- going on


def without_speed(run_dir: Path) -> list[dict]:
    speed = ("clips_per_s", "duration_s", "storage_wait")
    return [
        {n: v for n, v in record.items() if n not in speed and "data_wait" not in n}
        for record in records(run_dir)
    ]


def test_a_killed_run_resumes_to_the_same_weights_and_log(
    shards: Path, uninterrupted: Path, tmp_path: Path
):
    run_dir, rng = tmp_path / "killed", random.Random(0)
    for lines in (2, 7):  # one of them beside the end of an epoch
        process = start(shards, run_dir, "--resume")
        wait_until(lambda lines=lines: num_logged(run_dir) >= lines, process)
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
        process.communicate()
        assert num_logged(run_dir) < 14, "killed too late to show anything"
    train(parse(arguments(shards, run_dir, "--resume")))
    assert without_speed(run_dir) == without_speed(uninterrupted)
    assert same_weights(run_dir, uninterrupted)


def test_a_run_that_is_stopped_saves_its_state_first(
    shards: Path, uninterrupted: Path, tmp_path: Path
):
    process = start(shards, tmp_path / "run", "--state-every-steps=1000")
    wait_until(lambda: num_logged(tmp_path / "run") >= 2, process)
    process.send_signal(signal.SIGTERM)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + signal.SIGTERM
    assert "--resume" in stderr and "Traceback" not in stderr
    train(parse(arguments(shards, tmp_path / "run", "--resume")))
    assert logged_losses(tmp_path / "run") == logged_losses(uninterrupted)


def test_ctrl_c_saves_the_state_first(shards: Path, uninterrupted: Path, tmp_path: Path):
    process = start(shards, tmp_path / "run", "--state-every-steps=1000")
    wait_until(lambda: num_logged(tmp_path / "run") >= 2, process)
    process.send_signal(signal.SIGINT)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + signal.SIGINT and "Traceback" not in stderr
    assert "saved step" in stderr and "Ctrl-C again" in stderr
    train(parse(arguments(shards, tmp_path / "run", "--resume")))
    assert logged_losses(tmp_path / "run") == logged_losses(uninterrupted)


def test_a_run_goes_on_by_other_processes_and_notes_what_made_it(
    shards: Path, trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    run_dir = shutil.copytree(trained, tmp_path / "run")
    content = json.loads((run_dir / "config.json").read_text())
    made_with, index = content["made_with"], open_indexes([f"{shards}:train"])
    assert made_with["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert (made_with["processes"], made_with["clips"]) == (2, len(index))
    assert made_with["index_fingerprint"] == index.fingerprint
    assert len(made_with["sources"]) == 12 and "commit" in made_with

    made_with["versions"]["numpy"] = "1.0"
    (run_dir / "config.json").write_text(json.dumps(content))
    caplog.set_level("INFO")
    train(parse(arguments(shards, run_dir, "--resume", "--epochs=3")))
    log = read_run(run_dir)
    assert "continuing after step 12 of 18, in epoch 3 of 3" in caplog.text
    said = rf"epoch 3/3: loss 0\.\d+, eval loss \d\.\d+, mAP {log.epochs[-1].mAP:.4f} \(best"
    assert re.search(said, caplog.text)
    assert [r.epoch for r in log.epochs] == [1, 2, 3] and len(log.steps) == 18
    warned = [r.getMessage() for r in caplog.records if "config.json" in r.getMessage()]
    assert ["numpy was 1.0, now" in line for line in warned] == [True, False]
    assert "processes was 2, now 1" in warned[1]
    assert read_made_with(run_dir / "config.json")["processes"] == 1


def test_the_configuration_of_a_run_makes_it_again(trained: Path, tmp_path: Path):
    again = parse([str(trained / "config.json"), f"--run-dir={tmp_path}"])
    first = parse(arguments("x", tmp_path))
    assert replace(again, index=first.index, eval_index=first.eval_index) == first


def test_a_run_does_not_resume_with_other_settings_or_shards(
    shards: Path, trained: Path, tmp_path: Path
):
    words = arguments(shards, trained, "--resume")
    with pytest.raises(ConfigError, match="seed was 0, now 1"):
        train(parse([*words, "--seed=1"]))
    with pytest.raises(ConfigError, match="subset was None, now 20"):
        train(parse([*words, "--subset=20"]))
    with pytest.raises(ConfigError, match="begun on other shards"):
        train(replace(parse(words), index=(str(shards),)))


def test_a_used_run_folder_is_not_touched_without_resume(
    shards: Path, trained: Path, tmp_path: Path
):
    before = (trained / "config.json").read_bytes()
    with pytest.raises(ConfigError, match="add --resume"):
        train(config_of(shards, trained))
    (tmp_path / "precious").touch()
    with pytest.raises(ConfigError, match="choose another --run-dir"):
        train(config_of(shards, tmp_path, resume=True))
    assert (trained / "config.json").read_bytes() == before


def test_two_runs_do_not_write_to_one_folder(shards: Path, tmp_path: Path):
    process = start(shards, tmp_path / "run", "--epochs=50")
    wait_until(lambda: num_logged(tmp_path / "run") >= 1, process)
    with pytest.raises(PslaError, match="another run is training in this folder"):
        train(parse(arguments(shards, tmp_path / "run", "--epochs=50", "--resume")))
    process.kill()
    process.communicate()


# --- mistakes and damage


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"index": ()}, ConfigError, "nothing to train on"),
        ({"index": ("no/such",)}, StaleIndexError, "no such folder"),
        ({"batch_size": 100}, ConfigError, "at most 36"),
        ({"subset": 37}, ConfigError, "37 clips cannot be chosen from 36"),
        ({"accumulate": 4}, ConfigError, "--batch-size 4 or 8"),
        ({"precision": "float16"}, ConfigError, "float16 needs a GPU"),
        ({"features": FeatureConfig(sample_rate_hz=32_000)}, ConfigError, "shards are at 16000 Hz"),
        ({"batch_norm": "batch"}, ConfigError, "needs GPUs"),
        ({"run_dir": Path("/proc/run")}, PslaError, "cannot be written|are free"),
    ],
    ids=["no index", "no folder", "large batch", "large subset", "accumulate", "float16", "rate",
         "batch norm", "run folder"],
)  # fmt: skip
def test_a_run_and_its_dry_run_find_a_mistake_before_training(
    shards: Path, tmp_path: Path, changes: dict[str, object], error: type, message: str
):
    config = replace(config_of(shards, tmp_path / "run"), **changes)
    for dry_run in (True, False):
        with pytest.raises(error, match=message):
            train(replace(config, dry_run=dry_run))
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_allowed_damaged_clips_are_replaced_and_logged(
    shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setattr("psla_wds.io.remote.RETRY_PAUSES_S", ())
    caplog.set_level("INFO")
    copied = shutil.copytree(shards, tmp_path / "shards")
    index = flip_bits(open_indexes([f"{copied}:train"]), 5)
    config = config_of(copied, tmp_path / "run", sampler=SamplerConfig(sampling="shuffle"))
    with pytest.raises(PslaError, match="CRC-32 differs") as caught:
        train(replace(config, run_dir=tmp_path / "strict"))
    assert index.clip_id(5) in str(caught.value)
    train(replace(config, reader=ReaderConfig(max_damaged=1)))
    assert "loss=0." in capsys.readouterr().err  # the bar's, though the log has no step yet
    damaged = [record for record in records(config.run_dir) if record["event"] == "damaged"]
    assert [record["clip_id"] for record in damaged] == [index.clip_id(5)]
    assert "CRC-32 differs" in damaged[0]["problem"]
    assert "1 damaged clips were replaced so far" in caplog.text
    assert re.search(
        r"epoch 1/1: loss 0\.\d{4}, \d+ s, \d+ clips/s; bounded by .*waiting for data", caplog.text
    )


def test_unknown_recipes_and_flags_get_suggestions(shards: Path, tmp_path: Path):
    with pytest.raises(
        ConfigError, match=r"unknown recipe demos\n.*\n.*audioset-full, .*, demo, or"
    ):
        parse(["demos", "--index=x"])
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        parse(["nothing.json"])
    with pytest.raises(ConfigError, match=r"type --optimizer\.learning-rate"):
        parse(arguments(shards, tmp_path / "run", "--optimzer.learning-rate=2"))
