"""Score every clip of a set of shards.

    python -m eval.predict RUN --index SHARDS --output P.npz

Runs on one process, or on several: torchrun --nproc-per-node 8 -m eval.predict ...
"""

from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from tyro.conf import Positional, UseAppendAction, arg

from eval.scores import Scores
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
from psla_wds.index_files import open_indexes
from psla_wds.loader import Loader
from psla_wds.model import AudioTagger
from psla_wds.progress import clip_bar
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
    """Score file to write, .npz."""
    batch_size: int = 32
    """Clips of a forward pass, on each process."""
    reader: ReaderConfig = field(default_factory=ReaderConfig)


@torch.inference_mode()
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
    model.eval()
    layout = BatchLayout(batch_size=batch_size * world.size, rank=world.rank, world_size=world.size)
    rows, scores = [np.empty(0, np.int64)], [np.empty((0, len(index.classes)), np.float32)]
    loader = Loader(
        index,
        EvaluationSchedule(index, layout),
        clips_per_pass=batch_size,
        features=features,
        config=reader,
        device=world.device,
    )
    bar = clip_bar(desc="scoring", total=len(index), disable=not world.is_main)
    with loader as batches, bar:
        for batch in batches:
            with _autocast(world.device):
                scores.append(model(batch.log_mel).cpu().numpy())
            rows.append(batch.rows)
            bar.update(min(len(batch.rows) * world.size, len(index) - bar.n))
    return _gather(index, world, np.concatenate(rows), np.concatenate(scores))


def _autocast(device: torch.device) -> torch.autocast | nullcontext[None]:
    """bfloat16 in the trunk on a GPU; the head is float32 everywhere."""
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()


def _gather(index: ShardIndex, world: World, rows: np.ndarray, scores: np.ndarray) -> Scores | None:
    """Put the scores of all ranks into the order of the index; each row came from one rank."""
    all_rows, all_scores = world.gather(rows), world.gather(scores)
    if all_rows is None or all_scores is None:
        return None
    ordered = np.empty((len(index), len(index.classes)), np.float32)
    ordered[np.concatenate(all_rows)] = np.concatenate(all_scores)
    return Scores(
        clip_ids=tuple(index.clip_id(row) for row in range(len(index))),
        scores=ordered,
        targets=index.targets(np.arange(len(index))).astype(np.uint8),
        mids=index.classes.mids,
        names=index.classes.names,
    )


def _prepare(args: Args) -> tuple[Checkpoint, ShardIndex]:
    index = open_indexes(args.index)
    if not len(index):
        raise ConfigError("there is no clip to score", where=args.index, fix="check --index")
    checkpoint = load_checkpoint(find_checkpoint(args.model), classes=index.classes)
    check_classes(checkpoint.classes, index.classes, where=args.model)
    check_sample_rate(checkpoint.features, index.sample_rate_hz, where=args.model)
    index.check_against_disk()
    return checkpoint, index


def main() -> None:
    args = cli.parse(Args, __doc__, prog="python -m eval.predict")
    with join_world() as world:
        checkpoint, index = world.together(lambda: _prepare(args))
        scores = predict(
            checkpoint.build().to(world.device),
            index,
            checkpoint.features,
            world,
            batch_size=args.batch_size,
            reader=args.reader,
        )
    if scores:
        scores.save(args.output)
        print(
            f"wrote scores of {len(index):,} clips, {len(index.classes)} classes, to "
            f"{args.output}; next: python -m eval.score {args.output} --output DIR"
        )


if __name__ == "__main__":
    cli.run(main)
