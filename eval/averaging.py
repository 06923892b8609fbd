"""mAP of weight averages and of score ensembles, by their first epoch (PSLA figure 8)."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from eval.axes import linear_axis
from eval.charts import Chart, Figure, Series
from psla_wds.errors import CheckpointError
from psla_wds.evaluation.metrics import evaluate
from psla_wds.evaluation.predict import Predictor, gather_scores
from psla_wds.evaluation.scores import Origin, Scores
from psla_wds.evaluation.weight_average import RunningAverage, find_epochs
from psla_wds.io.atomic_files import sha256_of
from psla_wds.models.checkpoint import Checkpoint, check_classes, epoch_checkpoints, load_checkpoint
from psla_wds.progress import progress_bar
from psla_wds.reading.config import ReaderConfig
from psla_wds.runtime.distributed import World
from psla_wds.shards.index import ShardIndex


@dataclass(frozen=True)
class Start:
    """What begins at an epoch; mAP of each."""

    epoch: int
    sha256: str
    """Of its checkpoint."""
    checkpoint: float
    """Of the epoch alone."""
    weight_average: float
    """Of the mean weights of this to the last epoch."""
    score_ensemble: float
    """Of the mean scores of this to the last epoch."""


@dataclass(frozen=True)
class Evaluation:
    """The clips that every epoch is scored on, and how they are brought to the model."""

    index: ShardIndex
    world: World
    batch_size: int
    reader: ReaderConfig

    def scores(self, checkpoint: Checkpoint) -> Scores:
        model = checkpoint.build().to(self.world.device)
        predictor = Predictor(
            model, checkpoint.classes, checkpoint.features, self.batch_size, self.reader
        )
        scores = gather_scores(predictor, self.index, self.world)
        assert scores is not None  # one process
        return scores


def averaging_curves(run: Path, evaluation: Evaluation, folder: Path) -> list[Start]:
    """Score every epoch and every average; each checkpoint is read once, the last one first.

    The scores of each epoch, and averaging.json, are written to `folder`.
    """
    starts = list(_starts(run, evaluation, folder))[::-1]
    curves = json.dumps([asdict(start) for start in starts], indent=1)
    (folder / "averaging.json").write_text(curves)
    return starts


def _starts(run: Path, evaluation: Evaluation, folder: Path) -> Iterator[Start]:
    average, total = RunningAverage(), np.zeros(())
    epochs = epochs_of(run)
    steps = progress_bar(epochs[::-1], desc="epochs", unit="epoch")
    for count, (epoch, path) in enumerate(steps, 1):
        checkpoint = average.add(path)
        origin = Origin(sha256_of(path), epoch)
        alone = replace(evaluation.scores(checkpoint), origins=(origin,))
        alone.save(folder / f"epoch-{epoch:03d}.npz")
        averaged = alone
        if count > 1:
            averaged = evaluation.scores(replace(checkpoint, weights=average.weights()))
        total = total + alone.scores
        mean = (total / count).astype(np.float32)
        maps = [evaluate(s, alone.targets).mAP for s in (alone.scores, averaged.scores, mean)]
        yield Start(epoch, origin.sha256, *maps)


def epochs_of(run: Path) -> list[tuple[int, Path]]:
    """The epochs of a run with their checkpoints; an error if there is none, or a gap."""
    found = epoch_checkpoints(run)
    if not found:
        raise CheckpointError("there is no checkpoint here", where=run, fix="give a run's folder")
    return list(zip(sorted(found), find_epochs(run, min(found), max(found)), strict=True))


def check_run(run: Path, index: ShardIndex) -> None:
    """Raise unless the run's epochs can be scored on these shards."""
    classes = load_checkpoint(epochs_of(run)[-1][1]).classes
    check_classes(classes, index.classes, where=run)
    index.check_shards()


def averaging_figure(starts: list[Start]) -> Figure:
    """The three curves."""
    epochs = [start.epoch for start in starts]
    curves = {
        "one epoch": [start.checkpoint for start in starts],
        "mean weights": [start.weight_average for start in starts],
        "mean scores": [start.score_ensemble for start in starts],
    }
    styles = ("faint", "first", "second")
    chart = Chart(
        "mAP of one epoch, of mean weights and of mean scores, by the first epoch of the mean",
        linear_axis("first epoch", epochs, smallest_step=1),
        linear_axis("mAP", [value for values in curves.values() for value in values]),
        tuple(
            Series(name, epochs, values, style)
            for (name, values), style in zip(curves.items(), styles, strict=True)
        ),
    )
    best = best_start(starts)
    note = (
        "Means are of the epochs from here to the last. The best of weights begins at epoch "
        f"{best.epoch}: mAP {best.weight_average:.4f}."
    )
    return Figure("averaging", "Averages by their first epoch", chart, note)


def best_start(starts: list[Start]) -> Start:
    return max(starts, key=lambda start: start.weight_average)
