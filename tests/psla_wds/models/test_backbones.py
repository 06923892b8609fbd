"""Backbones: the paper's parameter counts and feature maps, timm's networks, what is refused."""

import importlib.util
import sys
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from psla_wds.errors import ConfigError
from psla_wds.models.audio_tagger import AudioTagger
from psla_wds.models.backbones import build_trunk
from psla_wds.models.config import BACKBONES, ModelConfig
from psla_wds.models.initial_weights import build_model

needs_timm = pytest.mark.skipif(
    importlib.util.find_spec("timm") is None, reason="the package timm is not installed"
)

# Networks of timm: a stride of 32, BatchNorm and drop-connect; no BatchNorm; no drop-connect.
TIMM_MAPS = ["timm/resnet10t", "timm/convnext_atto", "timm/dla46_c"]


@cache
def tagger_on_meta(backbone: str, head="single-head-attention", num_classes=527) -> AudioTagger:
    """A tagger without memory: only shapes are computed."""
    with torch.device("meta"):
        return AudioTagger(ModelConfig(backbone=backbone, head=head), num_classes)


def random_tagger(backbone: str, **settings: object) -> AudioTagger:
    return build_model(ModelConfig(backbone=backbone, initial_weights="none", **settings), 5)


# PSLA tables II and XIII: 13.64M, 9.19M, 8.44M, 5.36M, 25.66M, 2.90M.
@pytest.mark.parametrize(
    ("backbone", "head", "num_classes", "expected"),
    [
        ("efficientnet-b2", "multi-head-attention", 527, 13_640_766),
        ("efficientnet-b2", "single-head-attention", 527, 9_185_504),
        ("efficientnet-b2", "mean-pooling", 527, 8_442_961),
        ("efficientnet-b0", "single-head-attention", 527, 5_357_146),
        ("resnet-50", "single-head-attention", 527, 25_661_406),
        ("mobilenet-v2", "linear", 527, 2_898_383),
        ("efficientnet-b2", "multi-head-attention", 200, 9_954_822),
    ],
)
def test_parameters_are_as_many_as_the_papers(backbone, head, num_classes, expected):
    model = tagger_on_meta(backbone, head, num_classes)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_head_fits_every_backbone(backbone):
    model = tagger_on_meta(backbone, num_classes=7)
    features = model.trunk(torch.zeros(2, 1, 128, 96, device="meta"))
    assert model.head(features.mean(dim=2, keepdim=True)).shape == (2, 7)


@pytest.mark.parametrize(
    ("backbone", "channels"),
    [("efficientnet-b2", 1408), ("resnet-50", 2048), ("mobilenet-v2", 1280)],
)
def test_feature_maps_are_as_large_as_the_papers(backbone, channels):
    trunk = tagger_on_meta(backbone).trunk
    for num_frames, columns in ((1056, 33), (3000, 94), (1000, 32)):
        features = trunk(torch.zeros(1, 1, 128, num_frames, device="meta"))
        assert features.shape == (1, channels, 4, columns)


@given(
    backbone=st.sampled_from(["efficientnet-b0", "resnet-50", "mobilenet-v2"]),
    num_frames=st.integers(32, 3000),
    num_mels=st.integers(32, 160),
)
@settings(deadline=None, max_examples=20)
def test_frames_and_mels_give_a_map_by_the_stride(backbone, num_frames, num_mels):
    trunk = tagger_on_meta(backbone).trunk
    rows, columns = trunk(torch.zeros(2, 1, num_mels, num_frames, device="meta")).shape[2:]
    assert rows >= 1 and columns >= 1
    # Odd lengths are padded to one side: each of the five halvings may round either way.
    assert abs(columns - num_frames / 32) < 1 and abs(rows - num_mels / 32) < 1


def test_too_few_frames_for_a_map_are_refused():
    model = random_tagger("efficientnet-b0")
    with pytest.raises(ConfigError, match="31 frames of 128 mels are too few"):
        model(torch.zeros(2, 31, 128))
    assert model(torch.zeros(2, 32, 128)).isfinite().all()


