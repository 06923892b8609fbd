"""The model card: README.md of an exported model, with the metadata that the Hub reads.

Its text is in model_card.md.jinja; here are the facts that fill it.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from psla_wds.errors import optional_package
from psla_wds.models.config import IMAGENET, RANDOM
from psla_wds.models.model_folder import LIBRARY, FolderConfig, Member
from psla_wds.printable import markdown

TASK = "audio-classification"
METRICS = {"mAP": "mAP", "mAUC": "mAUC", "d_prime": "d'", "accuracy": "accuracy"}


@dataclass(frozen=True)
class CardSettings:
    """Facts for the card that are not in config.json."""

    title: str
    repository: str | None
    """OWNER/NAME on the Hub."""
    license: str | None
    evaluated_on: str | None
    """Name of the clips that the metrics were computed on."""
    frame_s: float
    """Seconds from one frame score to the next."""
    onnx: bool
    """Whether the folder has model.onnx."""
    onnx_embedding_size: int | None
    """Numbers of an embedding of model.onnx; None if it gives none."""


def huggingface_hub() -> ModuleType:
    """The package huggingface_hub."""
    users, name = "model cards and uploads", "huggingface_hub"
    return optional_package(name, users, where="psla-wds export", install=name)


def card_text(config: FolderConfig, settings: CardSettings) -> str:
    """The card: YAML between lines of dashes, then Markdown."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"facts": _training_facts, "markdown": markdown}
    features, metrics = config.features, config.metrics or {}
    scores = {METRICS[key]: metrics[key] for key in METRICS if metrics.get(key) is not None}
    return environment.get_template("model_card.md.jinja").render(
        vars(settings),
        config=config,
        features=features,
        metadata=_metadata(config, settings, scores),
        networks=[f"{m.model.backbone} with a {m.model.head} head" for m in config.members],
        window_s=features.max_clip_samples / features.sample_rate_hz,
        scores=scores,
    )


def _metadata(config: FolderConfig, settings: CardSettings, scores: dict[str, float]) -> str:
    """YAML that the Hub files the model under."""
    library = huggingface_hub()
    clips = str(settings.evaluated_on)
    results = [
        library.EvalResult(
            task_type=TASK,
            dataset_type=re.sub(r"[^a-z0-9]+", "-", clips.lower()).strip("-"),
            dataset_name=clips,
            metric_type=key,
            metric_name=name,
            metric_value=scores[name],
        )
        for key, name in METRICS.items()
        if name in scores
    ]
    data = library.ModelCardData(
        license=settings.license,
        library_name=LIBRARY,
        pipeline_tag=TASK,
        tags=[TASK, "audio-tagging", "psla", *sorted({m.model.backbone for m in config.members})],
        model_name=settings.title if results else None,
        eval_results=results or None,
    )
    return str(data.to_yaml())


def _start(model: dict[str, Any]) -> list[str]:
    """The weights that training began with; none where they are not known."""
    weights, sha256 = model.get("initial_weights"), model.get("initial_sha256")
    known = {IMAGENET: "begun with ImageNet's weights", RANDOM: "begun with random weights"}
    if not weights or weights in known:
        return [known[weights]] if weights else []
    digest = f" (SHA-256 {sha256[:12]})" if sha256 else ""
    name = markdown(str(weights))
    return [f"begun with the weights {name}{digest}, whose licence holds here as well"]


def _training_facts(member: Member) -> str:
    recipe: dict[str, Any] = member.provenance.recipe or {}
    facts = [f"{member.epoch} epochs"] if member.epoch else []
    facts += [
        f"{shown} {markdown(str(recipe[name]))}"
        for name, shown in {"batch_size": "batches of", "seed": "seed"}.items()
        if name in recipe
    ]
    if member.provenance.index_fingerprint:
        facts.append(f"shards with the fingerprint {markdown(member.provenance.index_fingerprint)}")
    facts += _start(recipe.get("model") or {})
    more = "; all settings are in config.json" if recipe else ""
    return ("; ".join(facts) or "not known") + more
