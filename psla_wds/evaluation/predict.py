"""Scores of a model for every clip of an index, on one process or several."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from psla_wds.evaluation.score_folder import ROWS_AT_ONCE, ScoreFolder
from psla_wds.evaluation.scores import Origin, Scores, targets_of
from psla_wds.features.config import FeatureConfig
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
            share=Share(rank=world.rank, world_size=world.size),
        )
        bar = progress_bar(desc="scoring", total=len(index), disable=not world.is_main)
        with loader as batches, bar, closing(on_cores) as forward:
            for batch in batches:
                (scores,) = forward(batch.log_mel)
                yield batch.rows, scores.cpu().numpy()
                bar.update(min(len(batch.rows) * world.size, len(index) - bar.n))

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
