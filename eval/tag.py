"""Tag recordings of any length: what a model hears, and when.

    psla-wds tag MODEL FILE FOLDER ...
    ffmpeg -i URL -f wav - | psla-wds tag MODEL -

Recordings may have any format and rate. Each recording is cut into overlapping windows; events are
found in the scores of frames. A long recording takes no more memory than a short one, and results
appear while it is read. If a recording cannot be read, that is reported, the others are tagged, and
the exit status is 2. Warnings name recordings that are read but odd, such as silent ones, or
channels that cancel each other.
"""

import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional

from eval.tagging.formats import Format, Recording, open_writer
from psla_wds import cli
from psla_wds.config import BATCH_SIZE, Within, check_ranges
from psla_wds.errors import AudioError, ConfigError
from psla_wds.labels.class_list import read_class_list
from psla_wds.models.config import Pooling, Precision
from psla_wds.tagging.config import EventConfig, WindowConfig

if TYPE_CHECKING:
    from psla_wds.tagging.tagger import Tagger

STDIN = "-"
Runtime = Literal["torch", "onnx"]
EMBEDDING_SUFFIXES = (".npz", ".parquet")


@dataclass(frozen=True)
class Args(cli.Overwrite):
    model: Positional[Path]
    """A run's folder (its last epoch is taken), a checkpoint, an average, an exported folder, or a
    checkpoint of the paper's authors (.pth; needs --class-labels)."""
    recordings: Positional[tuple[str, ...]]
    """Files and folders of audio, or - for WAV or AU from stdin."""
    format: Format = "text"
    """text for people, json (an object a line), csv (a row a tag) or audacity (label tracks)."""
    output: Annotated[Path | None, cli.New()] = None
    """File to write (default: stdout); for audacity, a folder with a file for each recording."""
    embeddings: Annotated[Path | None, cli.New()] = None
    """File for an embedding of each window and each recording, .npz or .parquet: the features
    that the head sees, as one float32 vector. No second forward pass is needed."""
    pooling: Pooling = "attention"
    """Weights of the frames in an embedding: those of the head's attention, or the same for all
    (mean; also for a head without attention)."""
    top_k: Annotated[int, Within(1, 2**16)] = 5
    """Number of classes in the result of a window or a recording: those with the highest scores."""
    class_labels: Path | None = None
    """Class list (index,mid,display_name), for a checkpoint of the paper's authors."""
    thresholds: Path | None = None
    """Thresholds per class, by psla-wds thresholds: results mark the classes at or above theirs,
    and list them beyond --top-k. Default: those of an exported folder, if it has any."""
    batch_size: Annotated[int | None, BATCH_SIZE] = None
    """Windows of a forward pass. Default: 8 on a GPU, one for each core on a CPU. Always 1 for
    stdin, so that no window waits for others."""
    device: str | None = None
    """cpu or cuda. Default: a GPU if there is one."""
    precision: Precision = "float32"
    """Autocast precision of the trunk, as for psla-wds predict; the head is float32."""
    runtime: Runtime = "torch"
    """torch, or onnx for the model.onnx of an exported folder in ONNX Runtime, on the CPU in
    float32: the same scores up to 1e-4."""
    windows: WindowConfig = field(default_factory=WindowConfig)
    events: EventConfig = field(default_factory=EventConfig)

    def __post_init__(self) -> None:
        check_ranges(self)
        if STDIN in self.recordings and len(self.recordings) > 1:
            raise ConfigError(
                "stdin cannot be tagged together with files",
                where=STDIN,
                fix="give files, or - alone",
            )
        if self.runtime == "onnx" and self.precision != "float32":
            raise ConfigError(
                "ONNX Runtime computes in float32 here",
                where=f"--precision {self.precision}",
                fix="leave it or --runtime onnx out",
            )
        if self.embeddings and self.embeddings.suffix not in EMBEDDING_SUFFIXES:
            raise ConfigError(
                f"embeddings cannot be written as {self.embeddings.suffix or 'a bare name'}",
                where=f"--embeddings {self.embeddings}",
                fix=f"give a name that ends with {' or '.join(EMBEDDING_SUFFIXES)}",
            )


