"""The paper's studies at toy size: as a user starts one, and all of them to their tables."""

import csv
import importlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
from conftest import assert_user_error, manifest_arguments, run_command, write_corpus
from data_sets import write_sound, write_table
from label_overlays import write_ontology

from psla_wds import cli
from psla_wds.errors import ConfigError, PslaError
from psla_wds.evaluation.mapping import read_mapping
from train.studies import STUDIES
from train.study import main

TREE = {"/t/3": ["/t/0", "/t/1", "/t/2"]}  # all sounds are noise
TINY = (
    "--epochs=1", "--batch-size=18", "--features.num-frames=64", "--features.num-mels=32",
    "--reader.decode-threads=1", "--model.batch-norm-momentum=1.0",
)  # fmt: skip
SAMPLED = {"balanced": "shuffle", "full": "balanced", "fsd50k": "balanced"}


def options(shards: Path, work: Path, data_set: str, *more: str) -> list[str]:
    data = [f"--index={shards}:train", f"--eval-index={shards}:eval", f"--work={work}"]
    drawn = f"--sampler.sampling={SAMPLED[data_set]}"
    return ["--base=demo", f"--set={data_set}", *data, drawn, *TINY, *more]


def in_this_process(command: Sequence[str]) -> tuple[int, str]:
    """Run `python -m MODULE ...` here, to not import torch for each of two hundred commands."""
    _, _, module, *words = command
    said, status, before = StringIO(), 0, sys.argv
    sys.argv = [module, *words]
    try:
        with redirect_stdout(said), redirect_stderr(said):
            cli.run(importlib.import_module(module).main)
    except SystemExit as ended:
        status = ended.code or 0
    finally:
        sys.argv = before
    return status, said.getvalue()


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict]:
    """Runs a study in this process; its table."""

    def run(name: str, words: Sequence[str]) -> dict:
        monkeypatch.setattr(sys, "argv", ["study", name, *words])
        main(in_this_process)
        work = next(Path(w.removeprefix("--work=")) for w in words if w.startswith("--work="))
        data_set = next(w.removeprefix("--set=") for w in words if w.startswith("--set="))
        return json.loads((work / f"{name}-{data_set}" / "table.json").read_text())

    return run


def test_mistakes_are_told_before_anything_is_run(study, shards: Path, tmp_path: Path):
    good = options(shards, tmp_path, "balanced")
    for words, message in (
        (["nothing", *good], "there is no study nothing"),
        (["mixup-rate", *options(shards, tmp_path, "full")], "no such table for the set full"),
        (["sampling", *good, "--sampler.sampling=balanced"], "draws each clip once an epoch"),
        (["sampling", *good, "--run-dir=x"], "names the folders of its runs"),
        (["sampling", *good, f"--labels={tmp_path}"], "makes the labels of its rows"),
        (["sampling", *good, "--seeds=0"], "--seeds 0 is not above 0"),
        (["sampling", *good, "--sizes", "5"], "of the study training-size"),
        (["sampling", *good, f"--imagenet={tmp_path}"], "no ImageNet weights of efficientnet-b0"),
        (["sampling", "--base=demo", f"--work={tmp_path}"], "a study trains and evaluates"),
        (["sampling", *good, "--task=2/2"], "task '2/2' is not I/N"),
    ):
        with pytest.raises(PslaError, match=message):
            study(words[0], words[1:])
    assert not list(tmp_path.iterdir())


