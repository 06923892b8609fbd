import importlib.util
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from efficientnet_pytorch import EfficientNet

import psla_wds.models.initial_weights
from psla_wds.errors import CheckpointError, ConfigError
from psla_wds.models.audio_tagger import AudioTagger
from psla_wds.models.config import ModelConfig
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


def test_a_published_file_fills_the_trunk_and_leaves_the_stem_random(published_file):
    published = torch.load(published_file)
    trunk = with_initial_weights(published_file).trunk.state_dict()

    assert trunk["_conv_stem.weight"].shape == (32, 1, 3, 3)
    stem_bound = (1 * 3 * 3) ** -0.5
    assert 0.9 * stem_bound < trunk.pop("_conv_stem.weight").abs().max() <= stem_bound
    assert all(torch.equal(tensor, published[name]) for name, tensor in trunk.items())
    assert published.keys() - trunk.keys() == {"_conv_stem.weight", "_fc.weight", "_fc.bias"}


def test_imagenet_weights_are_downloaded_once_and_nothing_is_printed_as_a_result(
    published_file, tmp_path, monkeypatch, capsys
):
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


def test_a_failed_download_offers_a_local_file_or_random_weights(tmp_path, monkeypatch):
    url = (tmp_path / "efficientnet-b0-00000000.pth").as_uri()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(psla_wds.models.initial_weights.url_map, "efficientnet-b0", url)
    with pytest.raises(ConfigError) as caught:
        with_initial_weights("imagenet")
    what, where, fix = str(caught.value).splitlines()
    assert what.startswith("the ImageNet weights of efficientnet-b0 cannot be downloaded: ")
    assert where == f"  where: {url}"
    assert fix == "  fix:   set --model.initial-weights PATH (a copy of that file) or none (random)"


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("evil"),))


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda path: path, "cannot be read: No such file or directory"),
        (lambda path: path.parent, "cannot be read: Is a directory"),
        (lambda path: (path.write_bytes(b""), path)[1], "damaged"),
        (lambda path: (path.write_bytes(b"PK\3\4 cut short"), path)[1], "damaged"),
        (
            lambda path: (path.write_bytes(pickle.dumps(Evil(), protocol=2)), path)[1],
            "could run code",
        ),
        (lambda path: saved(path, {"a": Evil()}), "could run code"),
        (lambda path: saved(path, [torch.ones(2)]), "not a table"),
        (lambda path: saved(path, {"epoch": 3}), "not a table of named tensors"),
    ],
    ids=["missing", "folder", "empty", "truncated", "pickle", "object", "list", "number"],
)
def test_a_file_that_holds_no_weights_is_refused(make, what, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = make(tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=what) as caught:
        with_initial_weights(path)
    _, where, fix = str(caught.value).splitlines()
    assert where == f"  where: {path}"
    assert "set --model.initial-weights to a copy of https://" in fix
    assert "efficientnet-b0-355c32eb.pth" in fix
    assert not Path("evil").exists()


def test_weights_of_another_backbone_are_refused_with_the_first_difference(published_file):
    config = ModelConfig(backbone="efficientnet-b2", initial_weights=str(published_file))
    with pytest.raises(CheckpointError) as caught:
        build_model(config, 5)
    what, where, _ = str(caught.value).splitlines()
    assert what == (
        "these are not weights of efficientnet-b2: 405 of 441 tensors differ, first "
        "trunk._blocks.1._depthwise_conv.weight (file: (96, 1, 3, 3), model: (16, 1, 3, 3))"
    )
    assert where == f"  where: {published_file}"


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_a_file_that_differs_in_one_tensor_is_refused(change, published_file, tmp_path):
    tensors = dict(torch.load(published_file))
    name = "_conv_head.weight"
    if change == "missing":
        del tensors[name]
    elif change == "extra":
        tensors[name := "_conv_head.bias"] = torch.zeros(1280)
    else:
        tensors[name] = tensors[name][:-1]
    path = saved(tmp_path / "weights.pth", tensors)
    with pytest.raises(CheckpointError, match=rf": 1 of \d+ tensors differ, first trunk\.{name} "):
        with_initial_weights(path)


def test_a_file_without_batch_norm_counters_is_accepted(published_file, tmp_path):
    tensors = torch.load(published_file)
    older = {n: t for n, t in tensors.items() if not n.endswith("num_batches_tracked")}
    model = with_initial_weights(saved(tmp_path / "weights.pth", older))
    assert torch.equal(model.trunk._conv_head.weight, tensors["_conv_head.weight"])


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


@pytest.mark.parametrize(
    ("backbone", "of"),
    [
        ("resnet-50", "mobilenet-v2"),
        ("mobilenet-v2", "resnet-50"),
        pytest.param("timm/resnet10t", "resnet-50", marks=needs_timm),
        pytest.param("resnet-50", "timm/resnet10t", marks=needs_timm),
    ],
)
def test_a_file_of_another_network_is_refused(backbone, of, tmp_path):
    path = written(network_of(of), tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=f"not weights of {backbone}.* tensors differ, first"):
        build_model(ModelConfig(backbone=backbone, initial_weights=str(path)), 5)


@needs_timm
@pytest.mark.parametrize("content", [b"", b"\xff" * 64, b"\x10" + bytes(7) + b"{}"], ids=len)
def test_a_damaged_safetensors_file_is_refused(content, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        build_model(ModelConfig(backbone="timm/resnet10t", initial_weights=str(path)), 5)


@needs_timm
def test_weights_of_timm_come_from_its_own_cache(tmp_path):
    """A cache as huggingface_hub lays it out, and no network."""
    folder = tmp_path / "models--timm--resnet10t.c3_in1k"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    snapshot = folder / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    network = network_of("timm/resnet10t")
    written(network, snapshot / "model.safetensors")
    script = (
        "import sys, torch; from psla_wds.models.initial_weights import ModelConfig, build_model; "
        "model = build_model(ModelConfig(backbone='timm/resnet10t'), 5); "
        "torch.save(model.trunk.state_dict(), sys.argv[1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "trunk.pt")],
        env=os.environ | {"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    trunk, published = torch.load(tmp_path / "trunk.pt"), network.state_dict()
    assert trunk["conv1.0.weight"].shape[1] == 1
    del trunk["conv1.0.weight"]
    assert all(torch.equal(tensor, published[name]) for name, tensor in trunk.items())


@needs_timm
def test_weights_that_timm_cannot_get_are_an_error_with_their_address(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="cannot be downloaded") as caught:
        build_model(ModelConfig(backbone="timm/resnet18.a1_in1k"), 5)
    assert "where: https://huggingface.co/timm/resnet18.a1_in1k" in str(caught.value)
