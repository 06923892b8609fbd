import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from psla_wds.errors import ConfigError
from train.optimizer import OptimizerConfig, build_optimizer, learning_rate

BALANCED = OptimizerConfig(learning_rate=1e-3, decay_after_epochs=(35, 40, 45, 50, 55))
FULL = OptimizerConfig()
FSD50K = OptimizerConfig(learning_rate=5e-4, decay_after_epochs=(10, 15, 20, 25, 30, 35))


@pytest.mark.parametrize(
    ("config", "last_epochs"),
    [
        (BALANCED, (35, 40, 45, 50, 55, 60)),
        (FULL, (10, 15, 20, 25, 30)),
        (FSD50K, (10, 15, 20, 25, 30, 35, 40)),
    ],
    ids=["balanced", "full", "fsd50k"],
)
def test_the_rate_after_warm_up_halves_after_the_epochs_of_the_recipe(config, last_epochs):
    expected = [
        config.learning_rate / 2**halvings
        for halvings, (first, last) in enumerate(zip((0, *last_epochs), last_epochs, strict=False))
        for _ in range(first, last)
    ]
    rates = [
        learning_rate(config, step=5000, epoch=epoch) for epoch in range(1, last_epochs[-1] + 1)
    ]
    assert rates == pytest.approx(expected)


@pytest.mark.parametrize(
    ("step", "share"), [(0, 1 / 1000), (49, 50 / 1000), (499, 0.5), (999, 1.0), (1000, 1.0)]
)
def test_warm_up_rises_linearly_from_the_first_step(step, share):
    assert learning_rate(FULL, step=step, epoch=1) == pytest.approx(share * 1e-4)


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


def test_without_warm_up_the_first_step_has_the_full_rate():
    config = OptimizerConfig(warmup_steps=0)
    assert learning_rate(config, step=0, epoch=1) == config.learning_rate


def test_adam_couples_weight_decay_to_the_gradient_and_has_the_papers_betas():
    layer = torch.nn.Linear(3, 2)
    optimizer = build_optimizer(layer, OptimizerConfig())

    assert type(optimizer) is torch.optim.Adam
    (group,) = optimizer.param_groups
    assert [group[name] for name in ("lr", "betas", "weight_decay", "decoupled_weight_decay")] == [
        1e-4,
        (0.95, 0.999),
        5e-7,
        False,
    ]
    assert group["params"] == list(layer.parameters())


@pytest.mark.parametrize(
    ("setting", "flag"),
    [
        ({"learning_rate": 0.0}, "--optimizer.learning-rate"),
        ({"learning_rate": float("nan")}, "--optimizer.learning-rate"),
        ({"betas": (0.95, 1.0)}, "--optimizer.betas"),
        ({"weight_decay": -1e-6}, "--optimizer.weight-decay"),
        ({"warmup_steps": -1}, "--optimizer.warmup-steps"),
        ({"decay_after_epochs": (15, 10)}, "--optimizer.decay-after-epochs"),
        ({"decay_after_epochs": (10, 10)}, "--optimizer.decay-after-epochs"),
        ({"decay_after_epochs": (0, 10)}, "--optimizer.decay-after-epochs"),
        ({"decay_factor": 0.0}, "--optimizer.decay-factor"),
        ({"decay_factor": 2.0}, "--optimizer.decay-factor"),
    ],
    ids=str,
)
def test_a_setting_out_of_range_is_refused_with_its_flag(setting, flag):
    with pytest.raises(ConfigError) as caught:
        OptimizerConfig(**setting)
    what, where, fix = str(caught.value).splitlines()
    (field,) = setting
    assert what.startswith(f"{field}=")
    assert where == "  where: optimizer"
    assert fix.startswith(f"  fix:   set {flag} to ")
