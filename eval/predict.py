"""Score every clip of a set of shards.

    psla-wds predict RUN --index SHARDS --output P.npz
    torchrun --standalone --nproc-per-node 8 -m psla_wds predict RUN ...

An output without .npz is a folder of memory-mapped arrays, for millions of clips; several machines
write it through a shared file system. With --top-k it holds a teacher's scores for its students.
"""

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional

from psla_wds import cli
from psla_wds.config import BATCH_SIZE, Within
from psla_wds.errors import ConfigError
from psla_wds.evaluation.score_folder import check_top_k
from psla_wds.evaluation.scores import Origin
from psla_wds.features.config import FeatureConfig
from psla_wds.features.windows import mismatch
from psla_wds.io.atomic_files import sha256_of
from psla_wds.io.remote import expect_reads_within
from psla_wds.models.config import Precision
from psla_wds.models.epochs import epoch_checkpoints
from psla_wds.printable import typed
from psla_wds.reading.config import ReaderConfig
from psla_wds.shards.index import ShardIndex
from psla_wds.shards.index_files import open_indexes
from psla_wds.shards.overlay import apply_overlay

logger = logging.getLogger("predict")


@dataclass(frozen=True)
class Args(cli.Overwrite):
    model: Positional[Path]
    """A run folder (for its last epoch), a checkpoint, an average, an exported folder of one model,
    or a checkpoint from the paper's authors (.pth)."""
    index: cli.Shards
    """Shards to score; repeat the option for several sets."""
    output: Annotated[Path, cli.New()]
    """Score file to write, .npz; or a folder, for more scores than memory holds."""
    top_k: Annotated[int | None, Within(1, 2**16)] = None
    """Number of highest scores to keep for each clip, as a teacher's: a folder with 4 bytes per
    score, without targets, for psla-wds train --distill. 20 of AudioSet's 527 classes are enough
    (Dinkel et al. 2023)."""
    labels: Path | None = None
    """Label overlay of psla-wds enhance or overlay: its labels are written as targets."""
    other_classes: bool = False
    """Accept shards with other classes than the model's. Targets are those of the common classes;
    psla-wds score --mapping scores the others."""
    batch_size: Annotated[int, BATCH_SIZE] = 32
    """Clips, or windows of clips, of a forward pass in each process."""
    windows: Annotated[int | None, Within(1, 10**6)] = None
    """Most windows of a clip that is longer than the model's: its score is the mean of theirs.
    Default: as many as cover the clip. 1: only the first, as the paper's code has it."""
    precision: Precision = "float32"
    """Autocast precision of the trunk; the head is float32. Training's own evaluation and
    psla-wds tag use float32."""
    reader: ReaderConfig = field(default_factory=ReaderConfig)

    def __post_init__(self) -> None:
        check_top_k(self.top_k, self.output)
        if self.top_k is not None and self.labels is not None:
            raise ConfigError(
                "a teacher's scores have no targets, so no labels are read",
                where="--labels",
                fix="leave it out",
            )


def _prepare(args: Args) -> tuple[Any, Origin, ShardIndex]:
    """The checkpoint, its origin, and the clips to score."""
    from psla_wds.models.checkpoint import check_classes
    from psla_wds.models.model_folder import load_members, weights_of

    expect_reads_within(args.reader.timeout_s)
    index = open_indexes(args.index)
    if not len(index):
        raise ConfigError(
            "the shards have no clips to score", where=args.index, fix="check --index"
        )
    members = load_members(args.model, classes=index.classes)
    if len(members) > 1:
        raise ConfigError(
            f"this is an ensemble of {len(members)} models, and scores are those of one",
            where=args.model,
            fix="score the runs that it is made of, then: psla-wds ensemble A.npz B.npz --output "
            "E.npz",
        )
    (checkpoint,) = members
    if not args.other_classes:
        check_classes(checkpoint.classes, index.classes, where=args.model)
    if args.top_k is not None and args.top_k > len(checkpoint.classes):
        raise ConfigError(
            f"the model gives {len(checkpoint.classes)} scores per clip, fewer than {args.top_k}",
            where="--top-k",
            fix=f"set --top-k to at most {len(checkpoint.classes)}",
        )
    if args.labels:
        index = apply_overlay(index, args.labels)
    index.check_shards()
    file = weights_of(args.model)
    return checkpoint, Origin(sha256_of(file), checkpoint.epoch, checkpoint.first_epoch), index


def _lengths(args: Args, index: ShardIndex, features: FeatureConfig) -> str | None:
    """One line on clips that are much shorter or longer than the model's window."""
    longer = "the score of each is the mean of {windows} windows"
    if args.windows == 1:
        longer = "{unheard} % of the audio is not heard; leave out --windows 1"
    elif args.windows:
        longer = f"the score of each is the mean of at most {args.windows} windows"
    return mismatch(index.num_samples, features, shorter="{padding} % padding", longer=longer)


def _what_was_written(args: Args, num_clips: int, num_classes: int) -> str:
    if args.top_k is None:
        run = f" --run {typed(args.model)}" if epoch_checkpoints(args.model) else ""
        return (
            f"wrote scores of {num_clips:,} clips, {num_classes} classes, to {args.output}; "
            f"next: psla-wds score {typed(args.output)} --output DIR{run}"
        )
    return (
        f"wrote the {args.top_k} highest of {num_classes} scores of {num_clips:,} clips to "
        f"{args.output}; next: psla-wds train RECIPE --index "
        f"{' --index '.join(map(typed, args.index))} --distill {typed(args.output)}"
    )


def main() -> None:
    args = cli.parse(Args, __doc__, prog="predict")
    # Imported here, since torch takes seconds.
    import torch

    from psla_wds.evaluation.predict import Predictor, gather_scores
    from psla_wds.runtime.distributed import join_world

    with join_world() as world:
        checkpoint, origin, index = world.together(lambda: _prepare(args))
        if world.is_main and (lengths := _lengths(args, index, checkpoint.features)):
            logger.info("%s", lengths)
        # The format that training has, so that an exported model gives the same scores to the bit.
        model = checkpoint.build().to(world.device).to(memory_format=torch.channels_last)
        predictor = Predictor(
            model,
            checkpoint.classes,
            checkpoint.features,
            args.batch_size,
            args.reader,
            args.precision,
            args.windows,
        )
        if args.output.suffix == ".npz":
            scores = gather_scores(predictor, index, world)
            if scores:
                scores.warn_if_alike()
                replace(scores, origins=(origin,)).save(args.output)
        else:
            predictor.to_folder(index, world, args.output, top_k=args.top_k, origins=(origin,))
        if world.is_main:
            print(_what_was_written(args, len(index), len(checkpoint.classes)))


if __name__ == "__main__":
    cli.run(main)
