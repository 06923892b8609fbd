"""Averages of weights over epochs of a run (PSLA III-F)."""

from dataclasses import replace
from pathlib import Path

import torch
from torch.optim.swa_utils import update_bn

from psla_wds.errors import CheckpointError, ConfigError
from psla_wds.loading.batches import LoaderConfig, evaluation_batches
from psla_wds.models.checkpoint import Checkpoint, load_checkpoint
from psla_wds.models.epochs import epoch_checkpoints, run_instead
from psla_wds.progress import progress_bar
from psla_wds.reading.config import ReaderConfig
from psla_wds.shards.index import ShardIndex


def average_weights(run: Path, first: int, last: int, *, first_twice: bool = False) -> Checkpoint:
    """Mean of the weights and BatchNorm statistics over epochs `first` to `last`."""
    found = find_epochs(run, first, last)
    average = RunningAverage()
    for path in [found[0]] * first_twice + found:
        checkpoint = average.add(path)
    return replace(checkpoint, weights=average.weights(), first_epoch=first)


def find_epochs(run: Path, first: int, last: int) -> list[Path]:
    """Checkpoints of epochs `first` to `last`; `CheckpointError` if one is missing."""
    if not 1 <= first <= last:
        raise ConfigError(
            f"epochs {first} to {last} are not a range",
            where="--epochs",
            fix="set the first and the last: --epochs 16 30",
        )
    found = epoch_checkpoints(run)
    missing = [str(epoch) for epoch in range(first, last + 1) if epoch not in found]
    if missing:
        have = f"it has {min(found)} to {max(found)}" if found else "it has none"
        raise CheckpointError(
            f"the run has no checkpoint of epoch {', '.join(missing)}; {have}",
            where=run,
            fix=run_instead(run) or "choose other --epochs, or train on with --resume",
        )
    return [found[epoch] for epoch in range(first, last + 1)]


class RunningAverage:
    """Running mean of the weights of checkpoints of one model."""

    def __init__(self) -> None:
        self._total: dict[str, torch.Tensor] = {}
        self._count = 0

    def add(self, path: Path) -> Checkpoint:
        """Add the checkpoint of an epoch to the mean, and return it."""
        checkpoint = load_checkpoint(path)
        if self._total and {n: t.shape for n, t in checkpoint.weights.items()} != {
            n: t.shape for n, t in self._total.items()
        }:
            raise CheckpointError(
                "this epoch has another model", where=path, fix="use one run's epochs"
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
    """Checkpoint with BatchNorm statistics of these clips, unmixed and unmasked.

    The mean over all batches, while training keeps a moving average (torch's `update_bn`).
    """
    # Drop-connect would scale the input of the next layer.
    still = replace(checkpoint, model=replace(checkpoint.model, drop_connect_rate=0.0))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = still.build().to(device)
    config = LoaderConfig(features=checkpoint.features, reader=reader, device=device)
    with evaluation_batches(index, batch_size=batch_size, config=config) as batches:
        log_mels = (batch.log_mel for batch in batches if len(batch.rows) > 1)
        steps = progress_bar(log_mels, desc="BatchNorm", unit="batch")
        update_bn(steps, model)
    return replace(checkpoint, weights=model.state_dict())