def test_a_dry_run_tells_runs_and_commands_and_writes_nothing(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    words = options(shards, tmp_path, "full", "--dry-run", "--seeds=2", "--clips-per-s=10")
    monkeypatch.setattr(sys, "argv", ["study", "ablation", *words])
    main()
    told = capsys.readouterr()
    assert "8 of 8 runs to train: 288 clips, 0.01 h of training" in told.err
    assert told.out.count("python -m train.main") == 8
    assert told.out.count("python -m eval.figures") == 8
    assert told.out.count("python -m eval.average") == 2
    assert "wrote nothing to" in told.out.splitlines()[-1]
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_study_is_run_by_one_command_and_goes_on_where_it_stopped(shards: Path, tmp_path: Path):
    work = tmp_path / "work"
    words = ["sampling", *options(shards, work, "balanced", "--epochs=2")]
    done = run_command("train.study", *words, "--task=0/2")
    assert "next: the same command without --task" in done.stdout.splitlines()[-1]
    first = sorted(path.parent.parent.name for path in work.glob("runs/*/seed-0/log.jsonl"))
    assert first == ["no-mixup-no-masking", "recipe"]
    log = work / "runs" / "recipe" / "seed-0" / "log.jsonl"
    before = log.read_text()
    done = run_command("train.study", *words)
    table = (work / "sampling-balanced" / "table.md").read_text()
    assert "| + mixup | 0.3108 ± 0.0013 | 0." in table
    assert log.read_text() == before  # what was done is not done again
    record = json.loads((work / "sampling-balanced" / "table.json").read_text())
    assert [len(row["cells"]["mAP"]["seeds"]) for row in record["rows"]] == [1, 1, 1]
    other = run_command("train.study", *words, "--batch-size=12", check=False)
    assert_user_error(other, "begun with other settings", "batch_size was 18, now 12")


@pytest.mark.slow
def test_a_study_that_was_killed_in_a_run_goes_on_with_it(shards: Path, tmp_path: Path):
    words = options(shards, tmp_path, "balanced", "--epochs=40", "--state-every-steps=1")
    command = [sys.executable, "-m", "train.study", "mixup-rate", *words]
    log = tmp_path / "runs" / "no-mixup" / "seed-0" / "log.jsonl"
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as killed:
        while not log.exists() or '"epoch", ' not in log.read_text():
            assert killed.poll() is None
            time.sleep(0.1)
        killed.send_signal(signal.SIGTERM)
    assert killed.returncode == 128 + signal.SIGTERM
    trained = len([line for line in log.read_text().splitlines() if '"event": "epoch"' in line])
    assert 0 < trained < 40
    dry = run_command("train.study", "mixup-rate", *words, "--dry-run")
    line = next(line for line in dry.stderr.splitlines() if line.startswith("runs/no-mixup/seed-0"))
    assert f"{trained} of 40 epochs" in line and f" {40 - trained} " in line
    with log.open("a") as file:
        file.write('{"event": "step", "st')  # as a kill without notice would leave it
    done = run_command("train.study", "sampling", *words, "--task=1/3")
    assert "next: the same command without --task" in done.stdout
    epochs = [json.loads(line) for line in log.read_text().splitlines()]
    assert [e["epoch"] for e in epochs if e["event"] == "epoch"] == list(range(1, 41))


@pytest.mark.slow
def test_a_run_that_fails_is_marked_and_the_study_says_so(study, shards: Path, tmp_path: Path):
    words = options(shards, tmp_path, "full")
    blocked = tmp_path / "runs" / "no-mixup" / "seed-0"
    blocked.mkdir(parents=True)
    (blocked / "somebody's file").touch()
    with pytest.raises(PslaError, match="1 commands failed"):
        study("sampling", words)
    rows = json.loads((tmp_path / "sampling-full" / "table.json").read_text())["rows"]
    gap = rows[2]["cells"]["mAP"]
    assert gap["ours"] is None and "failed: the run folder is not empty" in gap["gaps"]["0"]
    assert all(row["cells"]["mAP"]["ours"] for row in (rows[0], rows[1], rows[3]))
    shutil.rmtree(blocked)
    rows = study("sampling", words)["rows"]
    assert all(row["cells"]["mAP"]["ours"] for row in rows)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("data_set", ["balanced", "full", "fsd50k"])
def test_every_study_comes_to_its_table(study, data_set: str, shards: Path, tmp_path: Path):
    ontology = write_ontology(tmp_path / "ontology.json", TREE, set())
    words = options(shards, tmp_path / "work", data_set, f"--ontology={ontology}")
    for name, made in STUDIES.items():
        if data_set not in made.tables:
            continue
        sizes = ("--sizes", "18", "1000") if name == "training-size" else ()
        record = study(name, [*words, *sizes])
        cells = [cell for row in record["rows"] for cell in row["cells"].values()]
        for cell in cells:
            for reason in cell["gaps"].values():
                assert reason.startswith(
                    ("nothing differs", "several of its models are the same here",
                     "there is no --esc50-index", "there is no --fsd50k-index",
                     "there are only 36 clips", "impacted is not defined", "others is not")
                ), reason  # fmt: skip
        assert any(cell["ours"] is not None for cell in cells), name
        assert (tmp_path / "work" / f"{name}-{data_set}" / "table.md").exists()
    assert not (tmp_path / "work" / "failed").exists()


@pytest.mark.slow
def test_an_epoch_chosen_on_other_clips_is_scored_on_the_test_clips(
    study, shards: Path, tmp_path: Path
):
    words = options(shards, tmp_path, "fsd50k", "--epochs=2", f"--test-index={shards}:train")
    record = study("fsd50k", words)
    rows = {row["name"]: row["cells"]["mAP"] for row in record["rows"]}
    folder = tmp_path / "runs" / "recipe" / "seed-0"
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    epochs = [line for line in log if line["event"] == "epoch"]
    best = max(epochs, key=lambda epoch: epoch["mAP"])["epoch"]
    curves = json.loads((folder / "figures" / "averaging.json").read_text())
    assert rows["- ensemble"]["ours"] == curves[best - 1]["checkpoint"]
    assert rows["PSLA"]["ours"] == curves[0]["score_ensemble"]
    with pytest.raises(ConfigError, match="test_index was"):
        study("fsd50k", options(shards, tmp_path, "fsd50k", "--epochs=2"))


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Shards of AudioSet's classes, as far as the mappings name them, ESC-50's and FSD50K's."""
    folder = tmp_path_factory.mktemp("elsewhere")
    mappings = {name: read_mapping(name) for name in ("esc50", "fsd50k")}
    mids = sorted({mid for m in mappings.values() for found in m.mids.values() for mid in found})
    train = write_corpus(folder / "corpus", num_clips=48)
    with (train / "classes.csv").open("a") as file:
        csv.writer(file).writerows([number, mid, mid] for number, mid in enumerate(mids, 4))
    built = {"audioset": folder / "audioset"}
    run_command("sharding.build", "manifest", *manifest_arguments(train, built["audioset"]))
    for name, write in (("esc50", write_all_of_esc50), ("fsd50k", write_all_of_fsd50k)):
        names = [*mappings[name].mids, *mappings[name].left_out]
        write(folder / name, names)
        built[name] = folder / f"{name}-shards"
        run_command("sharding.build", name, str(folder / name), f"--output={built[name]}")
    children = {"/t/3": ["/t/0", "/t/1", "/t/2"], "/root": ["/t/3", *mids]}
    return built | {"ontology": write_ontology(folder / "ontology.json", children, set())}


def write_all_of_esc50(folder: Path, names: list[str]) -> None:
    """A clip of each of its 50 classes."""
    rows = [[f"1-{k}-A-{k}.wav", k % 5 + 1, k, name] for k, name in enumerate(names)]
    for k, row in enumerate(rows):
        write_sound(folder / "audio" / str(row[0]), k, 44_100)
    write_table(folder / "meta" / "esc50.csv", [["filename", "fold", "target", "category"], *rows])


def write_all_of_fsd50k(folder: Path, names: list[str]) -> None:
    """A clip of each of its 200 classes, to evaluate on, and one to train on."""
    lists = folder / "FSD50K.ground_truth"
    write_table(lists / "vocabulary.csv", [[k, name, f"/f/{k}"] for k, name in enumerate(names)])
    clips = [[k, names[k], f"/f/{k}"] for k in range(len(names))]
    write_table(lists / "eval.csv", [["fname", "labels", "mids"], *clips])
    header = ["fname", "labels", "mids", "split"]
    write_table(lists / "dev.csv", [header, [999, names[0], "/f/0", "train"]])
    write_sound(folder / "FSD50K.dev_audio" / "999.wav", 0, 44_100)
    for k in range(len(names)):
        write_sound(folder / "FSD50K.eval_audio" / f"{k}.wav", k, 44_100)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("data_set", ["balanced", "full"])
def test_models_are_scored_on_esc50_and_fsd50k(study, elsewhere, data_set: str, tmp_path: Path):
    others = [f"--esc50-index={elsewhere['esc50']}", f"--fsd50k-index={elsewhere['fsd50k']}:eval"]
    ontology = f"--ontology={elsewhere['ontology']}"
    words = options(elsewhere["audioset"], tmp_path, data_set, *others, ontology)
    rows = study("elsewhere", words)["rows"]
    assert len(rows) == 5
    for row in rows:
        assert all(cell["ours"] is not None for cell in row["cells"].values()), row
    folder = tmp_path / "runs" / "recipe" / "seed-0"
    assert list(rows[1]["cells"])[:2] == ["labels added", "ESC-50"]
    for name, cell, classes in (("esc50", "ESC-50", 40), ("fsd50k", "FSD50K", 192)):
        found = json.loads((folder / name / "metrics.json").read_text())
        assert found["classes_scored"] == found["clips"] == classes  # one clip each
        assert rows[0]["cells"][cell]["ours"] == found["mAP"]
    assert not (tmp_path / "failed").exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_study_by_two_processes_is_stopped_and_goes_on(shards: Path, tmp_path: Path):
    words = ["averaging", *options(shards, tmp_path, "full", "--epochs=6", "--processes=2")]
    words += ["--state-every-steps=1"]
    run_dir = tmp_path / "runs" / "recipe" / "seed-0"
    log = run_dir / "log.jsonl"
    command = [sys.executable, "-m", "train.study", *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as stopped:
        while not log.exists() or '"epoch", ' not in log.read_text():
            assert stopped.poll() is None
            time.sleep(0.1)
        stopped.send_signal(signal.SIGTERM)
        said = stopped.communicate()[1].decode()
    assert stopped.returncode == 128 + signal.SIGTERM, said[-3000:]
    assert (run_dir / "state.pt").exists() and not (tmp_path / "averaging-full").exists()
    assert not (tmp_path / "failed").exists()  # nothing failed
    done = run_command("train.study", *words)
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert [e["epoch"] for e in events if e["event"] == "epoch"] == list(range(1, 7))
    made_with = json.loads((run_dir / "config.json").read_text())["made_with"]
    assert made_with["processes"] == 2
    assert "torch.distributed.run --standalone --nproc-per-node=2 -m eval.predict" in done.stderr
    rows = json.loads((tmp_path / "averaging-full" / "table.json").read_text())["rows"]
    assert all(row["cells"]["mAP"]["ours"] is not None for row in rows)
    alone = run_command("train.study", *words, "--processes=1", "--dry-run")
    assert "0 of 1 runs to train" in alone.stderr  # processes change no number
