"""The recipes against the numbers of the paper (PSLA IV, and the official run scripts)."""

import pytest

from train.optimizer import learning_rate
from train.recipes import RECIPES

PAPER = {
    # epochs, batch, learning rate, sampling, last epoch at the full rate
    "audioset-full": (30, 100, 1e-4, "balanced", 10),
    "audioset-balanced": (60, 100, 1e-3, "shuffle", 35),
}


@pytest.mark.parametrize("name", PAPER)
def test_a_recipe_has_the_numbers_of_the_paper(name: str):
    epochs, batch_size, rate, sampling, last_full = PAPER[name]
    config = RECIPES[name][1]
    assert (config.epochs, config.batch_size) == (epochs, batch_size)
    assert config.sampler.sampling == sampling
    assert (config.optimizer.betas, config.optimizer.weight_decay) == ((0.95, 0.999), 5e-7)
    assert config.optimizer.warmup_steps == 1000
    rates = [learning_rate(config.optimizer, step=10_000, epoch=e) for e in range(1, epochs + 1)]
    expected = [rate * 0.5 ** max(0, -(-(e - last_full) // 5)) for e in range(1, epochs + 1)]
    assert rates == pytest.approx(expected)
    augment, features, model = config.augment, config.features, config.model
    assert (augment.mixup_rate, augment.mixup_alpha) == (0.5, 10.0)
    assert (augment.freq_mask, augment.time_mask) == (48, 192)
    assert (features.num_frames, features.num_mels) == (1056, 128)
    assert (features.mean, features.std) == (-4.6476, 4.5699)
    assert (model.backbone, model.head, model.num_heads) == (
        "efficientnet-b2",
        "multi-head-attention",
        4,
    )
    assert model.initial_weights == "imagenet"
    # EfficientNet's own, 0.2 and 0.01, which the paper's code leaves as they are.
    assert model.drop_connect_rate is None and model.batch_norm_momentum is None
