"""ImageNet's weights, as their libraries publish them, for the trunk of a tagger."""

from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import torch
from efficientnet_pytorch.utils import url_map
from torch import Tensor, nn

from psla_wds.errors import CheckpointError, ConfigError
from psla_wds.io.tensor_files import check_tensors, difference, load_tensors
from psla_wds.models.config import IMAGENET, TIMM, timm


@dataclass(frozen=True)
class Published:
    """ImageNet weights of a backbone, and which of their tensors a tagger has no use for."""

    source: str
    """Address of the file."""
    stem: tuple[str, ...]
    """First convolutions: they have three input channels, a spectrogram has one."""
    classifier: tuple[str, ...]

    @property
    def fix(self) -> str:
        return f"set --model.initial-weights to a copy of {self.source}, or to none (random)"


def load_initial_weights(model: nn.Module, backbone: str, source: str) -> None:
    """Fill a trunk with ImageNet's weights: downloaded, or from the file `source`.

    They leave the head as it is, and the stem: so does the official code, which makes the stem anew
    instead of adding up its three colours.
    """
    published = _published(backbone)
    if source == IMAGENET:
        where: object = published.source
        tensors = _download(backbone, published)
    else:
        where = Path(source)
        tensors = _read_table(where, published)
    unused = tuple(f"{name}." for name in (*published.stem, *published.classifier))
    given = {f"trunk.{n}": t for n, t in tensors.items() if not n.startswith(unused)}
    random = ("head.", *(f"trunk.{name}." for name in published.stem))
    expected = {n: t for n, t in model.state_dict().items() if not n.startswith(random)}
    differs = difference(given, expected)
    if differs:
        raise CheckpointError(
            f"these are not weights of {backbone}: {differs}", where=where, fix=published.fix
        )
    model.load_state_dict(given, strict=False)


def published_address(backbone: str) -> str:
    """Where the ImageNet weights of a backbone are published."""
    return _published(backbone).source


def _published(backbone: str) -> Published:
    if backbone.startswith(TIMM):
        weights = timm().get_pretrained_cfg(backbone.removeprefix(TIMM))
        source = f"https://huggingface.co/timm/{weights.architecture}.{weights.tag}"
        return Published(source, _names(weights.first_conv), _names(weights.classifier))
    if backbone in url_map:
        return Published(url_map[backbone], ("_conv_stem",), ("_fc",))
    from torchvision.models import MobileNet_V2_Weights, ResNet50_Weights

    if backbone == "resnet-50":
        return Published(ResNet50_Weights.IMAGENET1K_V1.url, ("conv1",), ("fc",))
    return Published(MobileNet_V2_Weights.IMAGENET1K_V1.url, ("features.0.0",), ("classifier",))


def _names(modules: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (modules,) if isinstance(modules, str) else tuple(modules or ())


def _download(backbone: str, published: Published) -> dict[str, Tensor]:
    """The published weights, from the cache of their library if they are there already."""
    try:
        if backbone.startswith(TIMM):
            name = backbone.removeprefix(TIMM)
            return timm().create_model(name, pretrained=True).state_dict()
        path = Path(torch.hub.get_dir(), "checkpoints", Path(published.source).name)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(published.source, str(path))
    except (OSError, HTTPException, RuntimeError) as error:
        raise ConfigError(
            f"the ImageNet weights of {backbone} cannot be downloaded: {error}",
            where=published.source,
            fix="set --model.initial-weights PATH (a copy of that file) or none (random)",
        ) from error
    return _read_table(path, published)


def _read_table(path: Path, published: Published) -> dict[str, Tensor]:
    content = load_tensors(path, fix=f"delete it if its download was cut short; {published.fix}")
    return check_tensors(content, path, fix=published.fix)
