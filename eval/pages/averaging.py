"""mAP of weight averages and of score ensembles, by their first epoch (PSLA figure 8)."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from eval.pages.charts import Figure, Line, linear_axis
from eval.pages.page import json_text
from psla_wds.errors import CheckpointError
from psla_wds.evaluation.metrics import evaluate
from psla_wds.evaluation.predict import Predictor, gather_scores
from psla_wds.evaluation.scores import Origin, Scores
from psla_wds.evaluation.weight_average import RunningAverage, find_epochs
from psla_wds.io.files import sha256_of
from psla_wds.models.checkpoint import Checkpoint, check_classes, epoch_checkpoints, load_checkpoint
from psla_wds.progress import progress_bar
from psla_wds.reading.reader import ReaderConfig
from psla_wds.runtime.distributed import World, join_world
from psla_wds.shards.index import ShardIndex


@dataclass(frozen=True)
class Start:
    """mAP of an epoch, and of the averages that begin with it."""

    epoch: int
    sha256: str
    """Hash of its checkpoint."""
    checkpoint: float
    """mAP of the epoch alone."""
    weight_average: float
    """mAP of the mean weights from this epoch to the last."""
    score_ensemble: float
    """mAP of the mean scores from this epoch to the last."""


@dataclass(frozen=True)
class Evaluation:
    """The clips that every epoch scores, and the way that they reach the model."""

    index: ShardIndex
    batch_size: int
    reader: ReaderConfig

    def scores(self, checkpoint: Checkpoint, world: World) -> Scores:
        model = checkpoint.build().to(world.device)
        predictor = Predictor(
            model, checkpoint.classes, checkpoint.features, self.batch_size, self.reader
        )
        scores = gather_scores(predictor, self.index, world)
        assert scores is not None  # one process
        return scores


def averaging_curves(run: Path, evaluation: Evaluation, folder: Path) -> list[Start]:
    """Score every epoch and every average; each checkpoint is read once, the last one first.

    Writes the scores of each epoch, and averaging.json, to `folder`.
    """
    epochs = _epochs(run)
    classes = load_checkpoint(epochs[-1][1]).classes
    check_classes(classes, evaluation.index.classes, where=run)
    evaluation.index.check_shards()
    with join_world() as world:
        starts = list(_starts(epochs, evaluation, world, folder))[::-1]
    (folder / "averaging.json").write_text(json_text(starts))
    return starts


def _epochs(run: Path) -> list[tuple[int, Path]]:
    """The epochs of a run with their checkpoints; an error if there is none, or a gap."""
    found = epoch_checkpoints(run)
    if not found:
        raise CheckpointError("there is no checkpoint here", where=run, fix="give a run's folder")
    return list(zip(sorted(found), find_epochs(run, min(found), max(found)), strict=True))


def _starts(
    epochs: list[tuple[int, Path]], evaluation: Evaluation, world: World, folder: Path
) -> Iterator[Start]:
    average, total = RunningAverage(), np.zeros(())
    steps = progress_bar(epochs[::-1], desc="epochs", unit="epoch")
    for count, (epoch, path) in enumerate(steps, 1):
        checkpoint = average.add(path)
        origin = Origin(sha256_of(path), epoch)
        alone = replace(evaluation.scores(checkpoint, world), origins=(origin,))
        alone.save(folder / f"epoch-{epoch:03d}.npz")
        averaged = alone
        if count > 1:
            averaged = evaluation.scores(replace(checkpoint, weights=average.weights()), world)
        total = total + alone.scores
        mean = (total / count).astype(np.float32)
        maps = [evaluate(s, alone.targets).mAP for s in (alone.scores, averaged.scores, mean)]
        yield Start(epoch, origin.sha256, *maps)


def averaging_figure(starts: list[Start]) -> Figure:
    """mAP of epochs, mean weights and mean scores, by their first epoch (PSLA figure 8)."""
    epochs = [start.epoch for start in starts]
    lines = (
        Line("one epoch", epochs, [start.checkpoint for start in starts], "faint"),
        Line("mean weights", epochs, [start.weight_average for start in starts], "first"),
        Line("mean scores", epochs, [start.score_ensemble for start in starts], "second"),
    )
    x_axis = linear_axis("first epoch", epochs, smallest_step=1)
    y_axis = linear_axis("mAP", [value for line in lines for value in line.y])
    best = max(starts, key=lambda start: start.weight_average)
    note = (
        "Means are over the epochs from here to the last. The best mean of weights starts at "
        f"epoch {best.epoch}: mAP {best.weight_average:.4f}."
    )
    return Figure("averaging", "Averages by their first epoch", x_axis, y_axis, lines, note)
