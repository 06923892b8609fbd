from dataclasses import replace

import numpy as np
import pytest
import torch

from psla_wds.distributed import World
from psla_wds.errors import CheckpointError
from psla_wds.loader import Batch
from psla_wds.model import ModelConfig, build_model
from train.learner import Learner
from train.recipes import DEMO, Precision

ALONE = World(rank=0, size=1, device=torch.device("cpu"))
MODEL = replace(DEMO.model, drop_connect_rate=0.2)


def learner(*, precision: Precision = "float32", model: ModelConfig = MODEL, **changes) -> Learner:
    torch.manual_seed(0)
    config = replace(DEMO, precision=precision, model=model, **changes)
    return Learner(config, ALONE, build_model(model, 5))


def batches(count: int, clips: int = 4) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    return [
        Batch(
            torch.randn(clips, 64, 128, generator=generator),
            (torch.rand(clips, 5, generator=generator) < 0.3).float(),
            np.arange(clips),
        )
        for _ in range(count)
    ]


def losses(student: Learner, some: list[Batch], first_step: int = 0) -> list[float]:
    source = iter(some)
    return [float(student.step(source, step=first_step + n, epoch=1)) for n in range(len(some))]


def test_steps_lower_the_loss_of_a_batch():
    repeated = batches(1) * 12
    seen = losses(learner(), repeated, first_step=100)  # after warm-up
    assert seen[-1] < 0.8 * seen[0]


def test_bfloat16_begins_where_float32_does():
    first = [losses(learner(precision=p), batches(1))[0] for p in ("float32", "bfloat16")]
    assert first[1] == pytest.approx(first[0], rel=0.02)


def test_a_step_does_not_depend_on_the_random_numbers_drawn_before():
    seen = []
    for number_drawn in (0, 17):
        student = learner()
        torch.rand(number_drawn)
        seen.append(losses(student, batches(3)))
    assert seen[0] == seen[1]
    assert losses(learner(seed=1), batches(3)) != seen[0]  # drop-connect is at work


def test_a_state_goes_on_exactly_where_it_was_taken():
    some = batches(6)
    whole = learner()
    expected = losses(whole, some)
    first = learner()
    losses(first, some[:3])
    second = learner()
    second.load_state(first.state())
    assert losses(second, some[3:], first_step=3) == expected[3:]
    for name, tensor in second.model.state_dict().items():
        assert torch.equal(tensor, whole.model.state_dict()[name])


def test_passes_of_a_step_add_up_to_the_gradient_of_their_mean():
    one = batches(1, clips=4)[0]
    halves = [
        Batch(one.log_mel[part], one.targets[part], one.rows[part])
        for part in (slice(0, 2), slice(2, 4))
    ]
    gradients = []
    for passes, source in ((1, [one]), (2, halves)):
        student = learner(accumulate=passes, model=replace(MODEL, drop_connect_rate=0.0))
        # Statistics of a half are not those of the whole: BatchNorm is held still.
        student.model.eval().train = lambda mode=True: None
        student.step(iter(source), step=100, epoch=1)
        gradients.append([p.grad.clone() for p in student.model.parameters()])
    for whole, summed in zip(*gradients, strict=True):
        torch.testing.assert_close(summed, whole, rtol=1e-3, atol=1e-6)


def test_the_state_of_another_model_is_refused():
    other = replace(MODEL, head="mean-pooling")
    with pytest.raises(CheckpointError, match="does not fit this model"):
        learner().load_state(learner(model=other).state())
