import pickle
from pathlib import Path

import pytest
import torch
from efficientnet_pytorch import EfficientNet

import psla_wds.initial_weights
from psla_wds.errors import CheckpointError, ConfigError
from psla_wds.model import AudioTagger, ModelConfig, build_model


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
    monkeypatch.setitem(psla_wds.initial_weights.url_map, "efficientnet-b0", copy.as_uri())
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
    monkeypatch.setitem(psla_wds.initial_weights.url_map, "efficientnet-b0", url)
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
        (lambda path: saved(path, [torch.ones(2)]), "not a table of named tensors"),
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
        "_blocks.1._depthwise_conv.weight (file: (96, 1, 3, 3), model: (16, 1, 3, 3))"
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
    with pytest.raises(CheckpointError, match=rf": 1 of \d+ tensors differ, first {name} "):
        with_initial_weights(path)


def test_a_file_without_batch_norm_counters_is_accepted(published_file, tmp_path):
    tensors = torch.load(published_file)
    older = {n: t for n, t in tensors.items() if not n.endswith("num_batches_tracked")}
    model = with_initial_weights(saved(tmp_path / "weights.pth", older))
    assert torch.equal(model.trunk._conv_head.weight, tensors["_conv_head.weight"])
