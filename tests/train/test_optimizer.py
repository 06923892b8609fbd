"""The optimizer: its rate at every step, and its groups of parameters."""

import importlib.util

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from psla_wds.errors import ConfigError
from psla_wds.models.audio_tagger import AudioTagger
from psla_wds.models.config import ModelConfig
from train.config import OptimizerConfig
from train.optimizer import Moment, build_optimizer, set_learning_rate, warn_of_short_run
from train.optimizer import learning_rate as rate_at

needs_timm = pytest.mark.skipif(
    importlib.util.find_spec("timm") is None, reason="the package timm is not installed"
)


def learning_rate(
    config: OptimizerConfig, *, step: int, epoch: int = 1, total: int = 1000
) -> float:
    return rate_at(config, Moment(step=step, epoch=epoch, total_steps=total))


@pytest.mark.parametrize(
    ("step", "share"), [(0, 1 / 1000), (49, 50 / 1000), (499, 0.5), (999, 1.0), (1000, 1.0)]
)
def test_warm_up_rises_linearly_from_the_first_step(step, share):
    assert learning_rate(OptimizerConfig(), step=step) == pytest.approx(share * 1e-4)


@given(
    st.integers(0, 50),
    st.lists(st.integers(1, 9), unique=True).map(sorted).map(tuple),
    st.integers(0, 200),
    st.integers(1, 12),
)
def test_the_rate_is_never_zero_and_never_above_the_one_set(warmup_steps, decays, step, epoch):
    config = OptimizerConfig(warmup_steps=warmup_steps, decay_after_epochs=decays)
    rate = learning_rate(config, step=step, epoch=epoch)
    assert 0 < rate <= config.learning_rate
    assert rate <= learning_rate(config, step=step + 1, epoch=epoch)
    assert rate >= learning_rate(config, step=step, epoch=epoch + 1)


def test_a_stepped_warm_up_is_that_of_the_official_code():
    # At every 50th step up to 1000 its rate is set to step / 1000 of the whole, from 0 on.
    config, rate, expected = OptimizerConfig(warmup="stepped"), 0.0, []
    for step in range(1200):
        if step <= 1000 and step % 50 == 0:
            rate = step / 1000 * 1e-4
        expected.append(rate)
    assert [learning_rate(config, step=step) for step in range(1200)] == pytest.approx(expected)


@pytest.mark.parametrize(("steps", "warned"), [(100, True), (101, False)])
def test_a_run_that_ends_in_its_warm_up_is_warned_of(steps: int, warned: bool, caplog):
    warn_of_short_run(OptimizerConfig(warmup_steps=100), steps)
    assert ("the run has 100 steps, and warms up for 100" in caplog.text) == warned


def test_cosine_decay_is_torchs_after_warm_up():
    config = OptimizerConfig(learning_rate=2.0, decay="cosine", warmup_steps=100)
    rates = [learning_rate(config, step=step, total=1100) for step in range(1101)]
    assert rates[49] == pytest.approx(1.0) and rates[1100] == pytest.approx(0.0)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=2.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=1000)
    for step in range(100, 1100):
        assert rates[step] == pytest.approx(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()


def test_adamw_shrinks_weights_whatever_the_gradient():
    moved = {}
    for algorithm in ("adam", "adamw"):
        layer = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.ones_(layer.weight)
        config = OptimizerConfig(algorithm=algorithm, learning_rate=0.1, weight_decay=0.5)
        optimizer = build_optimizer(layer, config)
        layer.weight.grad = torch.full_like(layer.weight, 1e3)
        optimizer.step()
        moved[algorithm] = 1 - layer.weight.item()
    # Adam's step has length lr; the decoupled decay adds lr * weight_decay * weight to it.
    assert moved == pytest.approx({"adam": 0.1, "adamw": 0.1 + 0.1 * 0.5}, rel=1e-3)


def test_the_trunk_has_its_share_of_the_rate():
    model = torch.nn.ModuleDict({"trunk": torch.nn.Linear(2, 2), "head": torch.nn.Linear(2, 1)})
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = build_optimizer(model, OptimizerConfig(trunk_factor=0.25))
    assert len(optimizer.param_groups) == 2  # as in the states of runs so far
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    set_learning_rate(optimizer, 0.1)
    optimizer.step()
    moved = [(b - p).abs().mean().item() for b, p in zip(before, model.parameters(), strict=True)]
    assert moved == pytest.approx([0.025, 0.025, 0.1, 0.1], rel=1e-4)  # Adam's first step: the rate


def groups(decay: float, backbone: str, **settings: object) -> list[dict]:
    config = ModelConfig(backbone=backbone, head="linear", initial_weights="none")
    model = AudioTagger(config, 3)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    optimizer = build_optimizer(model, OptimizerConfig(layer_decay=decay, **settings))
    set_learning_rate(optimizer, 2.0)
    found = [g | {"params": [names[id(p)] for p in g["params"]]} for g in optimizer.param_groups]
    every = [name for group in found for name in group["params"]]
    assert sorted(every) == sorted(names.values())  # each once
    return found


@pytest.mark.parametrize(
    ("backbone", "layers", "some"),
    [
        ("efficientnet-b0", 18, {0: "_conv_stem _bn0", 3: "_blocks.2", 17: "_conv_head _bn1"}),
        ("resnet-50", 17, {0: "conv1 bn1", 3: "layer1.2", 4: "layer2.0", 16: "layer4.2"}),
        ("mobilenet-v2", 19, {0: "features.0", 1: "features.1", 18: "features.18"}),
        pytest.param(
            *("timm/convnext_atto", 14, {0: "stem", 1: "stages.0.blocks.0", 13: "head.norm"}),
            marks=needs_timm,
        ),
    ],
)
def test_the_rate_falls_from_layer_to_layer_towards_the_input(backbone, layers, some):
    *trunk, head = groups(0.5, backbone)
    assert [group["lr"] for group in trunk] == [2.0 * 0.5**depth for depth in range(layers, 0, -1)]
    assert (head["lr"], head["params"]) == (2.0, ["head.classifier.weight", "head.classifier.bias"])
    for number, prefixes in some.items():
        starts = tuple(f"trunk.{prefix}." for prefix in prefixes.split())
        names = trunk[number]["params"]
        assert all(name.startswith(starts) for name in names), (number, names)
        assert all(any(name.startswith(start) for name in names) for start in starts)
    *_, last, head = groups(0.5, backbone, trunk_factor=0.1)
    assert (last["lr"], head["lr"]) == (pytest.approx(2.0 * 0.1 * 0.5), 2.0)


def test_layer_decay_needs_a_network_with_known_layers():
    model = torch.nn.ModuleDict({"trunk": torch.nn.Linear(2, 2), "head": torch.nn.Linear(2, 1)})
    with pytest.raises(ConfigError, match="layers of this network are not known"):
        build_optimizer(model, OptimizerConfig(layer_decay=0.9))
