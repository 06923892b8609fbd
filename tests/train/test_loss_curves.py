"""What makes a step faster leaves the curve of the losses where it was, but for rounding.

Twenty steps after warm-up, on a few batches that come again: the loss halves. Rounding grows from
step to step, so each bound is on the whole curve, and is some times what was seen: in brackets.
"""

import itertools
from dataclasses import replace

import jaxtyping
import numpy as np
import pytest
import torch
from learners import ALONE, STILL, batches, learner

from psla_wds.loading.loader import Batch
from psla_wds.models.audio_tagger import AudioTagger
from psla_wds.models.initial_weights import build_model
from train.config import Compile
from train.learner import Learner
from train.optimizer import Moment
from train.recipes import DEMO

STEPS, CLIPS = 20, 8
BATCHES = batches(5, clips=CLIPS)


def curve(student: Learner, source: list[Batch], steps: range = range(STEPS)) -> np.ndarray:
    """Losses of these steps of a run whose batches come again and again."""
    moments = (Moment(100 + n, epoch=1, total_steps=1000) for n in steps)
    feed = itertools.islice(itertools.cycle(source), steps.start, None)
    return np.array([float(student.step(feed, moment)) for moment in moments])


def difference(curve: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(curve / other - 1).max())


@pytest.fixture(scope="module")
def reference() -> np.ndarray:
    return curve(learner(), BATCHES)


def test_the_reference_learns_and_other_random_numbers_show(reference: np.ndarray):
    assert reference[-5:].mean() < 0.8 * reference[0]
    assert difference(curve(learner(seed=1), BATCHES), reference) > 0.05


def test_the_memory_format_changes_nothing_but_rounding(reference: np.ndarray):
    student = learner()
    student.model.to(memory_format=torch.contiguous_format)
    assert difference(curve(student, BATCHES), reference) < 0.02  # (0.003)


@pytest.mark.slow  # a CPU rounds to it step by step
def test_bfloat16_changes_nothing_but_its_rounding():
    # Drop-connect draws other numbers in another precision, so it is off. At the paper's rate: at
    # ten times that, rounding grows to a third of the loss within these steps.
    changes = {"optimizer": replace(DEMO.optimizer, learning_rate=1e-4)}
    exact, rounded = (
        curve(learner(model=STILL, precision=precision, **changes), BATCHES)
        for precision in ("float32", "bfloat16")
    )
    assert exact[-1] < 0.2 * exact[0]
    assert difference(rounded, exact) < 0.05  # (0.015; 0.009 where only the weights are, once)
    assert rounded.mean() == pytest.approx(exact.mean(), rel=0.02)  # (0.004)


# --- compiled steps

KEPT_BLOCKS = (0, 1, 2, 3, 5, 8, 11, 15)
"""One of each stage of EfficientNet-B0, and one that drop-connect can skip: these compile in a
minute or two, on two cores, where the whole network takes several."""


@pytest.fixture
def unchecked_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    # Tests check shapes by wrappers that dynamo cannot trace; training has none.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def short_model(drop_connect_rate: float) -> AudioTagger:
    model = build_model(replace(DEMO.model, drop_connect_rate=drop_connect_rate), 5)
    blocks = model.trunk._blocks
    model.trunk._blocks = torch.nn.ModuleList(blocks[number] for number in KEPT_BLOCKS)
    return model


def compiled_learner(mode: Compile, drop_connect_rate: float, seed: int = 0) -> Learner:
    torch.manual_seed(0)
    config = replace(DEMO, compile=mode, seed=seed)
    return Learner(config, ALONE, short_model(drop_connect_rate))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("unchecked_shapes")
class TestCompiledStep:
    def test_its_losses_are_the_eager_ones_but_for_rounding(self):
        eager, compiled = (
            curve(compiled_learner(mode, 0.0), BATCHES) for mode in ("off", "default")
        )
        assert eager[-1] < 0.6 * eager[0]
        assert difference(compiled, eager) < 0.02

    def test_its_run_goes_on_exactly_where_its_state_was_taken(self):
        some = BATCHES
        expected = curve(compiled_learner("default", 0.5), some)
        first, second = (compiled_learner("default", 0.5) for _ in range(2))
        begun = curve(first, some, steps=range(10))
        second.load_state(first.state())
        resumed = curve(second, some, steps=range(10, STEPS))
        assert [*begun, *resumed] == [*expected]
        other = curve(compiled_learner("default", 0.5, seed=1), some)
        assert difference(other, expected) > 0.01  # drop-connect is at work
