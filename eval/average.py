"""Average the weights of a run over a range of its epochs.

    python -m eval.average RUN --epochs 16 30 --output AVERAGE.pt

Each epoch counts once (PSLA III-E; the official training script counts the first one twice).
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tyro.conf import Positional

from psla_wds import cli
from psla_wds.checkpoint import Checkpoint, epoch_checkpoints, load_checkpoint, save_checkpoint
from psla_wds.errors import CheckpointError, ConfigError


@dataclass(frozen=True)
class Args:
    run: Positional[Path]
    """A run's folder."""
    epochs: tuple[int, int]
    """First and last epoch of the average."""
    output: Path
    """Checkpoint to write."""


def average_weights(run: Path, first: int, last: int) -> Checkpoint:
    """The mean of the weights and of BatchNorm's statistics over epochs `first` to `last`."""
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
    total: dict[str, torch.Tensor] = {}
    for epoch in range(first, last + 1):
        checkpoint = load_checkpoint(found[epoch])
        if total and {n: t.shape for n, t in checkpoint.weights.items()} != {
            n: t.shape for n, t in total.items()
        }:
            raise CheckpointError(
                "this epoch is of another model", where=found[epoch], fix="use one run's epochs"
            )
        for name, tensor in checkpoint.weights.items():
            # Sums in float64; counters, which are integers, are taken from the last epoch.
            counts = not tensor.is_floating_point()
            total[name] = tensor if counts else total.get(name, 0) + tensor.double()
    count = last - first + 1
    return replace(
        checkpoint,
        weights={n: (t / count).float() if t.is_floating_point() else t for n, t in total.items()},
    )


def main() -> None:
    args = cli.parse(Args, __doc__, prog="python -m eval.average")
    first, last = args.epochs
    save_checkpoint(average_weights(args.run, first, last), args.output)
    print(
        f"wrote the average of epochs {first} to {last} to {args.output}; next: "
        f"python -m eval.predict {args.output} --index SHARDS --output P.npz"
    )


if __name__ == "__main__":
    cli.run(main)
