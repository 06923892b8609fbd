"""Small inputs and b0 wherever the property does not depend on size; counts need no memory."""

from collections.abc import Iterator

import jaxtyping
import pytest
import torch

from psla_wds.errors import ConfigError
from psla_wds.models.audio_tagger import AudioTagger, clamp_scores, loss
from psla_wds.models.config import Head, ModelConfig
from psla_wds.models.initial_weights import build_model


@pytest.fixture(autouse=True)
def one_seeded_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def small_tagger(head: Head = "single-head-attention", num_classes: int = 5) -> AudioTagger:
    config = ModelConfig(backbone="efficientnet-b0", head=head, initial_weights="none")
    return build_model(config, num_classes)


@torch.no_grad()
def settled_tagger(log_mel: torch.Tensor) -> AudioTagger:
    """A tagger whose BatchNorm knows its input; a new one gives every clip the same scores."""
    model = small_tagger()
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.momentum = 1.0
    model(log_mel)
    model.eval()
    assert model(log_mel).std(dim=0).mean() > 0.01
    return model


def test_the_tagger_pools_four_rows_as_the_official_code_does():
    log_mel = torch.randn(2, 64, 128)
    model = settled_tagger(log_mel)
    features = model.trunk.extract_features(log_mel.mT[:, None])
    expected = model.head(torch.nn.AvgPool2d((4, 1))(features))
    torch.testing.assert_close(model(log_mel), expected)


def test_scores_do_not_depend_on_which_clips_share_the_batch():
    log_mel = torch.randn(3, 64, 128)
    model = settled_tagger(log_mel)
    alone = torch.cat([model(clip[None]) for clip in log_mel])
    torch.testing.assert_close(model(log_mel), alone)


def test_drop_connect_acts_in_training_only():
    model, log_mel = small_tagger(), torch.randn(4, 64, 128)
    for norm in model.trunk.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.momentum = 0.0
    assert not torch.equal(model(log_mel), model(log_mel))
    model.eval()
    assert torch.equal(model(log_mel), model(log_mel))


def test_without_drop_connect_training_is_deterministic():
    model = AudioTagger(ModelConfig(backbone="efficientnet-b0", drop_connect_rate=0.0), 5)
    log_mel = torch.randn(4, 64, 128)
    assert torch.equal(model(log_mel), model(log_mel))


def test_scores_are_float32_under_autocast_and_so_is_the_loss():
    model, targets = small_tagger(), torch.ones(2, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = model(torch.randn(2, 64, 128))
        error = loss(scores, targets)
    assert scores.dtype == error.dtype == torch.float32
    # A head in bfloat16 would give scores of 8 bits, whatever their type.
    assert not torch.equal(scores, scores.bfloat16().float())
    error.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_the_loss_is_finite_where_scores_are_certain_and_wrong():
    scores, targets = torch.tensor([[0.0, 1.0, -3.0, 4.0]]), torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    assert 15 < float(loss(scores, targets)) < 17
    assert 0 <= float(loss(scores, 1 - targets)) < 1e-6


def test_the_loss_is_mean_cross_entropy_with_soft_targets():
    error = loss(torch.tensor([[0.5, 0.25]]), torch.tensor([[1.0, 0.3]]))
    expected = (
        -(
            torch.log(torch.tensor(0.5))
            + 0.3 * torch.log(torch.tensor(0.25))
            + 0.7 * torch.log(torch.tensor(0.75))
        )
        / 2
    )
    torch.testing.assert_close(error, expected)


def test_a_clamped_score_gets_no_gradient():
    scores = torch.tensor([[-0.2, 0.4, 1.3]], requires_grad=True)
    loss(scores, torch.tensor([[1.0, 1.0, 0.0]])).backward()
    assert (scores.grad != 0).tolist() == [[False, True, False]]


def test_clamped_scores_lie_strictly_within_0_and_1_in_float32():
    clamped = clamp_scores(torch.tensor([-1.0, 0.0, 0.5, 1.0, 2.0], dtype=torch.bfloat16))
    assert clamped.dtype == torch.float32
    assert ((clamped > 0) & (clamped < 1)).all()
    assert clamped[2] == 0.5


def test_the_same_seed_gives_the_same_weights():
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.nn.utils.parameters_to_vector(small_tagger().parameters())

    first = weights(1)
    assert torch.equal(first, weights(1))
    assert not torch.equal(first, weights(2))


def test_the_tagger_traces_as_one_graph(monkeypatch):
    # Tests check shapes by wrappers that dynamo cannot trace; training has none.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    log_mel = torch.randn(2, 64, 128)
    model = settled_tagger(log_mel)
    torch.compile(model.train(), backend="eager", fullgraph=True)(log_mel).sum().backward()
    model.eval()
    exported = torch.export.export(model, (log_mel,)).module()
    torch.testing.assert_close(exported(log_mel), model(log_mel))


def test_channels_last_reaches_the_features_and_changes_no_score():
    log_mel = torch.randn(2, 64, 128)
    model = settled_tagger(log_mel)
    expected = model(log_mel)
    model.to(memory_format=torch.channels_last)
    features = model.trunk.extract_features(log_mel.mT[:, None])
    assert features.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(model(log_mel), expected)


@pytest.mark.parametrize(
    ("setting", "flag"),
    [
        ({"num_heads": 0}, "--model.num-heads"),
        ({"num_heads": 8, "head": "mean-pooling"}, "--model.num-heads"),
        ({"drop_connect_rate": 1.0}, "--model.drop-connect-rate"),
        ({"drop_connect_rate": -0.1}, "--model.drop-connect-rate"),
        ({"batch_norm_momentum": 0.0}, "--model.batch-norm-momentum"),
        ({"batch_norm_momentum": 1.5}, "--model.batch-norm-momentum"),
    ],
    ids=str,
)
def test_a_setting_out_of_range_is_refused_with_its_flag(setting, flag):
    with pytest.raises(ConfigError, match=flag):
        ModelConfig(**setting)
