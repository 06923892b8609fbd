"""Training, as a user starts it: log, checkpoints, resuming, and what happens to mistakes."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import assert_user_error, run, run_command

from psla_wds.errors import CheckpointError, ConfigError, PslaError, StaleIndexError
from psla_wds.evaluation.metrics import evaluate
from psla_wds.evaluation.scores import Scores
from psla_wds.features.config import FeatureConfig
from psla_wds.models.checkpoint import epoch_checkpoints, load_checkpoint
from psla_wds.reading.config import ReaderConfig
from psla_wds.sampling.config import SamplerConfig
from psla_wds.shards.index_files import open_indexes
from train.config import TrainConfig, read_made_with
from train.main import parse
from train.recipes import DEMO
from train.run.log import read_run
from train.start import train

MAIN = Path(__file__).parents[2] / "train" / "main.py"
SETTINGS = {
    "epochs": 2,
    "batch-size": 6,
    "log-every-steps": 1,
    "state-every-steps": 1,
    "features.num-frames": 64,
    # So short a run else scores all clips alike: its running statistics are not settled.
    "model.batch-norm-momentum": 1.0,
}


def arguments(shards: Path, run_dir: Path, *more: str) -> list[str]:
    flags = [f"--{name}={value}" for name, value in SETTINGS.items()]
    data = [f"--index={shards}:train", f"--eval-index={shards}:eval", f"--run-dir={run_dir}"]
    return ["demo", *data, *flags, *more]


def torchrun(
    processes: int, words: list[str], *, program: Path = MAIN, **options
) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return run([*launcher, f"--nproc-per-node={processes}", str(program), *words], **options)


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
    run_command("train.main", *arguments(shards, run_dir))
    return run_dir


def config_of(shards: Path, run_dir: Path, **changes: object) -> TrainConfig:
    config = replace(
        DEMO,
        index=(f"{shards}:train",),
        run_dir=run_dir,
        epochs=1,
        batch_size=6,
        features=FeatureConfig(num_frames=64),
        reader=ReaderConfig(decode_threads=1),
    )
    return replace(config, **changes)


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
    run_command(
        "eval.predict", str(trained), f"--index={shards}:eval", f"--output={output}",
        "--batch-size=5",
    )  # fmt: skip
    scores, index = Scores.load(output), open_indexes([f"{shards}:eval"])
    assert scores.clip_ids == tuple(index.clip_id(row) for row in range(len(index)))
    assert scores.scores.std(axis=0).min() > 1e-4  # or the order would be rounding
    logged = read_run(trained).epochs[-1]
    assert evaluate(scores.scores, scores.targets).mAP == pytest.approx(logged.mAP, abs=1e-6)


def test_average_predict_and_score_follow_one_another(trained: Path, shards: Path, tmp_path: Path):
    average, scores, report = (tmp_path / name for name in ("average.pt", "p.npz", "report"))
    run_command("eval.average", str(trained), "--epochs", "1", "2", f"--output={average}")
    run_command("eval.predict", str(average), f"--index={shards}:eval", f"--output={scores}")
    done = run_command("eval.score", str(scores), f"--output={report}", f"--run={trained}")
    assert "report.html" in done.stdout.splitlines()[-1]
    metrics = json.loads((report / "metrics.json").read_text())
    assert metrics["clips"] == 12 and len(metrics["per_class"]) == 4
    assert (report / "report.html").stat().st_size > 5000


def final_weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(max(epoch_checkpoints(run_dir).values())).weights


def logged_losses(run_dir: Path) -> list[tuple[int, float, float]]:
    return [(r.step, r.loss, r.learning_rate) for r in read_run(run_dir).steps]


def start(shards: Path, run_dir: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "train.main", *arguments(shards, run_dir, *more)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.002)


def records(run_dir: Path) -> list[dict]:
    """What the log has, but for the speed."""
    found = [json.loads(line) for line in (run_dir / "log.jsonl").open()]
    speed = ("clips_per_s", "duration_s", "storage_wait")
    return [
        {n: v for n, v in record.items() if n not in speed and "data_wait" not in n}
        for record in found
    ]


def num_logged(run_dir: Path) -> int:
    log = run_dir / "log.jsonl"
    return log.read_text().count("\n") if log.exists() else 0


def test_a_killed_run_resumes_to_the_very_same_weights_and_log(
    shards: Path, uninterrupted: Path, tmp_path: Path
):
    run_dir, rng = tmp_path / "killed", random.Random(0)
    for lines in (2, 6, 10):  # one of them beside the end of an epoch
        process = start(shards, run_dir, "--resume")
        wait_until(lambda lines=lines: num_logged(run_dir) >= lines, process)
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
        process.communicate()
        assert num_logged(run_dir) < 14, "killed too late to show anything"
    run_command("train.main", *arguments(shards, run_dir, "--resume"))
    assert records(run_dir) == records(uninterrupted)
    expected = final_weights(uninterrupted)
    assert all(torch.equal(t, expected[name]) for name, t in final_weights(run_dir).items())


def test_a_run_that_is_told_to_stop_saves_its_state_first(
    shards: Path, uninterrupted: Path, tmp_path: Path
):
    process = start(shards, tmp_path / "run", "--state-every-steps=1000")
    wait_until(lambda: num_logged(tmp_path / "run") >= 2, process)
    process.send_signal(signal.SIGTERM)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + signal.SIGTERM
    assert "--resume" in stderr and "Traceback" not in stderr
    done = run_command("train.main", *arguments(shards, tmp_path / "run", "--resume"))
    assert "wrote 2 epochs" in done.stdout
    assert logged_losses(tmp_path / "run") == logged_losses(uninterrupted)


def test_a_run_resumes_on_another_number_of_processes(shards: Path, trained: Path, tmp_path: Path):
    run_dir = shutil.copytree(trained, tmp_path / "run")
    run_command("train.main", *arguments(shards, run_dir, "--resume", "--epochs=3"))
    log = read_run(run_dir)
    assert [r.epoch for r in log.epochs] == [1, 2, 3] and len(log.steps) == 18


def test_the_configuration_says_what_a_run_was_made_with(
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
    train(parse(arguments(shards, run_dir, "--resume")))
    told = [r.getMessage() for r in caplog.records if "config.json" in r.getMessage()]
    assert any("numpy was 1.0, now" in line for line in told)
    assert any("processes was 2, now 1" in line for line in told)
    assert read_made_with(run_dir / "config.json")["processes"] == 1


def test_the_configuration_of_a_run_makes_it_again(trained: Path, tmp_path: Path):
    again = parse([str(trained / "config.json"), f"--run-dir={tmp_path}"])
    first = parse(arguments(Path("x"), Path("y")))
    assert (
        replace(again, run_dir=Path("y"), index=first.index, eval_index=first.eval_index) == first
    )


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"index": ()}, ConfigError, "nothing to train on"),
        ({"index": ("no/such",)}, StaleIndexError, "no such folder"),
        ({"batch_size": 100}, ConfigError, "at most 36"),
        ({"subset": 5}, ConfigError, "at most 5"),
        ({"subset": 37}, ConfigError, "37 clips cannot be chosen from 36"),
        ({"accumulate": 4}, ConfigError, "--batch-size 4 or 8"),
        ({"precision": "float16"}, ConfigError, "float16 needs a GPU"),
        (
            {"features": FeatureConfig(sample_rate_hz=32_000, num_frames=64)},
            ConfigError,
            "shards are at 16000 Hz",
        ),
    ],
    ids=[
        "no index",
        "no folder",
        "large batch",
        "small subset",
        "large subset",
        "accumulate",
        "float16",
        "sample rate",
    ],
)
def test_a_mistake_is_found_before_anything_is_trained(
    shards: Path, tmp_path: Path, changes: dict[str, object], error: type, message: str
):
    with pytest.raises(error, match=message):
        train(config_of(shards, tmp_path / "run", **changes))
    assert not (tmp_path / "run" / "checkpoints").exists()


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
    process = start(shards, tmp_path / "run", "--epochs=500")
    wait_until(lambda: num_logged(tmp_path / "run") >= 1, process)
    with pytest.raises(PslaError, match="another run is training in this folder"):
        train(parse(arguments(shards, tmp_path / "run", "--epochs=500", "--resume")))
    process.kill()
    process.communicate()


def test_a_run_does_not_resume_with_other_settings_or_on_other_shards(
    shards: Path, trained: Path, tmp_path: Path
):
    words = arguments(shards, trained, "--resume")
    with pytest.raises(ConfigError, match="seed was 0, now 1"):
        train(parse([*words, "--seed=1"]))
    with pytest.raises(ConfigError, match="subset was None, now 20"):
        train(parse([*words, "--subset=20"]))
    with pytest.raises(ConfigError, match="begun on other shards"):
        train(replace(parse(words), index=(str(shards),)))


def test_a_damaged_state_is_named_and_kept(shards: Path, trained: Path, tmp_path: Path):
    run_dir = shutil.copytree(trained, tmp_path / "run")
    (run_dir / "state.previous.pt").unlink()
    (run_dir / "state.pt").write_bytes(b"garbage")
    with pytest.raises(CheckpointError, match=r"damaged[^$]*state\.pt[^$]*delete it"):
        train(parse(arguments(shards, run_dir, "--resume")))
    assert (run_dir / "state.pt").read_bytes() == b"garbage"
    torch.save({"format_version": 2, "step": 3}, run_dir / "state.pt")
    with pytest.raises(CheckpointError, match="the state lacks bad_steps, damaged, epoch"):
        train(parse(arguments(shards, run_dir, "--resume")))
    torch.save({"format_version": 1}, run_dir / "state.pt")
    with pytest.raises(CheckpointError, match="the state has format 1"):
        train(parse(arguments(shards, run_dir, "--resume")))


def test_a_run_whose_newest_state_is_damaged_goes_on_from_the_one_before(
    shards: Path, uninterrupted: Path, tmp_path: Path
):
    process = start(shards, tmp_path / "run")
    wait_until(lambda: num_logged(tmp_path / "run") >= 5, process)
    process.kill()
    process.communicate()
    state = bytearray((tmp_path / "run" / "state.pt").read_bytes())
    state[len(state) // 2] ^= 1
    (tmp_path / "run" / "state.pt").write_bytes(state)
    done = run_command("train.main", *arguments(shards, tmp_path / "run", "--resume"))
    assert "state.pt" in done.stderr and "going on from the state before it" in done.stderr
    assert logged_losses(tmp_path / "run") == logged_losses(uninterrupted)


def test_a_truncated_shard_is_found_before_training(shards: Path, tmp_path: Path):
    copied = shutil.copytree(shards, tmp_path / "shards")
    tar = copied / "shard-000002.tar"
    tar.write_bytes(tar.read_bytes()[:-4096])
    with pytest.raises(StaleIndexError, match="expects a shard of"):
        train(config_of(copied, tmp_path / "run"))


def test_a_clip_damaged_in_place_ends_the_run_with_its_name(shards: Path, tmp_path: Path):
    copied = shutil.copytree(shards, tmp_path / "shards")
    index = open_indexes([f"{copied}:train"])
    with index.shards[index.shard[5]].open("r+b") as tar:
        tar.seek(index.offset[5] + 100)
        tar.write(b"damage")
    with pytest.raises(PslaError, match="CRC-32 differs") as caught:
        train(config_of(copied, tmp_path / "run", sampler=SamplerConfig(sampling="shuffle")))
    assert index.clip_id(5) in str(caught.value)


def test_damaged_clips_that_are_allowed_for_are_replaced_and_told(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr("psla_wds.io.remote.RETRY_PAUSES_S", ())
    caplog.set_level("INFO")
    copied = shutil.copytree(shards, tmp_path / "shards")
    index = open_indexes([f"{copied}:train"])
    with index.shards[index.shard[5]].open("r+b") as tar:
        tar.seek(index.offset[5] + 100)
        tar.write(b"damage")
    sampler, reader = SamplerConfig(sampling="shuffle"), ReaderConfig(max_damaged=1)
    train(config_of(copied, tmp_path / "run", sampler=sampler, reader=reader))
    records = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").open()]
    damaged = [record for record in records if record["event"] == "damaged"]
    assert [record["clip_id"] for record in damaged] == [index.clip_id(5)]
    assert "CRC-32 differs" in damaged[0]["problem"]
    assert "1 damaged clips were replaced so far" in caplog.text
    assert "epoch 1 was bounded by" in caplog.text


def test_a_checkpoint_of_other_classes_is_not_scored(trained: Path, tmp_path: Path):
    (tmp_path / "audio" / "only").mkdir(parents=True)
    import soundfile

    soundfile.write(tmp_path / "audio" / "only" / "1.wav", np.ones(16_000) / 3, 16_000)
    run_command("sharding.build", "folder", f"{tmp_path}/audio", f"--output={tmp_path}/shards")
    done = run_command(
        "eval.predict", str(trained), f"--index={tmp_path}/shards", f"--output={tmp_path}/p.npz",
        check=False,
    )  # fmt: skip
    assert_user_error(done, "other classes (4) than the shards (1)")
    assert not (tmp_path / "p.npz").exists()


def test_under_torchrun_a_mistake_is_told_once_and_ends_all_processes(shards: Path, tmp_path: Path):
    done = torchrun(2, arguments(shards, tmp_path / "run", "--batch-size=7"), check=False)
    assert done.returncode == 1
    assert done.stderr.count("error: a batch of 7 clips cannot be shared by 2 processes") == 1
    assert "fix:   set --batch-size 6 or 8" in done.stderr
    assert not (tmp_path / "run").exists()


def test_ranks_of_other_settings_or_code_end_with_one_message(shards: Path, tmp_path: Path):
    program = tmp_path / "main.py"
    for change, message in (
        ("sys.argv += ['--seed=' + os.environ['RANK']]", "different settings of seed"),
        ("start._code = lambda: 'of rank ' + os.environ['RANK']", "different code"),
    ):
        program.write_text(
            f"import os, sys\nfrom psla_wds import cli\nfrom train import main, start\n{change}\n"
            "cli.run(main.main)\n"
        )
        done = torchrun(2, arguments(shards, tmp_path / "run"), check=False, program=program)
        assert done.returncode == 1
        assert done.stderr.count(f"error: the ranks have {message}") == 1
        assert "Traceback" not in done.stderr.partition("error: ")[0]
        assert not (tmp_path / "run").exists()


def test_a_rank_that_fails_in_an_evaluation_ends_all_with_its_message(shards: Path, tmp_path: Path):
    copied = shutil.copytree(shards, tmp_path / "shards")
    index = open_indexes([f"{copied}:eval"])
    row = 3  # of the second rank: with three clips a rank and pass, the first has 0 to 2
    with index.shards[index.shard[row]].open("r+b") as tar:
        tar.seek(index.offset[row] + 100)
        tar.write(b"damage")
    done = torchrun(2, arguments(copied, tmp_path / "run"), check=False)
    assert done.returncode == 1
    assert done.stderr.count("error: the clip is damaged: its CRC-32 differs") == 1
    assert index.clip_id(row) in done.stderr


def test_an_unknown_recipe_gets_the_list_of_those_there_are():
    with pytest.raises(
        ConfigError, match=r"unknown recipe demos\n.*\n.*audioset-full, .*, demo, or"
    ):
        parse(["demos", "--index=x"])
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        parse(["nothing.json"])


def test_a_wrong_flag_gets_a_suggestion(shards: Path, tmp_path: Path):
    done = run_command(
        "train.main",
        *arguments(shards, tmp_path / "run", "--optimzer.learning-rate=2"),
        check=False,
    )
    assert done.returncode == 2
    assert "--optimizer.learning-rate" in done.stderr
