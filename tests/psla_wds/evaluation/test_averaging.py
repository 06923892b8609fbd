"""Averages of weights and scores over the epochs of a run, as a user makes them."""

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from conftest import assert_user_error, run_command
from training_runs import config_of
from worlds import in_world

from psla_wds.evaluation.metrics import evaluate
from psla_wds.evaluation.scores import Origin, Scores
from psla_wds.evaluation.weight_average import average_weights, with_estimated_statistics
from psla_wds.io.atomic_files import sha256_of
from psla_wds.loading.batches import LoaderConfig, evaluation_batches
from psla_wds.models.checkpoint import load_checkpoint
from psla_wds.models.epochs import epoch_checkpoints
from psla_wds.reading.config import ReaderConfig
from psla_wds.shards.index_files import open_indexes
from train.recipes import DEMO
from train.start import train

EPOCHS = 2


@pytest.fixture(scope="module")
def trained(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("runs") / "two"
    model = replace(DEMO.model, batch_norm_momentum=1.0)
    train(config_of(shards, run_dir, epochs=EPOCHS, model=model))
    return run_dir


def test_estimated_statistics_are_those_of_the_clips(trained: Path, shards: Path):
    index = open_indexes([f"{shards}:train"])
    average = average_weights(trained, 1, EPOCHS)
    reader = ReaderConfig(decode_threads=1)
    done = with_estimated_statistics(average, index, batch_size=len(index), reader=reader)
    changed = {n for n, t in done.weights.items() if not torch.equal(t, average.weights[n])}
    assert changed and all(".running_" in n or "num_batches" in n for n in changed)
    # One batch of all clips: the first layer's mean is that of its outputs over these clips.
    config = LoaderConfig(features=average.features, reader=reader, device="cpu")
    with evaluation_batches(index, batch_size=len(index), config=config) as batches:
        log_mel = next(iter(batches)).log_mel
    model = done.build()
    name, layer = next(
        (n, m) for n, m in model.named_modules() if isinstance(m, torch.nn.BatchNorm2d)
    )
    seen = []
    layer.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    model(log_mel)
    expected = seen[0].mean(dim=(0, 2, 3))
    torch.testing.assert_close(done.weights[f"{name}.running_mean"], expected, atol=1e-4, rtol=1e-4)


def test_the_command_estimates_statistics(trained: Path, shards: Path, tmp_path: Path):
    words = [str(trained), "--epochs", "1", "2", f"--output={tmp_path / 'a.pt'}"]
    run_command(
        "eval.average", *words, "--batch-norm=estimate", f"--index={shards}:train", "--clips=12",
        "--compat=psla", "--batch-size=6",
    )  # fmt: skip
    weights = load_checkpoint(tmp_path / "a.pt").weights["trunk._bn0.weight"]
    expected = average_weights(trained, 1, 2, first_twice=True).weights["trunk._bn0.weight"]
    assert torch.equal(weights, expected)
    for flags in (["--batch-norm=estimate"], [f"--index={shards}"]):
        done = run_command("eval.average", *words, *flags, check=False)
        assert_user_error(done, "--batch-norm estimate and --index SHARDS together")


@pytest.fixture(scope="module")
def curves(trained: Path, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("curves") / "out"
    run_command("eval.figures", str(trained), f"--index={shards}:eval", f"--output={output}")
    return output


def test_curves_agree_with_the_averages_made_alone(
    curves: Path, trained: Path, shards: Path, tmp_path: Path
):
    starts = json.loads((curves / "averaging.json").read_text())
    assert [start["epoch"] for start in starts] == [1, 2]
    last = starts[-1]
    assert last["checkpoint"] == last["weight_average"] == last["score_ensemble"]
    average, scores = tmp_path / "a.pt", tmp_path / "a.npz"
    run_command("eval.average", str(trained), "--epochs", "1", "2", f"--output={average}")
    run_command("eval.predict", str(average), f"--index={shards}:eval", f"--output={scores}")
    alone = Scores.load(scores)
    assert alone.origins == (Origin(sha256_of(average), 2, first_epoch=1),)
    parts = sorted(curves.glob("epoch-*.npz"))
    assert [Scores.load(part).origins[0].epoch for part in parts] == [1, 2]
    expected = evaluate(alone.scores, alone.targets).mAP
    assert starts[0]["weight_average"] == pytest.approx(expected, abs=1e-3)
    svg = ElementTree.parse(curves / "averaging.svg").getroot()
    assert svg.tag == "{http://www.w3.org/2000/svg}svg"


def test_an_exported_model_is_scored_as_its_run(trained: Path, shards: Path, tmp_path: Path):
    run_command("eval.export", trained, f"--output={tmp_path}/model")
    found = []
    for model in (trained, tmp_path / "model"):
        output = tmp_path / f"{model.name}.npz"
        done = run_command("eval.predict", model, f"--index={shards}:eval", f"--output={output}")
        assert ("--run" in done.stdout) == (model == trained)
        found.append(Scores.load(output))
    np.testing.assert_array_equal(found[0].scores, found[1].scores)
    (origin,) = found[1].origins
    assert origin == Origin(sha256_of(tmp_path / "model" / "model.safetensors"), EPOCHS)
    files = [str(path) for path in epoch_checkpoints(trained).values()]
    run_command("eval.export", *files, f"--output={tmp_path}/both")
    words = [tmp_path / "both", f"--index={shards}:eval", f"--output={tmp_path}/p.npz"]
    done = run_command("eval.predict", *words, check=False)
    assert_user_error(done, "ensemble of 2 models", "psla-wds ensemble")


def predict(words: list[str]) -> None:
    run_command("eval.predict", *words)


def test_scores_by_two_processes_fill_one_folder(trained: Path, shards: Path, tmp_path: Path):
    words = [str(trained), f"--index={shards}", "--batch-size=5"]
    in_world(2, predict, [*words, f"--output={tmp_path / 'folder'}"])
    run_command("eval.predict", *words, f"--output={tmp_path / 'file.npz'}")
    folder, file = Scores.load(tmp_path / "folder"), Scores.load(tmp_path / "file.npz")
    np.testing.assert_allclose(folder.scores, file.scores, atol=1e-5)
    np.testing.assert_array_equal(folder.targets, file.targets)
    assert folder.clip_ids == file.clip_ids
    last = epoch_checkpoints(trained)[EPOCHS]
    assert folder.origins == file.origins == (Origin(sha256_of(last), EPOCHS),)
    assert not list(tmp_path.glob("*.tmp"))
