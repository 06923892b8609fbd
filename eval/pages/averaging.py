"""mAP of weight averages and of score ensembles, by their first epoch (PSLA figure 8)."""

from collections.abc import Callable, Iterator
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
from psla_wds.io.atomic_files import sha256_of
from psla_wds.models.checkpoint import Checkpoint, check_classes, load_checkpoint
from psla_wds.models.epochs import epoch_checkpoints
from psla_wds.progress import progress_bar
from psla_wds.reading.config import ReaderConfig
from psla_wds.runtime.distributed import join_world
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


def averaging_curves(
    run: Path, index: ShardIndex, folder: Path, *, batch_size: int, reader: ReaderConfig
) -> list[Start]:
    """Score every epoch of a run, and every average, on the clips of an index.

    Writes the scores of each epoch, and averaging.json, to `folder`.
    """
    epochs = epoch_checkpoints(run)
    if not epochs:
        raise CheckpointError("there is no checkpoint here", where=run, fix="give a run's folder")
    paths = find_epochs(run, min(epochs), max(epochs))
    check_classes(load_checkpoint(paths[-1]).classes, index.classes, where=run)
    index.check_shards()
    with join_world() as world:

        def scored(checkpoint: Checkpoint) -> Scores:
            model, features = checkpoint.build().to(world.device), checkpoint.features
            predictor = Predictor(model, checkpoint.classes, features, batch_size, reader)
            scores = gather_scores(predictor, index, world)
            assert scores is not None  # one process
            return scores

        starts = list(_starts(paths, scored, folder))[::-1]
    (folder / "averaging.json").write_text(json_text(starts))
    return starts


def _starts(
    paths: list[Path], scored: Callable[[Checkpoint], Scores], folder: Path
) -> Iterator[Start]:
    """The last epoch first, so that each checkpoint is read once."""
    average, total = RunningAverage(), np.zeros(())
    for count, path in enumerate(progress_bar(paths[::-1], desc="epochs", unit="epoch"), 1):
        checkpoint = average.add(path)
        origin = Origin(sha256_of(path), checkpoint.epoch)
        alone = replace(scored(checkpoint), origins=(origin,))
        alone.save(folder / f"epoch-{origin.epoch:03d}.npz")
        averaged = alone
        if count > 1:
            averaged = scored(replace(checkpoint, weights=average.weights()))
        total = total + alone.scores
        mean = (total / count).astype(np.float32)
        maps = [evaluate(s, alone.targets).mAP for s in (alone.scores, averaged.scores, mean)]
        yield Start(origin.epoch, origin.sha256, *maps)


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
