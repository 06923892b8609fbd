"""Make a demo corpus: synthetic sounds in AudioSet's layout.

    psla-wds synthesize OUT --clips 1000 --seed 0

Writes audio/, segments.csv and class_labels_indices.csv into OUT, the same for a seed.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from psla_wds import cli
from psla_wds.io.atomic_files import disk_errors
from psla_wds.printable import typed
from sharding.demo.classes import class_list
from sharding.demo.corpus import CorpusConfig, write_corpus


@dataclass(frozen=True)
class Args:
    output: Annotated[Positional[Path], arg(metavar="OUT")]
    """Folder to make. It is new or empty."""
    corpus: Annotated[CorpusConfig, arg(name="")]


def main() -> None:
    args = cli.parse(Args, __doc__, prog="synthesize")
    with disk_errors(args.output, "write the corpus", then="delete the folder, and run it again"):
        labels = write_corpus(args.output, args.corpus)
    segments, audio_root, class_labels = (
        typed(args.output / name) for name in ("segments.csv", "audio", "class_labels_indices.csv")
    )
    print(
        f"wrote {args.output}: {len(labels):,} clips, "
        f"{len(class_list(families=args.corpus.families))} classes, "
        f"{sum(map(len, labels)) / len(labels):.2f} labels a clip; "
        f"next: psla-wds build audioset --segments {segments} --audio-root {audio_root} "
        f"--class-labels {class_labels} --output SHARDS"
    )


if __name__ == "__main__":
    cli.run(main)
