"""A teacher's scores from the command that keeps them to the run that learns them."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import assert_user_error, run_command
from training_runs import config_of, logged_losses

from eval.predict import Args, _prepare
from psla_wds.errors import ConfigError, ScoreError
from psla_wds.evaluation.predict import Predictor, gather_scores
from psla_wds.evaluation.score_folder import top_scores
from psla_wds.evaluation.teacher import apply_teacher
from psla_wds.features.config import FeatureConfig
from psla_wds.loading.batches import LoaderConfig, training_batches
from psla_wds.loading.epochs import Share
from psla_wds.loading.loader import Batch
from psla_wds.reading.config import ReaderConfig
from psla_wds.runtime.distributed import World
from psla_wds.sampling.config import AugmentConfig
from psla_wds.shards.index import ShardIndex
from psla_wds.shards.index_files import open_indexes
from train.config import TrainConfig
from train.start import train

ALONE = World(0, 1, torch.device("cpu"))
CONFIG = LoaderConfig(
    augment=AugmentConfig(mixup_rate=0.5),
    features=FeatureConfig(num_frames=64),
    reader=ReaderConfig(decode_threads=1),
    device="cpu",
)


@pytest.fixture(scope="module")
def trained(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch, and the scores of its training clips in teacher/."""
    run_dir = tmp_path_factory.mktemp("distillation") / "run"
    train(student(shards, run_dir))
    return run_dir


@pytest.fixture(scope="module")
def teacher(trained: Path, shards: Path) -> Path:
    output = trained.parent / "teacher"
    done = run_command(
        "eval.predict", str(trained), f"--index={shards}:train", "--top-k=3", f"--output={output}"
    )
    assert done.stdout.splitlines()[-1].endswith(f"--distill {output}")
    return output


def student(shards: Path, run_dir: Path, **changes: object) -> TrainConfig:
    return config_of(shards, run_dir, **{"batch_size": 12, "log_every_steps": 1} | changes)


def test_the_command_keeps_the_scores_of_the_model(trained: Path, teacher: Path, shards: Path):
    index = open_indexes([f"{shards}:train"])
    args = Args(trained, (f"{shards}:train",), teacher)
    checkpoint, _, _ = _prepare(args)
    predictor = Predictor(
        checkpoint.build(), checkpoint.classes, checkpoint.features, 32, CONFIG.reader
    )
    with torch.inference_mode():  # the hook that checks shapes hides the decorator's
        scores = gather_scores(predictor, index, ALONE).scores
    expected = np.zeros_like(scores)
    kept, classes = top_scores(scores, 3)
    np.put_along_axis(expected, classes.astype(np.int64), kept.astype(np.float32), axis=1)
    soft = apply_teacher(index, teacher).soft_labels.targets(np.arange(len(index)))
    np.testing.assert_allclose(soft, expected.clip(0, 1), atol=1e-3)


def batches_of(index: ShardIndex, count: int, **settings) -> list[Batch]:
    with training_batches(index, batch_size=6, seed=3, config=CONFIG, **settings) as batches:
        return [batch for _ in range(2) for batch in islice(batches, count)][:count]


def test_soft_targets_belong_to_draws_on_any_rank_and_step(teacher: Path, shards: Path):
    index = apply_teacher(open_indexes([f"{shards}:train"]), teacher)
    whole = batches_of(index, 6)
    assert not any(torch.equal(b.soft_targets, b.targets) for b in whole)
    resumed = batches_of(index, 4, first_step=2)
    for one, other in zip(whole[2:], resumed, strict=True):
        assert torch.equal(one.soft_targets, other.soft_targets)
    ranks = [batches_of(index, 6, share=Share(rank=r, world_size=2)) for r in range(2)]
    for one, *parts in zip(whole, *ranks, strict=True):
        assert torch.equal(one.soft_targets, torch.cat([part.soft_targets for part in parts]))
    assert batches_of(open_indexes([f"{shards}:train"]), 1)[0].soft_targets is None


def test_a_student_resumes_exactly_and_only_with_its_teacher(
    teacher: Path, shards: Path, tmp_path: Path
):
    config = student(shards, tmp_path / "whole", distill=teacher, epochs=2)
    train(config)
    cut = replace(config, run_dir=tmp_path / "cut")
    train(replace(cut, epochs=1))
    train(replace(cut, resume=True))
    assert logged_losses(tmp_path / "cut") == logged_losses(tmp_path / "whole")
    again = replace(cut, resume=True, epochs=3)
    with pytest.raises(ConfigError, match="other shards, labels or teacher's scores"):
        train(replace(again, distill=None))
    with pytest.raises(ConfigError, match=r"distill_weight was 0\.9, now 0\.5"):
        train(replace(again, distill_weight=0.5))


def test_mistakes_are_reported(trained: Path, teacher: Path, shards: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="the model gives 4 scores per clip, fewer than 9"):
        _prepare(Args(trained, (str(shards),), tmp_path / "t", top_k=9))
    with pytest.raises(ConfigError, match="no labels are read"):
        Args(trained, (), tmp_path / "t", top_k=2, labels=Path("overlay"))
    done = run_command("eval.score", str(teacher), f"--output={tmp_path / 's'}", check=False)
    assert_user_error(done, "only the highest scores of each clip", "--distill")
    assert not list(tmp_path.iterdir())
    config = student(shards, tmp_path / "run", index=(str(shards),), distill=teacher)
    with pytest.raises(ScoreError, match="has not scored 12 of 48 clips"):
        train(config)
    assert not (tmp_path / "run").exists()
