"""Scores of a model for every clip of an index, on one process or several."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Int64

from psla_wds.evaluation.score_folder import ROWS_AT_ONCE, ScoreFolder
from psla_wds.evaluation.scores import Origin, Scores, targets_of
from psla_wds.features.config import FeatureConfig
from psla_wds.features.windows import windows_of
from psla_wds.labels.class_list import ClassList
from psla_wds.loading.batches import evaluation_batches
from psla_wds.loading.epochs import Share
from psla_wds.loading.loader import LoaderConfig
from psla_wds.models.audio_tagger import AudioTagger, autocast, check_precision
from psla_wds.models.config import Precision
from psla_wds.progress import progress_bar
from psla_wds.reading.config import ReaderConfig
from psla_wds.runtime.cores import OnCores
from psla_wds.runtime.distributed import World
from psla_wds.shards.index import ShardIndex


@dataclass(frozen=True)
class Predictor:
    """A model with the settings to feed it clips."""

    model: AudioTagger
    classes: ClassList
    """Classes of the model."""
    features: FeatureConfig
    batch_size: int
    """Clips per forward pass on each rank."""
    reader: ReaderConfig
    precision: Precision = "float32"
    """Precision of the trunk."""
    windows: int | None = None
    """Most windows of a clip, whose scores are averaged. Default: as many as cover it."""

    def batches(self, index: ShardIndex, world: World) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Rows of the index with their scores; each row once over all ranks."""
        check_precision(self.precision, world.device)
        self.model.eval()
        on_cores = OnCores(self._forward, world.device)
        # One process alone gives each core a clip. Several must agree on the size.
        least = on_cores.threads if world.size == 1 else 1
        loader = evaluation_batches(
            index,
            batch_size=max(self.batch_size, least) * world.size,
            config=LoaderConfig(features=self.features, reader=self.reader, device=world.device),
            windows=self.windows,
            share=Share(rank=world.rank, world_size=world.size),
        )
        bar = progress_bar(desc="scoring", total=len(index), disable=not world.is_main)
        means = WindowMeans(windows_of(index.num_samples, self.features, most=self.windows))
        with loader as batches, bar, closing(on_cores) as forward:
            for batch in batches:
                (scores,) = forward(batch.log_mel)
                rows, of_clips = means.add(batch.rows, scores.cpu().numpy())
                if len(rows):
                    yield rows, of_clips
                bar.update(min(len(rows) * world.size, len(index) - bar.n))

    def _forward(self, log_mel: torch.Tensor) -> tuple[torch.Tensor]:
        with autocast(self.precision, log_mel.device):
            return (self.model(log_mel),)

    def to_folder(
        self,
        index: ShardIndex,
        world: World,
        output: Path,
        *,
        top_k: int | None = None,
        origins: Sequence[Origin] = (),
    ) -> None:
        """Write a score folder; each rank writes its rows into shared mapped files."""
        folder = ScoreFolder(output, self.classes, top_k=top_k)
        world.together(lambda: folder.begin(index.clip_ids) if world.is_main else None)
        for rows, scores in self.batches(index, world):
            folder.write(rows, scores)
        folder.flush()
        world.together(lambda: None)  # all have written
        if not world.is_main:
            return
        if top_k is None:
            targets = folder.open("targets")
            for first in range(0, len(index), ROWS_AT_ONCE):
                rows = np.arange(first, min(first + ROWS_AT_ONCE, len(index)))
                targets[rows] = targets_of(index, rows, self.classes)
        folder.finish(origins)


class WindowMeans:
    """Mean scores of clips over their windows, which come one after another."""

    def __init__(self, counts: Int64[np.ndarray, " clips"]) -> None:
        self._counts = counts
        self._rows: Int64[np.ndarray, " windows"] = np.empty(0, np.int64)
        self._scores: list[Float32[np.ndarray, "windows classes"]] = []  # of a clip that goes on

    def add(
        self,
        rows: Int64[np.ndarray, " windows"],
        scores: Float32[np.ndarray, "windows classes"],
    ) -> tuple[Int64[np.ndarray, " clips"], Float32[np.ndarray, "clips classes"]]:
        """Rows and scores of the clips of which this was the last window."""
        rows = np.concatenate([self._rows, rows])
        scores = np.concatenate([*self._scores, scores])
        starts = np.flatnonzero(np.diff(rows, prepend=-1))
        sizes = np.diff(starts, append=len(rows))
        is_whole = sizes == self._counts[rows[starts]]  # only the last may lack some
        end = len(rows) if is_whole.all() else starts[-1]
        self._rows, self._scores = rows[end:], [scores[end:]]
        starts, sizes = starts[is_whole], sizes[is_whole, None]
        if not len(starts):
            return rows[:0], scores[:0]
        # In float64, from which the score of a single window comes back as it was.
        sums = np.add.reduceat(scores[:end].astype(np.float64), starts)
        return rows[starts], (sums / sizes).astype(np.float32)


def gather_scores(predictor: Predictor, index: ShardIndex, world: World) -> Scores | None:
    """Scores and targets of every clip, in the order of the index, on rank 0; None on others."""
    classes = predictor.classes
    rows, scores = [np.empty(0, np.int64)], [np.empty((0, len(classes)), np.float32)]
    for batch_rows, batch_scores in predictor.batches(index, world):
        rows.append(batch_rows)
        scores.append(batch_scores)
    all_rows, all_scores = (world.gather(np.concatenate(parts)) for parts in (rows, scores))
    if all_rows is None or all_scores is None:
        return None
    ordered = np.empty((len(index), len(classes)), np.float32)
    ordered[np.concatenate(all_rows)] = np.concatenate(all_scores)
    return Scores(
        clip_ids=tuple(index.clip_id(row) for row in range(len(index))),
        scores=ordered,
        targets=targets_of(index, np.arange(len(index)), classes),
        mids=classes.mids,
        names=classes.names,
    )
