"""Small inputs and b0 wherever the property does not depend on size; counts need no memory."""

import jaxtyping
import pytest
import torch

from psla_wds.models.audio_tagger import AudioTagger, clamp_scores, loss
from psla_wds.models.config import Head, ModelConfig
from psla_wds.models.initial_weights import build_model


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


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
    without = AudioTagger(ModelConfig(backbone="efficientnet-b0", drop_connect_rate=0.0), 5)
    assert torch.equal(without(log_mel), without(log_mel))


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


def test_the_loss_is_cross_entropy_of_clamped_scores():
    scores, targets = torch.tensor([[0.5, 0.25]]), torch.tensor([[1.0, 0.3]])
    expected = torch.nn.functional.binary_cross_entropy(scores, targets)
    torch.testing.assert_close(loss(scores, targets), expected)
    certain, wrong = torch.tensor([[0.0, 1.0, -3.0, 4.0]]), torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    assert 15 < float(loss(certain, wrong)) < 17
    assert 0 <= float(loss(certain, 1 - wrong)) < 1e-6
    outside = torch.tensor([[-0.2, 0.4, 1.3]], requires_grad=True)
    loss(outside, torch.tensor([[1.0, 1.0, 0.0]])).backward()
    assert (outside.grad != 0).tolist() == [[False, True, False]]


def test_clamped_scores_lie_strictly_within_0_and_1():
    clamped = clamp_scores(torch.tensor([-1.0, 0.0, 0.5, 1.0, 2.0], dtype=torch.bfloat16))
    assert clamped.dtype == torch.float32
    assert ((clamped > 0) & (clamped < 1)).all() and clamped[2] == 0.5


def test_the_tagger_compiles_as_one_graph(monkeypatch):
    # Tests check shapes by wrappers that dynamo cannot trace; training has none.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    model = small_tagger()
    one_of_each_stage = [model.trunk._blocks[number] for number in (0, 1, 3, 5, 8, 11, 15)]
    model.trunk._blocks = torch.nn.ModuleList(one_of_each_stage)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    compiled(torch.randn(2, 64, 128)).sum().backward()


def test_channels_last_reaches_the_features_and_changes_no_score():
    log_mel = torch.randn(2, 64, 128)
    model = settled_tagger(log_mel)
    expected = model(log_mel)
    model.to(memory_format=torch.channels_last)
    features = model.trunk.extract_features(log_mel.mT[:, None])
    assert features.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(model(log_mel), expected)
