"""Export a model, or an ensemble, as one folder to use and share.

    psla-wds export RUN --output MODEL
    psla-wds export A.pt B.pt --output ENSEMBLE --license cc-by-4.0 --push OWNER/NAME

The folder has safetensors weights, config.json and a model card, like a repository of the Hugging
Face Hub. --onnx adds the model with its front end for other runtimes.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional

from psla_wds import cli
from psla_wds.errors import ConfigError, PslaError, ScoreError
from psla_wds.io.atomic_files import atomic_folder, disk_errors
from psla_wds.io.regular import read_text
from psla_wds.labels.class_list import read_class_list
from psla_wds.models.config import Pooling
from psla_wds.printable import typed

CARD = "README.md"
HEADLINES = (
    "mAP",
    "mAUC",
    "d_prime",
    "accuracy",
    "mean_prevalence",
    "clips",
    "classes",
    "classes_scored",
)
"""Entries of metrics.json that an export keeps."""


@dataclass(frozen=True)
class Args:
    models: Positional[tuple[Path, ...]]
    """A run's folder (its last epoch is used), a checkpoint, an average, an exported folder, or a
    checkpoint of the paper's authors (.pth; needs --class-labels). Several form an ensemble, whose
    scores are averaged."""
    output: Annotated[Path, cli.New()]
    """Folder to write."""
    class_labels: Path | None = None
    """Class list (index,mid,display_name), for checkpoints of the paper's authors."""
    metrics: Path | None = None
    """metrics.json that psla-wds score wrote for this model, to show its scores in the card."""
    evaluated_on: str | None = None
    """Name of the clips that --metrics was computed on, such as 'AudioSet evaluation set'."""
    thresholds: Path | None = None
    """Thresholds per class, by psla-wds thresholds on scores of this model. Default: those of an
    exported MODEL, if it is the only one."""
    license: str | None = None
    """License of the weights, by its name on the Hub, such as apache-2.0, cc-by-4.0 or other.
    Default: the card states none."""
    title: str | None = None
    """Title of the card. Default: the value of --push, or the folder's name."""
    onnx: bool = False
    """Also write model.onnx: waveform in, scores out."""
    onnx_embeddings: Pooling | None = None
    """Give model.onnx a third output: embeddings, pooled by the head's attention or by the mean."""
    push: str | None = None
    """Repository of the Hugging Face Hub, OWNER/NAME, to upload the folder to with the account of
    `hf auth login`. It is created if it does not exist."""
    private: bool = False
    """Create the repository as private."""

    def __post_init__(self) -> None:
        if (self.metrics is None) != (self.evaluated_on is None):
            raise ConfigError(
                "scores need the name of the clips that they were computed on",
                where="--metrics, --evaluated-on",
                fix="give both, or neither",
            )
        if self.onnx_embeddings and not self.onnx:
            raise ConfigError(
                "embeddings are an output of model.onnx, which is not written",
                where="--onnx-embeddings",
                fix="add --onnx",
            )
        if self.private and self.push is None:
            raise ConfigError(
                "--private has no effect without an upload",
                where="--private",
                fix="add --push OWNER/NAME",
            )
        if self.push is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", self.push):
            raise ConfigError(
                f"{self.push!r} is not the name of a repository",
                where="--push",
                fix="give OWNER/NAME, of letters, digits, - and _",
            )


def export(args: Args) -> list[str]:
    """Write the folder; return the names of its files."""
    # Here, since torch takes seconds to import, which --help does not need.
    from eval.exporting.members import read_members
    from eval.exporting.model_card import CardSettings, card_text
    from psla_wds.evaluation.thresholds import read_thresholds
    from psla_wds.models.model_folder import ONNX, thresholds_of, write_model
    from psla_wds.tagging.waveform_model import WaveformModel

    classes = read_class_list(args.class_labels) if args.class_labels else None
    members, provenances = read_members(args.models, classes=classes)
    metrics = read_headlines(args.metrics) if args.metrics else None
    thresholds = thresholds_of(args.models[0]) if len(args.models) == 1 else None
    if args.thresholds:
        read = read_thresholds(args.thresholds)
        thresholds = read.of(members[0].classes.mids, where=args.thresholds)
    again = "run it again, or choose another --output"
    with (
        disk_errors(args.output, "write the model", then=again),
        atomic_folder(args.output) as folder,
    ):
        config = write_model(folder, members, provenances, metrics=metrics, thresholds=thresholds)
        model = WaveformModel(members)
        if args.onnx:
            from eval.exporting.portable import write_onnx  # torch's exporter takes a second

            path, limits = folder / ONNX, config.thresholds
            write_onnx(model, config.classes, path, args.onnx_embeddings, thresholds=limits)
        settings = CardSettings(
            title=args.title or args.push or args.output.resolve().name,
            repository=args.push,
            license=args.license,
            evaluated_on=args.evaluated_on,
            frame_s=model.frame_s,
            onnx=args.onnx,
            onnx_embedding_size=model.embedding_size if args.onnx_embeddings else None,
        )
        (folder / CARD).write_text(card_text(config, settings), encoding="utf-8")
    return sorted(path.name for path in args.output.iterdir())


def read_headlines(path: Path) -> dict[str, Any]:
    """The scores over all classes in a metrics.json; `ScoreError` if it has none."""
    try:
        content = json.loads(read_text(path))
        found = {name: content[name] for name in HEADLINES if name in content}
        if not isinstance(found["mAP"], int | float) or not isinstance(found["clips"], int):
            raise TypeError("mAP and clips are not numbers")
        json.dumps(found, allow_nan=False)  # ValueError: a number is not finite
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ScoreError(
            f"cannot read metrics: {error}",
            where=path,
            fix="give --metrics a metrics.json that psla-wds score wrote",
        ) from None
    return found


def push(folder: Path, repository: str, *, private: bool) -> str:
    """Upload the folder in one commit; return the repository's URL. It is created if needed.

    Raises `PslaError` if the Hub refuses or cannot be reached.
    """
    from eval.exporting.model_card import huggingface_hub

    api = huggingface_hub().HfApi(library_name="psla-wds")
    from httpx2 import HTTPError  # the Hub's client; its failed connections are not OSErrors

    try:
        # None instead of False, since an organization's default may be private.
        url = api.create_repo(repository, private=private or None, exist_ok=True)
        message = "Upload a model that psla-wds exported"
        api.upload_folder(folder_path=folder, repo_id=repository, commit_message=message)
    except (HTTPError, OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise PslaError(
            f"the upload failed: {reason}",
            where=repository,
            fix="check the network, log in with `hf auth login`, then run: "
            f"hf upload {repository} {typed(folder)}{' --private' if private else ''}",
        ) from None
    return str(url)


def main() -> None:
    args = cli.parse(Args, __doc__, prog="export")
    names = export(args)
    if args.push:
        url = push(args.output, args.push, private=args.private)
        print(f"uploaded {args.output} to {url}")
    if args.onnx:
        print("model.onnx gives the model's scores in ONNX Runtime: compared on inputs of 3 shapes")
    print(
        f"wrote {', '.join(names)} to {args.output}; next: psla-wds tag {typed(args.output)} FILES"
    )


if __name__ == "__main__":
    cli.run(main)
