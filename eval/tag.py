"""Tag recordings: what a model hears in files of any format, rate and length, and when.

    python -m eval.tag MODEL FILE FOLDER ...

    ffmpeg -i URL -f wav - | python -m eval.tag MODEL -

Each recording is cut into windows, which overlap; events are found in the scores of frames. A
recording takes no more memory for being long, and results come as it is read. One that cannot be
read is reported, the rest go on, and the exit status is 2.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path

from tyro.conf import Positional

from eval.tagging.formats import Format, open_writer
from eval.tagging.results import Source, Tagging
from psla_wds import cli
from psla_wds.audio.decode import AUDIO_SUFFIXES
from psla_wds.errors import AudioError, ConfigError
from psla_wds.labels.class_list import read_class_list
from psla_wds.tagging.events import EventConfig
from psla_wds.tagging.tagger import Tagger
from psla_wds.tagging.windows import WindowConfig

STDIN = "-"


@dataclass(frozen=True)
class Args:
    model: Positional[Path]
    """A run's folder (its last epoch is taken), a checkpoint, an average, a folder by eval.export,
    or a checkpoint of the paper's authors (.pth; needs --class-labels)."""
    recordings: Positional[tuple[str, ...]]
    """Files and folders of audio, or - for WAV or AU from stdin."""
    format: Format = "text"
    """text, for people; json, an object a line; csv, a row a tag; audacity, a track of labels."""
    output: Path | None = None
    """File to write, stdout unless set; with --format audacity a folder, of a file a recording."""
    top_k: int = 5
    """Classes to tell of each window and of each recording, those that score highest."""
    class_labels: Path | None = None
    """Class list (index,mid,display_name), for a checkpoint of the paper's authors."""
    batch_size: int | None = None
    """Windows of a forward pass; unless set 8 on a GPU, and 1 on a CPU, which is faster so. From
    stdin 1, so that none waits for others."""
    device: str | None = None
    """cpu or cuda; a GPU if there is one, unless set."""
    windows: WindowConfig = field(default_factory=WindowConfig)
    events: EventConfig = field(default_factory=EventConfig)

    def __post_init__(self) -> None:
        if self.top_k < 1 or (self.batch_size is not None and self.batch_size < 1):
            raise ConfigError(
                "of no class and no window is nothing told",
                where="--top-k, --batch-size",
                fix="set both to 1 or more",
            )
        if STDIN in self.recordings and len(self.recordings) > 1:
            raise ConfigError(
                "stdin is a recording by itself", where=STDIN, fix="give files, or - alone"
            )


def find_sources(names: tuple[str, ...]) -> list[Source]:
    """The recordings that arguments name: files as they stand, of folders all audio below them."""
    sources = []
    for name in names:
        path = Path(name)
        if name == STDIN:
            if sys.stdin is None:
                raise ConfigError("stdin is closed", where=STDIN, fix="pipe a recording into it")
            sources.append(Source(name, sys.stdin.fileno(), Path("stdin")))
        elif path.is_dir():
            found = sorted(file for file in path.rglob("*") if _is_audio(file))
            sources += [Source(str(file), file, file.relative_to(path)) for file in found]
        else:
            sources.append(Source(name, path, Path(path.name)))
    if not sources:
        raise ConfigError(
            "there is no audio here",
            where=" ".join(names) or "arguments",
            fix="name files, or folders of them, or - for stdin",
        )
    return sources


def _is_audio(path: Path) -> bool:
    hidden = path.name.startswith(".")
    # A link to nowhere is one that cannot be read, and told.
    return not hidden and path.suffix.lower() in AUDIO_SUFFIXES and not path.is_dir()


def main() -> None:
    args = cli.parse(Args, __doc__, prog="python -m eval.tag")
    sources = find_sources(args.recordings)
    with open_writer(args.format, args.output, sources) as writer:
        tagger = Tagger.load(
            args.model,
            classes=read_class_list(args.class_labels) if args.class_labels else None,
            windows=args.windows,
            batch_size=1 if STDIN in args.recordings else args.batch_size,
            device=args.device,
        )
        tagging = Tagging(tagger, sources, top_k=args.top_k, events=args.events)
        tagging.write(writer)
    if args.output:
        num_tagged = len(sources) - len(tagging.failures)
        print(f"wrote what is heard in {num_tagged:,} recordings to {args.output}")
    if tagging.failures:
        raise AudioError(
            f"{len(tagging.failures):,} of {len(sources):,} recordings could not be read to their "
            "end",
            where=f"first {sources[min(tagging.failures)].name}",
            fix="see the messages above; the others are tagged",
        )


if __name__ == "__main__":
    cli.run(main)
