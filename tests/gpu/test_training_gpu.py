"""Training on a GPU: half precision, one step, and resuming."""

import itertools
import json
import sys
from dataclasses import replace
from pathlib import Path

import jaxtyping
import pytest
import torch
from conftest import run

from psla_wds.loading.loader import Batch
from psla_wds.models.config import ModelConfig
from psla_wds.models.initial_weights import build_model
from psla_wds.runtime.distributed import World
from train.config import Precision, TrainConfig
from train.learner import Learner
from train.optimizer import Moment
from train.recipes import DEMO
from train.run.log import read_run

pytestmark = pytest.mark.gpu

MAIN = Path(__file__).parents[2] / "train" / "main.py"
CUDA = World(rank=0, size=1, device=torch.device("cuda", 0))


def learner(precision: Precision, model: ModelConfig = DEMO.model) -> Learner:
    torch.manual_seed(0)
    config: TrainConfig = replace(DEMO, precision=precision, model=model)
    return Learner(config, CUDA, build_model(model, 37))


def batch(frames: int = 256, clips: int = 16) -> Batch:
    generator = torch.Generator("cuda").manual_seed(1)
    log_mel = torch.randn(clips, frames, 128, device="cuda", generator=generator)
    targets = (torch.rand(clips, 37, device="cuda", generator=generator) < 0.1).float()
    return Batch(log_mel, targets, rows=torch.arange(clips).numpy())


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_model_learns_one_batch_by_heart(precision: Precision):
    student, one = learner(precision), batch()
    losses = [float(student.step(iter([one]), Moment(100 + n, 1, 1000))) for n in range(40)]
    assert all(loss == loss for loss in losses)
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_begins_where_float32_does(precision: Precision):
    one = batch()
    first = [
        float(learner(p).step(iter([one]), Moment(0, 1, 1000))) for p in ("float32", precision)
    ]
    assert first[1] == pytest.approx(first[0], rel=0.02)


def test_the_papers_model_does_a_step_at_full_size():
    paper = ModelConfig(initial_weights="none")
    loss = learner("bfloat16", paper).step(iter([batch(1056, 24)]), Moment(0, 1, 1000))
    assert torch.isfinite(loss)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_step_waits_for_nothing(precision: Precision):
    student, one = learner(precision), batch()
    student.step(iter([one]), Moment(0, 1, 1000))  # the first one allocates
    torch.cuda.set_sync_debug_mode("error")
    try:
        student.step(iter([one]), Moment(1, 1, 1000))
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_batch_that_is_not_finite_changes_nothing(precision: Precision):
    student, one = learner(precision), batch()
    for step in range(100, 105):  # float16 finds its scale
        student.step(iter([one]), Moment(step, 1, 1000))
    before = {name: tensor.clone() for name, tensor in student.model.state_dict().items()}
    bad = replace(one, log_mel=one.log_mel * float("inf"))
    assert not torch.isfinite(student.step(iter([bad]), Moment(105, 1, 1000)))
    assert student.is_bad
    for name, tensor in student.model.state_dict().items():
        assert "num_batches" in name or torch.equal(tensor, before[name]), name
    assert torch.isfinite(student.step(iter([one]), Moment(106, 1, 1000))) and not student.is_bad


def test_a_float16_overflow_lowers_the_scale_only():
    student, one = learner("float16"), batch()
    weight = next(student.model.head.parameters())
    hook = weight.register_hook(lambda gradient: gradient * float("inf"))
    student.step(iter([one]), Moment(100, 1, 1000))
    assert not student.is_bad and not torch.isfinite(student.gradient_norm)
    assert student.state()["scaler"]["scale"] == 2**15
    for step in range(101, 116):
        student.step(iter([one]), Moment(step, 1, 1000))
    assert not student.is_bad
    student.step(iter([one]), Moment(116, 1, 1000))
    assert student.is_bad  # at a scale of 1 it is not the scale's fault
    hook.remove()


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_a_compiled_model_learns_as_the_eager_one(
    mode: str, accumulate: int, monkeypatch: pytest.MonkeyPatch
):
    # Tests check shapes by wrappers that dynamo cannot trace; training has none.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    losses = {}
    for compile_mode in ("off", mode):
        torch.manual_seed(0)
        config = replace(DEMO, precision="bfloat16", compile=compile_mode, accumulate=accumulate)
        student = Learner(config, CUDA, build_model(DEMO.model, 37))
        source = itertools.repeat(batch())
        steps = (student.step(source, Moment(100 + n, 1, 1000)) for n in range(10))
        losses[compile_mode] = [float(loss) for loss in steps]
    assert losses[mode] == pytest.approx(losses["off"], rel=0.1)


def run_main(shards: Path, run_dir: Path, *more: str) -> list[float]:
    """The losses that a run of one process has logged when it ends."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node=1", str(MAIN), "demo", f"--index={shards}:train"]
    command += [f"--eval-index={shards}:eval", f"--run-dir={run_dir}", "--batch-size=6"]
    run([*command, "--features.num-frames=64", "--log-every-steps=1", *more])
    return [record.loss for record in read_run(run_dir).steps]


def test_the_log_has_the_memory_that_the_gpu_gave(shards: Path, tmp_path: Path):
    run_main(shards, tmp_path / "run", "--epochs=1", "--batch-norm=batch")
    records = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").open()]
    assert all(0 < r["gpu_memory_gib"] < 100 for r in records if r["event"] == "step")


def test_a_run_resumes_with_the_losses_that_it_would_have_had(shards: Path, tmp_path: Path):
    whole = run_main(shards, tmp_path / "whole", "--epochs=2")
    half = run_main(shards, tmp_path / "halves", "--epochs=1")
    halves = run_main(shards, tmp_path / "halves", "--epochs=2", "--resume")
    assert len(half) == len(whole) // 2
    assert halves == pytest.approx(whole, rel=0.05)  # cuDNN's sums have no fixed order