def find_recordings(names: tuple[str, ...]) -> list[Recording]:
    """The recordings that the arguments name: files, and all audio files below folders; a broken
    link there is one, so that it is reported."""
    from psla_wds.audio.folders import is_audio

    recordings = []
    for name in names:
        path = Path(name)
        if name == STDIN:
            if sys.stdin is None:
                raise ConfigError("stdin is closed", where=STDIN, fix="pipe a recording into it")
            recordings.append(Recording(name, sys.stdin.fileno(), Path("stdin")))
        elif path.is_dir():
            below = ((file, file.relative_to(path)) for file in sorted(path.rglob("*")))
            recordings += [
                Recording(str(file), file, name)
                for file, name in below
                if is_audio(name.as_posix()) and not file.is_dir()
            ]
        else:
            recordings.append(Recording(name, path, Path(path.name)))
    if not recordings:
        raise ConfigError(
            "there is no audio here",
            where=" ".join(names) or "arguments",
            fix="name files, or folders of them, or - for stdin",
        )
    return recordings


def load_tagger(args: Args) -> "Tagger":
    """The model, with thresholds and runtime as the arguments say."""
    from psla_wds.evaluation.thresholds import read_thresholds
    from psla_wds.tagging.tagger import Tagger

    tagger = Tagger.load(
        args.model,
        classes=read_class_list(args.class_labels) if args.class_labels else None,
        windows=args.windows,
        batch_size=1 if STDIN in args.recordings else args.batch_size,
        device=args.device or ("cpu" if args.runtime == "onnx" else None),
        precision=args.precision,
    )
    if args.runtime == "onnx":
        tagger.use_onnx_runtime(args.model)
    if args.thresholds:
        thresholds = read_thresholds(args.thresholds)
        tagger.thresholds = thresholds.of(tagger.classes.mids, where=args.thresholds)
    return tagger


def main() -> None:
    args = cli.parse(Args, __doc__, prog="tag")
    recordings = find_recordings(args.recordings)
    # Here, since torch takes seconds to import, which --help does not need.
    from eval.tagging.embeddings import open_embeddings
    from eval.tagging.hearing import tag_recordings

    _check_outputs(args, recordings)
    with ExitStack() as files:
        write = files.enter_context(open_writer(args.format, args.output, recordings))
        tagger = load_tagger(args)
        embeddings = None
        if args.embeddings:
            opened = open_embeddings(args.embeddings, tagger.embedding_size, args.pooling)
            embeddings = files.enter_context(opened)
        heard = tag_recordings(
            tagger,
            recordings,
            write,
            top_k=args.top_k,
            events=args.events,
            embeddings=embeddings,
        )
        if len(heard.failures) == len(recordings):  # no output replaces an earlier one
            raise _nothing_read(heard.failures, recordings)
    report(args, len(recordings) - len(heard.failures), heard.flagged, embeddings)
    if heard.failures:
        raise AudioError(
            f"{len(heard.failures):,} of {len(recordings):,} recordings could not be read to their "
            "end",
            where=f"first {recordings[min(heard.failures)].name}",
            fix="see the messages above; the others are tagged",
        )


def _nothing_read(failures: Mapping[int, AudioError], recordings: list[Recording]) -> AudioError:
    """The error of a command that could read none of its recordings."""
    if len(recordings) == 1:
        return failures[0]
    first = f"first {recordings[0].name}"
    return AudioError("no recording could be read", where=first, fix="see the messages above")


def _check_outputs(args: Args, recordings: list[Recording]) -> None:
    """Raise `ConfigError` if an output is a recording, which would be lost."""
    sources = [source for r in recordings if isinstance(source := r.source, Path)]
    for option, output in (("--output", args.output), ("--embeddings", args.embeddings)):
        if output is None or not output.is_file():
            continue
        if any(source.exists() and source.samefile(output) for source in sources):
            raise ConfigError(
                "the output is one of the recordings",
                where=f"{option} {output}",
                fix=f"choose another {option}",
            )


def report(args: Args, num_tagged: int, flagged: Mapping[str, int], embeddings: object) -> None:
    """Print what was written and flagged: to stderr where stdout has the results."""
    said = [f"wrote the tags of {num_tagged:,} recordings to {args.output}"] if args.output else []
    if flagged:
        counts = (f"{count:,} {flag}" for flag, count in sorted(flagged.items()))
        said.append(f"flagged: {', '.join(counts)}")
    lines = ["; ".join(said)] if said else []
    if embeddings:
        lines.append(f"wrote {embeddings} to {args.embeddings}")
    for line in lines:
        print(line, file=sys.stdout if args.output else sys.stderr)


if __name__ == "__main__":
    cli.run(main)
