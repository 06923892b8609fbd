"""Average the weights of a run over a range of its epochs.

    python -m eval.average RUN --epochs 16 30 --output AVERAGE.pt

Each epoch counts once (PSLA III-E; the official training script counts the first one twice).
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
from torch.optim.swa_utils import update_bn
from tyro.conf import Positional, UseAppendAction, arg

from psla_wds import cli
from psla_wds.errors import CheckpointError, ConfigError
from psla_wds.loading.batches import LoaderConfig, evaluation_batches
from psla_wds.models.checkpoint import (
    Checkpoint,
    check_classes,
    epoch_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from psla_wds.progress import progress_bar
from psla_wds.reading.reader import ReaderConfig
from psla_wds.shards.index import ShardIndex
from psla_wds.shards.index_files import open_indexes


@dataclass(frozen=True)
class Args:
    run: Positional[Path]
    """A run's folder."""
    epochs: tuple[int, int]
    """First and last epoch of the average."""
    output: Path
    """Checkpoint to write."""
    batch_norm: Literal["average", "estimate"] = "average"
    """BatchNorm's running statistics: averaged like the weights, or estimated anew, with the
    averaged weights, on clips of --index."""
    index: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="SHARDS[:SPLIT,...]")] = ()
    """Training shards, for --batch-norm estimate."""
    clips: int = 10_000
    """So many of their clips, chosen at random; all of them if there are fewer."""
    batch_size: int = 32
    compat: Literal["none", "psla"] = "none"
    """psla: count the first epoch twice, as the official training script does."""
    reader: ReaderConfig = field(default_factory=ReaderConfig)

    def __post_init__(self) -> None:
        if (self.batch_norm == "estimate") != bool(self.index):
            raise ConfigError(
                "statistics are estimated on shards, and on nothing else are shards needed",
                where="--batch-norm, --index",
                fix="give --batch-norm estimate and --index SHARDS together, or neither",
            )
        if min(self.clips, self.batch_size) < 2:
            raise ConfigError(
                "statistics need two clips in a batch",
                where="--clips, --batch-size",
                fix="set both to 2 or more",
            )


def average_weights(run: Path, first: int, last: int, *, first_twice: bool = False) -> Checkpoint:
    """The mean of the weights and of BatchNorm's statistics over epochs `first` to `last`."""
    found = find_epochs(run, first, last)
    average = RunningAverage()
    for path in [found[0]] * first_twice + found:
        checkpoint = average.add(path)
    return replace(checkpoint, weights=average.weights())


def find_epochs(run: Path, first: int, last: int) -> list[Path]:
    """The checkpoints of epochs `first` to `last`; an error if one is missing."""
    if not 1 <= first <= last:
        raise ConfigError(
            f"epochs {first} to {last} are no range", where="--epochs", fix="such as 16 30"
        )
    found = epoch_checkpoints(run)
    missing = [str(epoch) for epoch in range(first, last + 1) if epoch not in found]
    if missing:
        have = f"it has {min(found)} to {max(found)}" if found else "it has none"
        raise CheckpointError(
            f"the run has no checkpoint of epoch {', '.join(missing)}; {have}",
            where=run,
            fix="choose other --epochs, or train on with --resume",
        )
    return [found[epoch] for epoch in range(first, last + 1)]


class RunningAverage:
    """The mean of the weights of checkpoints of one model, one after another."""

    def __init__(self) -> None:
        self._total: dict[str, torch.Tensor] = {}
        self._count = 0

    def add(self, path: Path) -> Checkpoint:
        """Count in the checkpoint of an epoch, and return it."""
        checkpoint = load_checkpoint(path)
        if self._total and {n: t.shape for n, t in checkpoint.weights.items()} != {
            n: t.shape for n, t in self._total.items()
        }:
            raise CheckpointError(
                "this epoch is of another model", where=path, fix="use one run's epochs"
            )
        for name, tensor in checkpoint.weights.items():
            # Sums in float64; counters, which are integers, are taken from the last epoch.
            counts = not tensor.is_floating_point()
            self._total[name] = tensor if counts else self._total.get(name, 0) + tensor.double()
        self._count += 1
        return checkpoint

    def weights(self) -> dict[str, torch.Tensor]:
        """The mean so far."""
        return {
            name: (total / self._count).float() if total.is_floating_point() else total
            for name, total in self._total.items()
        }


def with_estimated_statistics(
    checkpoint: Checkpoint, index: ShardIndex, *, batch_size: int, reader: ReaderConfig
) -> Checkpoint:
    """The checkpoint with BatchNorm's statistics of these clips, unmixed and unmasked.

    A mean over all batches, where training keeps one that forgets (torch's `update_bn`).
    """
    # A dropped connection would scale what the next layer sees.
    still = replace(checkpoint, model=replace(checkpoint.model, drop_connect_rate=0.0))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = still.build().to(device)
    config = LoaderConfig(features=checkpoint.features, reader=reader, device=device)
    with evaluation_batches(index, batch_size=batch_size, config=config) as batches:
        log_mels = (batch.log_mel for batch in batches if len(batch.rows) > 1)
        steps = progress_bar(log_mels, desc="BatchNorm", unit="batch")
        update_bn(steps, model)
    return replace(checkpoint, weights=model.state_dict())


def main() -> None:
    args = cli.parse(Args, __doc__, prog="python -m eval.average")
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
        f"python -m eval.predict {args.output} --index SHARDS --output P.npz"
    )


if __name__ == "__main__":
    cli.run(main)
