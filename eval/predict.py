"""Score every clip of a set of shards.

    python -m eval.predict RUN --index SHARDS --output P.npz

Runs on one process, or on several: torchrun --nproc-per-node 8 -m eval.predict ...
An output without .npz is a folder of memory-mapped arrays, which millions of clips need; several
machines write it through a file system that they share. With --top-k it is what a teacher leaves
for its students.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from tyro.conf import Positional, UseAppendAction, arg

from eval.origins import Origin
from eval.score_folder import ROWS_AT_ONCE, ScoreFolder, check_top_k
from eval.scores import Scores, targets_of
from psla_wds import cli
from psla_wds.checkpoint import (
    Checkpoint,
    check_classes,
    check_sample_rate,
    find_checkpoint,
    load_checkpoint,
)
from psla_wds.distributed import World, join_world
from psla_wds.errors import ConfigError
from psla_wds.features import FeatureConfig
from psla_wds.files import sha256_of
from psla_wds.index_files import open_indexes
from psla_wds.labels import ClassList
from psla_wds.loader import Loader
from psla_wds.model import AudioTagger
from psla_wds.overlay import apply_overlay
from psla_wds.progress import progress_bar
from psla_wds.reader import ReaderConfig
from psla_wds.schedule import BatchLayout, EvaluationSchedule
from psla_wds.shard_index import ShardIndex


@dataclass(frozen=True)
class Args:
    model: Positional[Path]
    """A run's folder (its last epoch is taken), a checkpoint, an average, or a checkpoint of the
    paper's authors (.pth)."""
    index: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="SHARDS[:SPLIT,...]")]
    """Shards to score; give the option several times for several sets."""
    output: Path
    """Score file to write, .npz; or a folder, for more scores than memory holds."""
    top_k: int | None = None
    """Keep so many scores of each clip, the highest, as a teacher's: a folder of 4 bytes a score,
    without targets, for train/main.py --distill. Of AudioSet's 527 classes 20 are enough (Dinkel
    et al. 2023)."""
    labels: Path | None = None
    """Label overlay, by eval.enhance, with the labels to write as targets."""
    other_classes: bool = False
    """Take shards whose classes are not the model's. Targets are then those of the classes that
    both have; python -m eval.score --mapping scores the others."""
    batch_size: int = 32
    """Clips of a forward pass, on each process."""
    reader: ReaderConfig = field(default_factory=ReaderConfig)

    def __post_init__(self) -> None:
        check_top_k(self.top_k, self.output)
        if self.top_k is not None and self.labels is not None:
            raise ConfigError(
                "a teacher's scores have no targets, so no labels are read",
                where="--labels",
                fix="leave it out",
            )


@dataclass(frozen=True)
class Predictor:
    """A model, and how clips are brought to it."""

    model: AudioTagger
    classes: ClassList
    """Of the model."""
    features: FeatureConfig
    batch_size: int
    """Clips of a forward pass on each rank."""
    reader: ReaderConfig

    def batches(self, index: ShardIndex, world: World) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Rows of the index and their scores; over all ranks, each row once."""
        self.model.eval()
        layout = BatchLayout(
            batch_size=self.batch_size * world.size, rank=world.rank, world_size=world.size
        )
        loader = Loader(
            index,
            EvaluationSchedule(index, layout),
            clips_per_pass=self.batch_size,
            features=self.features,
            config=self.reader,
            device=world.device,
        )
        bar = progress_bar(desc="scoring", total=len(index), disable=not world.is_main)
        with loader as batches, bar:
            for batch in batches:
                # Here, not as a decorator: one that wraps a generator in a function loses the mode.
                with torch.inference_mode(), _autocast(world.device):
                    scores = self.model(batch.log_mel).cpu().numpy()
                yield batch.rows, scores
                bar.update(min(len(batch.rows) * world.size, len(index) - bar.n))

    def to_folder(
        self,
        index: ShardIndex,
        world: World,
        output: Path,
        *,
        top_k: int | None = None,
        origins: Sequence[Origin] = (),
    ) -> None:
        """Write the scores as a folder: each rank its rows, into files that all have mapped."""
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


def predict(
    model: AudioTagger,
    index: ShardIndex,
    features: FeatureConfig,
    world: World,
    *,
    batch_size: int,
    reader: ReaderConfig,
) -> Scores | None:
    """Scores and targets of every clip, in the order of the index, on rank 0; None on others.

    Args:
        batch_size: clips of a forward pass on each rank.
    """
    return gather_scores(
        Predictor(model, index.classes, features, batch_size, reader), index, world
    )


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


def _autocast(device: torch.device) -> torch.autocast | nullcontext[None]:
    """bfloat16 in the trunk on a GPU; the head is float32 everywhere."""
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()


def _prepare(args: Args) -> tuple[Checkpoint, Origin, ShardIndex]:
    index = open_indexes(args.index)
    if not len(index):
        raise ConfigError("there is no clip to score", where=args.index, fix="check --index")
    path = find_checkpoint(args.model)
    checkpoint = load_checkpoint(path, classes=index.classes)
    if not args.other_classes:
        check_classes(checkpoint.classes, index.classes, where=args.model)
    if args.top_k is not None and args.top_k > len(checkpoint.classes):
        raise ConfigError(
            f"the model has {len(checkpoint.classes)} scores a clip, not {args.top_k}",
            where="--top-k",
            fix=f"set --top-k to at most {len(checkpoint.classes)}",
        )
    check_sample_rate(checkpoint.features, index.sample_rate_hz, where=args.model)
    if args.labels:
        index = apply_overlay(index, args.labels)
    index.check_shards()
    return checkpoint, Origin(sha256_of(path), checkpoint.epoch), index


def _what_was_written(args: Args, num_clips: int, num_classes: int) -> str:
    if args.top_k is None:
        return (
            f"wrote scores of {num_clips:,} clips, {num_classes} classes, to {args.output}; "
            f"next: python -m eval.score {args.output} --output DIR"
        )
    return (
        f"wrote the {args.top_k} highest of {num_classes} scores of {num_clips:,} clips to "
        f"{args.output}; next: torchrun train/main.py RECIPE --index "
        f"{' --index '.join(args.index)} --distill {args.output}"
    )


def main() -> None:
    args = cli.parse(Args, __doc__, prog="python -m eval.predict")
    with join_world() as world:
        checkpoint, origin, index = world.together(lambda: _prepare(args))
        model = checkpoint.build().to(world.device)
        predictor = Predictor(
            model, checkpoint.classes, checkpoint.features, args.batch_size, args.reader
        )
        if args.output.suffix == ".npz":
            scores = gather_scores(predictor, index, world)
            if scores:
                replace(scores, origins=(origin,)).save(args.output)
        else:
            predictor.to_folder(index, world, args.output, top_k=args.top_k, origins=(origin,))
        if world.is_main:
            print(_what_was_written(args, len(index), len(checkpoint.classes)))


if __name__ == "__main__":
    cli.run(main)
