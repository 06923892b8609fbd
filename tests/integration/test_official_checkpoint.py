"""A checkpoint of the paper's authors, as a user scores shards with it and trains on from it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY_CLASSES, assert_user_error, manifest_arguments, run_command
from reference.official_model import OfficialEfficientNet, publish, trained

from psla_wds import LoaderConfig, evaluation_batches, open_indexes
from psla_wds.evaluation.scores import Scores
from psla_wds.models.checkpoint import load_checkpoint
from psla_wds.reading.config import ReaderConfig

NUM_CLASSES = len(TINY_CLASSES)
PAPER = LoaderConfig(reader=ReaderConfig(decode_threads=1), device="cpu")


@pytest.fixture(scope="module")
def log_mel(shards: Path) -> torch.Tensor:
    """Features of the evaluation clips in the order of the index."""
    with evaluation_batches(open_indexes([f"{shards}:eval"]), batch_size=4, config=PAPER) as loader:
        return torch.cat([batch.log_mel for batch in loader])


@pytest.fixture(scope="module")
def official(log_mel: torch.Tensor) -> torch.nn.Module:
    torch.manual_seed(0)
    return trained(OfficialEfficientNet(0, NUM_CLASSES, num_heads=1), log_mel)


@pytest.fixture(scope="module")
def published(official: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish(official, tmp_path_factory.mktemp("published") / "audio_model_wa.pth")


def test_predict_gives_the_scores_of_the_official_code(
    published: Path, official: torch.nn.Module, log_mel: torch.Tensor, shards: Path, tmp_path: Path
):
    output = tmp_path / "p.npz"
    done = run_command(
        "eval.predict", str(published), f"--index={shards}:eval", f"--output={output}",
        "--reader.decode-threads=1",
    )  # fmt: skip
    assert "1056 frames at 16000 Hz, mean -4.6476, std 4.5699" in done.stderr
    scores = Scores.load(output)
    assert scores.names == TINY_CLASSES
    with torch.no_grad():
        expected = official(log_mel).numpy()
    assert expected.std(axis=0).min() > 1e-3
    np.testing.assert_allclose(scores.scores, expected, atol=1e-4)


def test_training_goes_on_from_a_published_checkpoint(
    published: Path, shards: Path, tmp_path: Path
):
    run_command(
        "train.main", "demo", f"--index={shards}:train", f"--run-dir={tmp_path / 'run'}",
        "--epochs=1", "--batch-size=18", "--features.num-frames=64",
        f"--model.initial-weights={published}", "--model.batch-norm-momentum=0.001",
        "--optimizer.learning-rate=1e-9",
    )  # fmt: skip
    started = load_checkpoint(published, classes=open_indexes([str(shards)]).classes).weights[
        "trunk._conv_head.weight"
    ]
    weights = load_checkpoint(tmp_path / "run" / "checkpoints" / "epoch-001.pt").weights
    torch.testing.assert_close(weights["trunk._conv_head.weight"], started, atol=1e-6, rtol=0)


def test_other_classes_are_one_error(shards: Path, tmp_path: Path):
    path = publish(OfficialEfficientNet(0, 527, num_heads=1), tmp_path / "as_mdl_0.pth")
    done = run_command(
        "eval.predict", str(path), f"--index={shards}", "--output=p.npz", check=False, cwd=tmp_path
    )
    assert_user_error(done, "has 527 classes", f"the class list has {NUM_CLASSES}")


def test_another_sample_rate_is_one_error(published: Path, corpus: Path, tmp_path: Path):
    shards = tmp_path / "shards"
    run_command(
        "sharding.build", "manifest", *manifest_arguments(corpus, shards), "--sample-rate-hz=32000"
    )
    done = run_command(
        "eval.predict", str(published), f"--index={shards}", "--output=p.npz", check=False,
        cwd=tmp_path,
    )  # fmt: skip
    assert_user_error(done, "trained on clips at 16000 Hz, the shards are at 32000 Hz")


def test_a_pickle_of_objects_is_one_error(published: Path, shards: Path, tmp_path: Path):
    path = tmp_path / "whole_model.pth"
    torch.save(OfficialEfficientNet(0, NUM_CLASSES, num_heads=1), path)  # not its state_dict
    done = run_command(
        "eval.predict", str(path), f"--index={shards}", "--output=p.npz", check=False, cwd=tmp_path
    )
    assert_user_error(done, "holds more than tensors", str(path))
