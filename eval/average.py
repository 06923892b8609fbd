"""Average the weights of a run over a range of its epochs.

    psla-wds average RUN --epochs 16 30 --output AVERAGE.pt

Each epoch counts once (PSLA III-E; the official training script counts the first one twice).
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional

from psla_wds import cli
from psla_wds.config import Within
from psla_wds.errors import ConfigError
from psla_wds.printable import typed
from psla_wds.reading.config import ReaderConfig
from psla_wds.shards.index_files import open_indexes


@dataclass(frozen=True)
class Args(cli.Overwrite):
    run: Positional[Path]
    """Run folder."""
    epochs: Annotated[tuple[int, int], Within(1, 10**6)]
    """First and last epoch of the average."""
    output: Annotated[Path, cli.New()]
    """Checkpoint file to write."""
    batch_norm: Literal["average", "estimate"] = "average"
    """BatchNorm's running statistics. average treats them like weights; estimate measures them with
    the averaged weights on clips of --index."""
    index: cli.Shards = ()
    """Training shards, for --batch-norm estimate."""
    clips: Annotated[int, Within(2, 10**8)] = 10_000
    """Number of clips for --batch-norm estimate, chosen at random."""
    batch_size: Annotated[int, Within(2, 2**16)] = 32
    """Clips of a forward pass for --batch-norm estimate."""
    compat: Literal["none", "psla"] = "none"
    """psla counts the first epoch twice, as the official training script does."""
    reader: ReaderConfig = field(default_factory=ReaderConfig)

    def __post_init__(self) -> None:
        if self.output.suffix != ".pt":
            raise ConfigError(
                f"{self.output} is not a .pt", where="--output", fix="set --output AVERAGE.pt"
            )
        if (self.batch_norm == "estimate") != bool(self.index):
            raise ConfigError(
                "--index is needed for --batch-norm estimate, and only for it",
                where="--batch-norm, --index",
                fix="give --batch-norm estimate and --index SHARDS together, or neither",
            )


def main() -> None:
    args = cli.parse(Args, __doc__, prog="average")
    # Imported here, since torch takes seconds.
    from psla_wds.evaluation.weight_average import average_weights, with_estimated_statistics
    from psla_wds.models.checkpoint import check_classes, save_checkpoint

    first, last = args.epochs
    average = average_weights(args.run, first, last, first_twice=args.compat == "psla")
    if args.batch_norm == "estimate":
        index = open_indexes(args.index)
        check_classes(average.classes, index.classes, where=args.run)
        if len(index) < 2:
            raise ConfigError(
                "statistics need two clips", where=" ".join(args.index), fix="check --index"
            )
        index = index.select_random(min(args.clips, len(index)), seed=0)
        average = with_estimated_statistics(
            average, index, batch_size=args.batch_size, reader=args.reader
        )
    save_checkpoint(average, args.output)
    print(
        f"wrote the average of epochs {first} to {last} to {args.output}; next: "
        f"psla-wds predict {typed(args.output)} --index SHARDS --output P.npz"
    )


if __name__ == "__main__":
    cli.run(main)
