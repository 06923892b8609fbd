"""A teacher's scores from the command that keeps them to the run that learns them."""

import json
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import assert_user_error, run, run_command

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
from train.main import parse
from train.recipes import DEMO
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
    train(config_of(shards, run_dir, epochs=1))
    return run_dir


@pytest.fixture(scope="module")
def teacher(trained: Path, shards: Path) -> Path:
    output = trained.parent / "teacher"
    done = run_command(
        "eval.predict", str(trained), f"--index={shards}:train", "--top-k=3", f"--output={output}"
    )
    assert done.stdout.splitlines()[-1].endswith(f"--distill {output}")
    return output


def config_of(shards: Path, run_dir: Path, **changes: object):
    config = replace(
        DEMO,
        index=(f"{shards}:train",),
        run_dir=run_dir,
        epochs=2,
        batch_size=12,
        log_every_steps=1,
        features=CONFIG.features,
        reader=CONFIG.reader,
    )
    return replace(config, **changes)


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


def test_soft_targets_belong_to_a_draw_on_any_rank_and_after_any_resumption(
    teacher: Path, shards: Path
):
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


def losses(run_dir: Path) -> list[float]:
    records = map(json.loads, (run_dir / "log.jsonl").read_text().splitlines())
    return [record["loss"] for record in records if record["event"] == "step"]


def test_a_student_resumes_exactly_and_only_with_its_teacher(
    teacher: Path, shards: Path, tmp_path: Path
):
    config = config_of(shards, tmp_path / "whole", distill=teacher)
    train(config)
    cut = replace(config, run_dir=tmp_path / "cut")
    train(replace(cut, epochs=1))
    train(replace(cut, resume=True))
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    again = replace(cut, resume=True, epochs=3)
    with pytest.raises(ConfigError, match="other shards, labels or teacher's scores"):
        train(replace(again, distill=None))
    with pytest.raises(ConfigError, match=r"distill_weight was 0\.9, now 0\.5"):
        train(replace(again, distill_weight=0.5))


def test_the_first_loss_is_that_of_labels_and_teacher_by_weight(
    trained: Path, teacher: Path, shards: Path, tmp_path: Path
):
    def first_loss(name: str, **changes: object) -> float:
        train(config_of(shards, tmp_path / name, epochs=1, subset=12, **changes))
        return losses(tmp_path / name)[0]

    hard = first_loss("hard")
    soft = first_loss("soft", distill=teacher, distill_weight=1.0)
    both = first_loss("both", distill=teacher, distill_weight=0.75)
    assert both == pytest.approx(0.25 * hard + 0.75 * soft, rel=1e-5)
    assert abs(hard - soft) > 1e-3


def test_clips_without_scores_end_the_run_before_it_begins(
    teacher: Path, shards: Path, tmp_path: Path
):
    config = config_of(shards, tmp_path / "run", index=(str(shards),), distill=teacher)
    with pytest.raises(ScoreError, match="has not scored 12 of 48 clips"):
        train(config)
    assert not (tmp_path / "run").exists()


def test_mistakes_are_told(trained: Path, teacher: Path, shards: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="the model gives 4 scores per clip, fewer than 9"):
        _prepare(Args(trained, (str(shards),), tmp_path / "t", top_k=9))
    with pytest.raises(ConfigError, match="no labels are read"):
        Args(trained, (), tmp_path / "t", top_k=2, labels=Path("overlay"))
    done = run_command("eval.score", str(teacher), f"--output={tmp_path / 's'}", check=False)
    assert_user_error(done, "only the highest scores of each clip", "--distill")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="distill_weight has no effect where distill is None"):
        parse(["demo", "--distill-weight=0.5"])
    with pytest.raises(ConfigError, match=r"distill_weight=.* is out of range"):
        parse(["demo", f"--distill={teacher}", "--distill-weight=0"])


@pytest.mark.slow
def test_two_processes_write_what_one_does_and_models_are_joined(
    trained: Path, teacher: Path, shards: Path, tmp_path: Path
):
    two, joint = tmp_path / "two", tmp_path / "joint"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    run(
        [*launcher, "--nproc-per-node=2", "-m", "eval.predict", str(trained),
         f"--index={shards}:train", "--top-k=3", f"--output={two}"]
    )  # fmt: skip
    run_command("eval.ensemble", str(two), str(teacher), "--top-k=3", f"--output={joint}")
    index = open_indexes([f"{shards}:train"])
    targets = [
        apply_teacher(index, folder).soft_labels.targets(np.arange(len(index)))
        for folder in (teacher, two, joint)
    ]
    for found in targets[1:]:
        np.testing.assert_allclose(found, targets[0], atol=2e-3)
