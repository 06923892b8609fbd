"""Steps on 1, 2 and 4 processes: what must not depend on their number, and what does."""

from dataclasses import replace

import pytest
import torch
from test_learner import MODEL, at, batches
from worlds import in_world

from psla_wds.loading.loader import Batch
from psla_wds.models.initial_weights import build_model
from psla_wds.runtime.distributed import World, join_world
from train.config import TrainConfig
from train.learner import Learner
from train.recipes import DEMO

CLIPS, STEPS = 8, 2
CONFIG = replace(DEMO, batch_size=CLIPS, model=replace(MODEL, drop_connect_rate=0.0))
GROUPS = replace(CONFIG, batch_norm="groups", batch_norm_group=2)

Curve = tuple[list[float], torch.Tensor]
"""Losses of some steps, and the running statistics after them."""


def share(batch: Batch, world: World, passes: int) -> list[Batch]:
    """A rank's slices of the global batch, one for each pass."""
    clips = CLIPS // (world.size * passes)
    starts = [(world.rank * passes + number) * clips for number in range(passes)]
    slices = [slice(start, start + clips) for start in starts]
    return [Batch(batch.log_mel[s], batch.targets[s], batch.rows[s]) for s in slices]


def new_learner(config: TrainConfig, world: World) -> Learner:
    torch.manual_seed(0)
    return Learner(config, world, build_model(config.model, 5))


def curve(config: TrainConfig, world: World) -> Curve:
    student, losses = new_learner(config, world), []
    for step, batch in enumerate(batches(STEPS, clips=CLIPS)):
        source = iter(share(batch, world, config.accumulate))
        losses.append(float(student.step(source, at(100 + step))))
    student.share_statistics()
    statistics = [b for n, b in student.model.named_buffers() if "running" in n]
    return losses, torch.cat([b.flatten() for b in statistics])


def gradients(world: World) -> list[torch.Tensor]:
    student = new_learner(CONFIG, world)
    student.model.eval().train = lambda mode=True: None  # BatchNorm is held still
    batch = batches(1, clips=CLIPS)[0]
    student.step(iter(share(batch, world, 1)), at(100))
    return [p.grad.clone() for p in student.model.parameters()]


def outcome() -> tuple[Curve, Curve, list[torch.Tensor]]:
    """Curves over groups and over a rank, and the gradient of a step."""
    with join_world() as world:
        return curve(GROUPS, world), curve(CONFIG, world), gradients(world)


@pytest.fixture(scope="module")
def alone() -> tuple[Curve, Curve, list[torch.Tensor]]:
    return outcome()


@pytest.fixture(scope="module", params=[pytest.param(2, marks=pytest.mark.slow), 4])
def together(request: pytest.FixtureRequest) -> list[tuple[Curve, Curve, list[torch.Tensor]]]:
    """The outcome of each rank."""
    return in_world(request.param, outcome)


def assert_near(found: Curve, expected: Curve) -> None:
    assert found[0] == pytest.approx(expected[0], rel=1e-4)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-3, atol=2e-3)


def test_over_groups_nothing_depends_on_the_number_of_processes(alone, together):
    for over_groups, *_ in together:
        assert_near(over_groups, alone[0])


def test_over_groups_nothing_depends_on_the_number_of_passes(alone):
    with join_world() as world:
        assert_near(curve(replace(GROUPS, accumulate=2), world), alone[0])


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
