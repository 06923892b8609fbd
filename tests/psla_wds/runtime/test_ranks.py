"""Steps on 1, 2 and 4 processes: what must not depend on their number, and what does."""

import pytest
import torch
from learners import STILL, at, batches, hold_batch_norm, learner, part_of
from worlds import in_world

from psla_wds.loading.loader import Batch
from psla_wds.runtime.distributed import World, join_world

CLIPS, STEPS = 8, 2
GROUPS = {"batch_norm": "groups", "batch_norm_group": 2}

Curve = tuple[list[float], torch.Tensor]
"""Losses of some steps, and the running statistics after them."""


def share(batch: Batch, world: World, passes: int) -> list[Batch]:
    """A rank's parts of the global batch, one for each pass."""
    clips = CLIPS // (world.size * passes)
    starts = [(world.rank * passes + number) * clips for number in range(passes)]
    return [part_of(batch, start, start + clips) for start in starts]


def curve(world: World, **settings: object) -> Curve:
    student, losses = learner(model=STILL, world=world, batch_size=CLIPS, **settings), []
    for step, batch in enumerate(batches(STEPS, clips=CLIPS)):
        source = iter(share(batch, world, settings.get("accumulate", 1)))
        losses.append(float(student.step(source, at(100 + step))))
    student.share_statistics()
    statistics = [b for n, b in student.model.named_buffers() if "running" in n]
    return losses, torch.cat([b.flatten() for b in statistics])


def gradients(world: World) -> list[torch.Tensor]:
    student = hold_batch_norm(learner(model=STILL, world=world, batch_size=CLIPS))
    student.step(iter(share(batches(1, clips=CLIPS)[0], world, 1)), at(100))
    return [p.grad.clone() for p in student.model.parameters()]


def outcome() -> tuple[Curve, Curve, list[torch.Tensor]]:
    """Curves over groups and over a rank, and the gradient of a step."""
    with join_world() as world:
        return curve(world, **GROUPS), curve(world), gradients(world)


@pytest.fixture(scope="module")
def alone() -> tuple[Curve, Curve, list[torch.Tensor]]:
    return outcome()


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def together(request: pytest.FixtureRequest) -> list[tuple[Curve, Curve, list[torch.Tensor]]]:
    """The outcome of each rank."""
    return in_world(request.param, outcome)


def assert_near(found: Curve, expected: Curve) -> None:
    assert found[0] == pytest.approx(expected[0], rel=1e-4)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-3, atol=2e-3)


def test_over_groups_the_number_of_processes_has_no_effect(alone, together):
    for over_groups, *_ in together:
        assert_near(over_groups, alone[0])


def test_over_groups_the_number_of_passes_has_no_effect(alone):
    with join_world() as world:
        assert_near(curve(world, **GROUPS, accumulate=2), alone[0])


def test_over_a_rank_everything_does(alone, together):
    losses, statistics = alone[1]
    for over_groups, (others, other_statistics), _ in together:
        assert max(abs(a - b) / a for a, b in zip(losses, others, strict=True)) > 0.01
        assert (statistics - other_statistics).abs().max() > 0.01
        if len(together) == 4:  # two clips a rank are one group
            assert over_groups[0] == pytest.approx(others)


def test_the_gradient_of_all_processes_is_that_of_one(alone, together):
    for *_, gradient in together:
        for summed, whole in zip(gradient, alone[2], strict=True):
            scale = max(float(whole.abs().max()), 1e-3)
            torch.testing.assert_close(summed, whole, rtol=1e-3, atol=1e-5 * scale)
