"""Export a model, or an ensemble, as one folder that is all one needs to use it, and to share it.

    python -m eval.export RUN --output MODEL

    python -m eval.export A.pt B.pt --output ENSEMBLE --license cc-by-4.0 --push OWNER/NAME

The folder has safetensors weights, config.json and a model card: a repository of the Hugging Face
Hub. --onnx and --pt2 add the same model, its front end inside, for other runtimes.
"""

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from eval.exporting import hub
from eval.exporting.model_card import CardSettings, card_text
from eval.exporting.provenance import headline_metrics, provenance_of
from psla_wds import cli
from psla_wds.errors import ConfigError
from psla_wds.io.atomic_files import atomic_folder, disk_errors
from psla_wds.labels.class_list import ClassList, read_class_list
from psla_wds.models.checkpoint import Checkpoint
from psla_wds.models.ensembles import check_members, load_members
from psla_wds.models.model_folder import Provenance, is_model_folder, read_model_config, write_model
from psla_wds.tagging.waveform_model import WaveformModel


@dataclass(frozen=True)
class Args:
    models: Positional[tuple[Path, ...]]
    """A run's folder (its last epoch is taken), a checkpoint, an average, or a checkpoint of the
    paper's authors (.pth; needs --class-labels); several are an ensemble, of their mean scores."""
    output: Path
    """Folder to write."""
    class_labels: Path | None = None
    """Class list (index,mid,display_name), for checkpoints of the paper's authors."""
    metrics: Path | None = None
    """metrics.json that eval.score wrote for this model: its scores go into the card."""
    evaluated_on: str | None = None
    """Name of the clips of --metrics, such as 'AudioSet evaluation set'."""
    license: str | None = None
    """Of the weights, as the Hub calls it, such as apache-2.0, cc-by-4.0 or other; the card says
    nothing unless set."""
    title: str | None = None
    """Of the card; the name of --push, or of the folder, unless set."""
    onnx: bool = False
    """Write model.onnx as well: waveform in, scores out."""
    pt2: bool = False
    """Write model.pt2 as well: the same as a program of torch.export."""
    push: str | None = None
    """OWNER/NAME: upload the folder to this repository of the Hugging Face Hub, by the account of
    `hf auth login`; it is made if it is not there."""
    private: bool = False
    """Make it a private one."""

    def __post_init__(self) -> None:
        if (self.metrics is None) != (self.evaluated_on is None):
            raise ConfigError(
                "scores mean nothing without the clips that they are of",
                where="--metrics, --evaluated-on",
                fix="give both, or neither",
            )
        if self.private and self.push is None:
            raise ConfigError("nothing is uploaded", where="--private", fix="add --push OWNER/NAME")
        if self.push is not None:
            hub.check_name(self.push)


def export(args: Args) -> list[str]:
    """Write the folder; the names of its files."""
    members, provenances = _members(args)
    check_members(members, where=" ".join(map(str, args.models)) or "arguments")
    metrics = headline_metrics(args.metrics) if args.metrics else None
    if args.output.exists():
        raise ConfigError(
            "there is something here already",
            where=args.output,
            fix="choose another --output, or delete it",
        )
    told = disk_errors(
        args.output, "write the model", then="run it again, or choose another --output"
    )
    with told, atomic_folder(args.output) as folder:
        config = write_model(folder, members, provenances, metrics=metrics)
        model = WaveformModel(members)
        if args.onnx or args.pt2:
            _add_portable(args, model, config.classes, folder)
        settings = CardSettings(
            title=args.title or args.push or args.output.resolve().name,
            repository=args.push,
            license=args.license,
            evaluated_on=args.evaluated_on,
            files=tuple(sorted(path.name for path in folder.iterdir())),
        )
        card = card_text(config, settings, stride_frames=model.stride_frames)
        (folder / "README.md").write_text(card, encoding="utf-8")
    return sorted(path.name for path in args.output.iterdir())


def _add_portable(args: Args, model: WaveformModel, classes: ClassList, folder: Path) -> None:
    from eval.exporting.portable import (  # torch's exporters take a second to import
        write_onnx,
        write_pt2,
    )

    if args.onnx:
        write_onnx(model, classes, folder / "model.onnx")
    if args.pt2:
        write_pt2(model, folder / "model.pt2")


def _members(args: Args) -> tuple[list[Checkpoint], list[Provenance]]:
    classes = read_class_list(args.class_labels) if args.class_labels else None
    members: list[Checkpoint] = []
    provenances: list[Provenance] = []
    for path in args.models:
        found = load_members(path, classes=classes)
        members += found
        if is_model_folder(path):
            provenances += [member.provenance for member in read_model_config(path).members]
        else:
            provenances += [provenance_of(path)] * len(found)
    return members, provenances


def main() -> None:
    args = cli.parse(Args, __doc__, prog="python -m eval.export")
    names = export(args)
    if args.push:
        url = hub.push(args.output, args.push, private=args.private)
        print(f"uploaded {args.output} to {url}")
    print(
        f"wrote {', '.join(names)} to {args.output}; next: python -m eval.tag {args.output} FILES"
    )


if __name__ == "__main__":
    cli.run(main)
