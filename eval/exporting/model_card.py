"""The model card: README.md of an exported model, with the metadata that the Hub reads."""

import re
from dataclasses import dataclass
from typing import Any

from eval.exporting.hub import huggingface_hub
from psla_wds.models.model_folder import LIBRARY, FolderConfig, Member

TASK = "audio-classification"
METRICS = {"mAP": "mAP", "mAUC": "mAUC", "d_prime": "d'", "accuracy": "accuracy"}
SHOWN_CLASSES = 20


@dataclass(frozen=True)
class CardSettings:
    """What the card says beside what config.json does."""

    title: str
    repository: str | None
    """OWNER/NAME on the Hub."""
    license: str | None
    evaluated_on: str | None
    """What the metrics are of."""
    files: tuple[str, ...]
    """Of the folder, without the card."""


def card_text(config: FolderConfig, settings: CardSettings, *, stride_frames: int) -> str:
    """The card: YAML between lines of dashes, then Markdown."""
    sections = [
        f"# {settings.title}",
        _what_it_is(config),
        "## Use\n\n" + _use(settings),
        "## What goes in and comes out\n\n" + _interface(config, stride_frames),
        "## Training\n\n" + "\n".join(_training(member) for member in config.members),
        "## Scores\n\n" + _scores(config.metrics, settings.evaluated_on),
        "## Intended use and limits\n\n" + LIMITS,
        "## Classes\n\n" + _classes(config.names),
    ]
    text = "\n\n".join(sections) + "\n"
    return str(huggingface_hub().ModelCard(f"---\n{_metadata(config, settings)}\n---\n\n{text}"))


def _metadata(config: FolderConfig, settings: CardSettings) -> str:
    library = huggingface_hub()
    backbones = sorted({member.model.backbone for member in config.members})
    metrics = config.metrics or {}
    results = [
        library.EvalResult(
            task_type=TASK,
            dataset_type=re.sub(r"[^a-z0-9]+", "-", str(settings.evaluated_on).lower()).strip("-"),
            dataset_name=str(settings.evaluated_on),
            metric_type=name,
            metric_name=shown,
            metric_value=metrics[name],
        )
        for name, shown in METRICS.items()
        if metrics.get(name) is not None
    ]
    data = library.ModelCardData(
        license=settings.license,
        library_name=LIBRARY,
        pipeline_tag=TASK,
        tags=[TASK, "audio-tagging", "psla", *backbones],
        model_name=settings.title if results else None,
        eval_results=results or None,
    )
    return str(data.to_yaml())


def _what_it_is(config: FolderConfig) -> str:
    networks = [f"{m.model.backbone} with a {m.model.head} head" for m in config.members]
    if len(networks) == 1:
        what = f"An audio tagger: {networks[0]}"
    else:
        what = (
            f"An ensemble of {len(networks)} audio taggers, whose scores are averaged: "
            f"{', '.join(dict.fromkeys(networks))}"
        )
    return (
        f"{what}. It scores {len(config.names):,} classes in a recording, and in each frame of it, "
        "so that it says when a sound is there. Trained in the way of "
        "[PSLA](https://arxiv.org/abs/2102.01243) by psla-wds."
    )


def _use(settings: CardSettings) -> str:
    place = settings.repository or "OWNER/NAME"
    lines = [
        "```python",
        "from huggingface_hub import snapshot_download",
        "from psla_wds import Tagger",
        "",
        f'tagger = Tagger.load(snapshot_download("{place}"))  # or a folder on disk',
        "tags = tagger(waveform, sample_rate_hz)  # an array of samples, of any rate",
        "print(tags.top(5), tags.events())",
        "```",
        "",
        "On the command line, files of any format and length, or WAV from stdin:",
        "",
        "    python -m eval.tag FOLDER FILES",
    ]
    if "model.onnx" in settings.files:
        lines += [
            "",
            "Without psla-wds, by ONNX Runtime (the front end is inside; the class list is in the "
            "file's metadata):",
            "",
            "```python",
            "import onnxruntime",
            "",
            'session = onnxruntime.InferenceSession("model.onnx")',
            'scores, frame_scores = session.run(None, {"waveform": waveforms})  # float32',
            "```",
        ]
    if "model.pt2" in settings.files:
        lines += [
            "",
            "With torch alone: "
            '`scores, frame_scores = torch.export.load("model.pt2").module()(waveforms)`.',
        ]
    return "\n".join(lines)


def _interface(config: FolderConfig, stride_frames: int) -> str:
    features = config.features
    window_s = features.max_clip_samples / features.sample_rate_hz
    frame_s = stride_frames * features.hop_samples / features.sample_rate_hz
    rows = {
        "waveform": f"mono, {features.sample_rate_hz:,} Hz, in [-1, 1]",
        "at a time": f"{window_s:.2f} s; shorter ones are padded, longer ones cut into windows",
        "features": f"Kaldi log-mel: {features.num_mels} mels from {features.low_hz:g} to "
        f"{features.high_hz:g} Hz, windows of {features.window_ms:g} ms every "
        f"{features.hop_ms:g} ms, minus {features.mean:g}, divided by {features.std:g}",
        "scores": f"(batch, {len(config.names)}), near [0, 1]",
        "frame scores": f"(batch, frames, {len(config.names)}), a frame every {frame_s:g} s",
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {k} | {v} |" for k, v in rows.items())])


def _training(member: Member) -> str:
    recipe = member.provenance.recipe or {}
    facts = [f"{member.epoch} epochs"] if member.epoch else []
    facts += [
        f"{shown} {recipe[name]}"
        for name, shown in {"batch_size": "batches of", "seed": "seed"}.items()
        if name in recipe
    ]
    if member.provenance.index_fingerprint:
        facts.append(f"shards with the fingerprint {member.provenance.index_fingerprint}")
    told = "; ".join(facts) or "not known"
    more = "; all settings are in config.json" if recipe else ""
    return f"- `{member.file}`: {told}{more}."


def _scores(metrics: dict[str, Any] | None, evaluated_on: str | None) -> str:
    if not metrics:
        return "None were given when the model was exported."
    shown = {name: metrics[key] for key, name in METRICS.items() if metrics.get(key) is not None}
    lines = [f"| {' | '.join(shown)} |", "|" + "--:|" * len(shown)]
    lines.append(f"| {' | '.join(f'{value:.4f}' for value in shown.values())} |")
    return "\n".join([f"On {metrics['clips']:,} clips of {evaluated_on}:", "", *lines])


LIMITS = """\
Tagging of recordings: search, annotation, research. Scores are not calibrated, and are no
probabilities; choose thresholds on recordings of your own. Rare classes score worse than the mean
says. Labels of large collections of sounds are incomplete and noisy, and a model repeats what they
leave out. Not meant for decisions about people, nor as the only means of noticing danger."""


def _classes(names: tuple[str, ...]) -> str:
    shown = "; ".join(names[:SHOWN_CLASSES])
    rest = len(names) - SHOWN_CLASSES
    return f"{shown}; and {rest:,} more, in config.json." if rest > 0 else f"{shown}."
