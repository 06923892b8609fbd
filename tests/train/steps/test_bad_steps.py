"""A step whose loss or gradient is not finite changes nothing, and its numbers are kept."""

from dataclasses import asdict, replace

import pytest
import torch
from learners import at, batches, learner

from psla_wds.loading.loader import Batch
from train.learner import Learner, is_bad
from train.recipes import DEMO
from train.steps.metrics import MOST_UNREAD, Means, Measured, Measures


def not_finite(value: float) -> Batch:
    good = batches(1)[0]
    log_mel = good.log_mel.clone()
    log_mel[1, 3, 5] = value
    return Batch(log_mel, good.targets, good.rows)


def all_numbers(student: Learner) -> dict[str, torch.Tensor]:
    numbers = dict(student.model.state_dict()) | dict(student.evaluated.state_dict(prefix="ema."))
    for number, values in student.optimizer.state_dict()["state"].items():
        numbers |= {f"{number}.{name}": tensor for name, tensor in values.items()}
    return {name: t.clone() for name, t in numbers.items() if "num_batches" not in name}


@pytest.mark.parametrize(("value", "ema_decay"), [(float("nan"), None), (float("inf"), 0.5)])
def test_a_batch_that_is_not_finite_leaves_all_as_it_was(value: float, ema_decay: float | None):
    student, good = learner(ema_decay=ema_decay), batches(3)
    for step in range(2):
        student.step(iter(good[step:]), at(100 + step))
        assert not student.is_bad and student.gradient_norm > 0
    before = all_numbers(student)
    assert not torch.isfinite(student.step(iter([not_finite(value)]), at(102)))
    assert student.is_bad
    after = all_numbers(student)
    assert before.keys() == after.keys() and all(torch.equal(before[n], after[n]) for n in before)
    assert torch.isfinite(student.step(iter(good[2:]), at(103))) and not student.is_bad


def test_a_gradient_that_is_not_finite_is_not_a_step():
    layers = replace(DEMO.optimizer, layer_decay=0.9)  # each has a group of the optimizer
    student, good = learner(optimizer=layers), batches(2)
    student.step(iter(good), at(100))
    before = all_numbers(student)
    weight = next(student.model.head.parameters())
    hook = weight.register_hook(lambda gradient: gradient * float("inf"))
    assert torch.isfinite(student.step(iter(good), at(101)))
    assert student.is_bad and not torch.isfinite(student.gradient_norm)
    # BatchNorm saw a good batch, but a step is done or it is not.
    assert all(torch.equal(tensor, before[name]) for name, tensor in all_numbers(student).items())
    hook.remove()


def test_the_gradient_norm_is_that_of_all_parameters():
    student = learner()
    student.step(iter(batches(1)), at(0))
    squares = sum(float(p.grad.double().square().sum()) for p in student.model.parameters())
    assert float(student.gradient_norm) == pytest.approx(squares**0.5, rel=1e-5)


@pytest.mark.parametrize(
    ("loss", "norm", "scale", "bad"),
    [
        (0.7, 3.0, 1.0, False),
        (float("nan"), 3.0, 65536.0, True),
        (0.7, float("inf"), 65536.0, False),  # float16 overflowed, as it does every 2,000 steps
        (0.7, float("nan"), 1.0, True),  # not scaled, or no scale is small enough
    ],
)
def test_an_overflow_that_a_smaller_scale_may_mend_is_not_bad(
    loss: float, norm: float, scale: float, bad: bool
):
    assert bool(is_bad(*map(torch.tensor, (loss, norm, scale)))) == bad


def test_numbers_of_steps_are_read_in_their_order_and_once():
    measures = Measures(torch.device("cpu"))
    for step in range(1, MOST_UNREAD + 1):
        assert not measures.is_full
        measures.add(step, torch.tensor(step / 2), torch.tensor(2.0), torch.tensor(step == 3))
    assert measures.is_full
    assert measures.read()[:3] == [
        Measured(1, 0.5, 2.0, False), Measured(2, 1.0, 2.0, False), Measured(3, 1.5, 2.0, True)
    ]  # fmt: skip
    assert measures.read() == []


def test_means_go_on_where_their_state_was_taken():
    means = Means()
    for loss_, norm in ((1.0, 3.0), (2.0, float("inf"))):
        means.add(Measured(1, loss_, norm, False))
    again = Means(**asdict(means))
    assert again.take() == {"loss": 1.5, "gradient_norm": 3.0, "gradient_norm_max": 3.0}
    assert again.take()["loss"] != again.take()["loss"]  # NaN: of no step