def test_padding_is_the_one_for_260x260_images():
    trunk = tagger_on_meta("efficientnet-b2").trunk
    assert trunk._conv_stem.static_padding.padding == (0, 1, 0, 1)
    paddings = [block._depthwise_conv.static_padding.padding for block in trunk._blocks]
    strided = {index: paddings[index] for index in (2, 5, 8, 16)}
    assert strided == {2: (0, 1, 0, 1), 5: (2,) * 4, 8: (1,) * 4, 16: (2,) * 4}


def momenta(model: torch.nn.Module) -> set[float]:
    norms = (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d))
    return {round(norm.momentum, 6) for norm in norms}


@pytest.mark.parametrize(
    ("backbone", "own"), [("efficientnet-b0", 0.01), ("resnet-50", 0.1), ("mobilenet-v2", 0.1)]
)
def test_running_statistics_have_the_momentum_asked_for(backbone, own):
    model = tagger_on_meta(backbone)
    assert momenta(model) == {own}
    if backbone == "efficientnet-b0":
        norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        assert len(norms) == 49 and {norm.eps for norm in norms} == {1e-3}
        assert model.trunk._global_params.drop_connect_rate == 0.2
    with torch.device("meta"):
        trunk, _ = build_trunk(backbone, drop_connect_rate=None, batch_norm_momentum=0.3)
    assert momenta(trunk) == {0.3}


@pytest.mark.parametrize(
    ("backbone", "nearest"),
    [
        ("EfficientNet-B2", "efficientnet-b2"),
        ("resnet50", "resnet-50"),
        ("xyz", "efficientnet-b0, efficientnet-b1"),
        pytest.param("timm/convnext_ato", "timm/convnext_atto", marks=needs_timm),
        pytest.param("timm/hf-hub:stranger/net", "set --model.backbone", marks=needs_timm),
    ],
)
def test_an_unknown_backbone_gets_the_nearest_names(backbone, nearest):
    with pytest.raises(ConfigError) as caught:
        ModelConfig(backbone=backbone)
    what, _, fix = str(caught.value).splitlines()
    assert what == f"unknown backbone {backbone}"
    assert nearest in fix


def test_without_timm_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)  # which makes its import fail
    with pytest.raises(ConfigError, match=r"pip install .*timm"):
        ModelConfig(backbone="timm/resnet18")


@needs_timm
@pytest.mark.parametrize("backbone", TIMM_MAPS)
def test_a_network_of_timm_is_trained_like_any_other(backbone):
    torch.manual_seed(0)
    model, log_mel = random_tagger(backbone), torch.randn(3, 96, 128)
    scores = model(log_mel)
    assert scores.shape == (3, 5)
    scores.sum().backward()
    # A parameter without a gradient would stop DistributedDataParallel.
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert model.training and all(module.training for module in model.modules())
    features = model.trunk(log_mel.mT[:, None])
    assert features.shape == (3, model.head.heads[0].attention.in_channels, 4, 3)


@needs_timm
def test_a_vision_transformer_is_refused():
    with pytest.raises(ConfigError, match="gives no feature map of a spectrogram"):
        random_tagger("timm/vit_tiny_patch16_224")


def drop_rates(model: torch.nn.Module) -> list[float]:
    return [m.drop_prob for m in model.modules() if type(m).__name__ == "DropPath"]


@needs_timm
def test_drop_connect_reaches_a_network_of_timm():
    assert drop_rates(random_tagger("timm/convnext_atto", drop_connect_rate=0.2))[-1] > 0.15
    assert max(drop_rates(random_tagger("timm/fasternet_s"))) > 0.05  # its own
    for backbone in ("timm/fasternet_s", *TIMM_MAPS):
        assert not any(drop_rates(random_tagger(backbone, drop_connect_rate=0.0)))


@pytest.mark.parametrize(
    ("backbone", "setting"),
    [
        ("resnet-50", {"drop_connect_rate": 0.2}),
        pytest.param("timm/dla46_c", {"drop_connect_rate": 0.2}, marks=needs_timm),
        pytest.param("timm/convnext_atto", {"batch_norm_momentum": 0.1}, marks=needs_timm),
    ],
)
def test_a_setting_that_a_backbone_cannot_follow_is_refused(backbone, setting):
    name = next(iter(setting)).replace("_", "-")
    with pytest.raises(ConfigError, match=f"set --model.{name} None"):
        random_tagger(backbone, **setting)
