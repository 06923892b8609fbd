"""A compiled step: the eager one's losses, and a run that goes on exactly where it was stopped.

A network of EfficientNet's own blocks, one a stage and one that a draw of drop-connect can skip: it
compiles in a minute or two, on two cores, where EfficientNet-B0 takes several.
"""

from dataclasses import replace

import jaxtyping
import pytest
import torch
from test_loss_curves import ALONE, STEPS, batches, curve, difference

from psla_wds.models.audio_tagger import AudioTagger, build_model
from train.config import Compile
from train.learner import Learner
from train.recipes import DEMO

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

KEPT_BLOCKS = (0, 1, 2, 3, 5, 8, 11, 15)


@pytest.fixture(autouse=True)
def unchecked_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    # Tests check shapes by wrappers that dynamo cannot trace; training has none.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def short_model(drop_connect_rate: float) -> AudioTagger:
    model = build_model(replace(DEMO.model, drop_connect_rate=drop_connect_rate), 5)
    blocks = model.trunk._blocks
    model.trunk._blocks = torch.nn.ModuleList(blocks[number] for number in KEPT_BLOCKS)
    return model


def learner(mode: Compile, drop_connect_rate: float, seed: int = 0) -> Learner:
    torch.manual_seed(0)
    config = replace(DEMO, compile=mode, seed=seed)
    return Learner(config, ALONE, short_model(drop_connect_rate))


def test_compiled_losses_are_the_eager_ones_but_for_rounding():
    eager, compiled = (curve(learner(mode, 0.0), batches()) for mode in ("off", "default"))
    assert eager[-1] < 0.6 * eager[0]
    assert difference(compiled, eager) < 0.02


def test_a_compiled_run_goes_on_exactly_where_its_state_was_taken():
    some = batches()
    expected = curve(learner("default", 0.5), some)
    first, second = (learner("default", 0.5) for _ in range(2))
    begun = curve(first, some, steps=range(10))
    second.load_state(first.state())
    resumed = curve(second, some, steps=range(10, STEPS))
    assert [*begun, *resumed] == [*expected]
    other = curve(learner("default", 0.5, seed=1), some)
    assert difference(other, expected) > 0.01  # drop-connect is at work
