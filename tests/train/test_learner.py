"""Steps of a learner: what they change, what they depend on, and that a state goes on exactly."""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from learners import STILL, at, batches, hold_batch_norm, learner, part_of
from torch.utils._python_dispatch import TorchDispatchMode

from psla_wds.errors import ConfigError
from psla_wds.loading.loader import Batch
from psla_wds.runtime.distributed import World
from train.learner import Learner
from train.optimizer import build_optimizer
from train.recipes import DEMO


def losses(student: Learner, some: list[Batch], first_step: int = 0) -> list[float]:
    source = iter(some)
    return [float(student.step(source, at(first_step + n))) for n in range(len(some))]


def assert_same_tensors(some: torch.nn.Module, other: torch.nn.Module) -> None:
    expected = other.state_dict()
    assert all(torch.equal(t, expected[name]) for name, t in some.state_dict().items())


def test_a_step_does_not_depend_on_numbers_drawn_before():
    seen = []
    for number_drawn in (0, 17):
        student = learner()
        torch.rand(number_drawn)
        seen.append(losses(student, batches(2)))
    assert seen[0] == seen[1]
    assert losses(learner(seed=1), batches(2)) != seen[0]  # drop-connect is at work


def test_bfloat16_begins_where_float32_does():
    exact, rounded = (
        losses(learner(precision=precision), batches(1))[0] for precision in ("float32", "bfloat16")
    )
    assert rounded == pytest.approx(exact, rel=0.02) and rounded != exact


def test_passes_of_a_step_add_up_to_the_gradient_of_their_mean():
    one = batches(1, clips=4)[0]
    halves = [part_of(one, 0, 2), part_of(one, 2, 4)]
    gradients = []
    for passes, source in ((1, [one]), (2, halves)):
        student = hold_batch_norm(learner(accumulate=passes, model=STILL))
        student.step(iter(source), at(100))
        gradients.append([p.grad.clone() for p in student.model.parameters()])
    for whole, summed in zip(*gradients, strict=True):
        torch.testing.assert_close(summed, whole, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    "settings", [{"algorithm": "adamw"}, {"layer_decay": 0.8, "trunk_factor": 0.5}], ids=str
)
@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_a_state_goes_on_exactly_where_it_was_taken(
    settings: dict[str, Any], ema_decay: float | None
):
    some, optimizer = batches(4), replace(DEMO.optimizer, **settings)
    whole, first, second = (learner(ema_decay=ema_decay, optimizer=optimizer) for _ in range(3))
    expected = losses(whole, some)
    losses(first, some[:2])
    second.load_state(first.state())
    assert losses(second, some[2:], first_step=2) == expected[2:]
    assert_same_tensors(second.model, whole.model)
    assert_same_tensors(second.evaluated, whole.evaluated)


def test_the_average_of_the_weights_follows_its_definition():
    student = learner(ema_decay=0.75)
    expected = deepcopy(student.model.state_dict())
    source = iter(batches(3))
    for step in range(3):
        student.step(source, at(100 + step))
        for name, tensor in student.model.state_dict().items():
            if tensor.is_floating_point():
                expected[name] = 0.75 * expected[name] + 0.25 * tensor
    assert student.evaluated is not student.model
    for name, tensor in student.evaluated.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], msg=name)


def test_a_trunk_without_a_rate_stays_as_it_is():
    student = learner(optimizer=replace(DEMO.optimizer, trunk_factor=0.0))
    trunk, head = (list(part.parameters()) for part in (student.model.trunk, student.model.head))
    before = [parameter.detach().clone() for parameter in (*trunk, *head)]
    losses(student, batches(2), first_step=100)
    same = [torch.equal(b, p) for b, p in zip(before, (*trunk, *head), strict=True)]
    assert same == [True] * len(trunk) + [False] * len(head)
    assert all(parameter.grad is None for parameter in trunk)


def test_a_teacher_changes_the_loss_by_its_weight():
    one = batches(1)[0]
    soft = torch.rand(one.targets.shape, generator=torch.Generator().manual_seed(2))
    hard_loss, soft_loss = (
        losses(learner(), [replace(one, targets=targets)])[0] for targets in (one.targets, soft)
    )
    mixed = losses(learner(distill_weight=0.75), [replace(one, soft_targets=soft)])[0]
    assert mixed == pytest.approx(0.25 * hard_loss + 0.75 * soft_loss, rel=1e-6)
    assert losses(learner(distill_weight=0.75), [one])[0] == hard_loss


class NoReading(TorchDispatchMode):
    """Fails when the value of a tensor is read, which on a GPU would wait for it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket
        assert name is not torch.ops.aten._local_scalar_dense, "a step read a tensor's value"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("changes", [{}, {"ema_decay": 0.9}], ids=str)
def test_a_step_reads_no_value_from_the_device(changes: dict[str, Any], monkeypatch):
    def as_on_a_gpu(model: torch.nn.Module, config: Any) -> torch.optim.Optimizer:
        optimizer = build_optimizer(model, config)
        for group in optimizer.param_groups:
            group["fused"] = True
        return optimizer

    monkeypatch.setattr("train.learner.build_optimizer", as_on_a_gpu)
    student, some = learner(**changes), iter(batches(2))
    with NoReading():
        for step in range(2):
            student.step(some, at(step))


def test_out_of_device_memory_says_the_pass_and_what_to_set(monkeypatch):
    student = learner(batch_size=16, accumulate=2)

    def forward(_: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(student.model, "forward", forward)
    with pytest.raises(ConfigError) as caught:
        student.step(iter(batches(2)), at(0))
    what, _, fix = str(caught.value).splitlines()
    assert "a pass of 8 clips (batch 16, 1 processes, 2 passes each)" in what
    assert "--accumulate 4" in fix


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_each_statistic_is_shared_once(ema_decay: float | None, monkeypatch: pytest.MonkeyPatch):
    shared: list[int] = []
    monkeypatch.setattr(World, "share", lambda self, some: shared.extend(map(id, some)))
    student = learner(ema_decay=ema_decay)
    student.share_statistics()
    models = {id(m): m for m in (student.model, student.evaluated)}.values()
    assert sorted(shared) == sorted(id(b) for m in models for b in m.buffers())
