"""Curves of PSLA's figure 8: mAP of weight averages and of score ensembles, by their first epoch.

    python -m eval.figures RUN --index SHARDS --output DIR

Every epoch is scored alone, then the mean weights, and the mean scores, of each epoch to the last.
DIR gets averaging.json, averaging.svg, and the scores of each epoch, for python -m eval.ensemble.
"""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated

import numpy as np
from tyro.conf import Positional, UseAppendAction, arg

from eval.average import RunningAverage, find_epochs
from eval.metrics import evaluate
from eval.predict import Predictor, gather_scores
from eval.scores import Scores
from eval.svg import Series, line_chart, linear_axis
from psla_wds import cli
from psla_wds.checkpoint import Checkpoint, check_classes, epoch_checkpoints, load_checkpoint
from psla_wds.distributed import World, join_world
from psla_wds.errors import CheckpointError, ConfigError
from psla_wds.files import atomic_folder
from psla_wds.index_files import open_indexes
from psla_wds.progress import progress_bar
from psla_wds.reader import ReaderConfig
from psla_wds.shard_index import ShardIndex

STYLE = """svg { font: 12px sans-serif; background: #fff; color: #222; fill: currentColor }
.rule { stroke: #ddd } .tick { stroke: #888 } .line { fill: none; stroke-width: 1.6 }
.first { stroke: #2166ac } .second { stroke: #b2182b } .faint { stroke: #999 }"""


@dataclass(frozen=True)
class Args:
    run: Positional[Path]
    """A run's folder, with the checkpoint of every epoch."""
    index: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="SHARDS[:SPLIT,...]")]
    """Shards to evaluate on."""
    output: Path
    """Folder to write; it must not exist."""
    batch_size: int = 32
    reader: ReaderConfig = field(default_factory=ReaderConfig)


@dataclass(frozen=True)
class Start:
    """What begins at an epoch; mAP of each."""

    epoch: int
    checkpoint: float
    """Of the epoch alone."""
    weight_average: float
    """Of the mean weights of this to the last epoch."""
    score_ensemble: float
    """Of the mean scores of this to the last epoch."""


def averaging_curves(index: ShardIndex, world: World, args: Args, folder: Path) -> list[Start]:
    """Score every epoch and every average; each checkpoint is read once, the last one first.

    The scores of each epoch are written to `folder`.
    """
    average, total, starts = RunningAverage(), np.zeros(()), []
    epochs = _epochs(args.run)
    for count, (epoch, path) in enumerate(
        progress_bar(epochs[::-1], desc="epochs", unit="epoch"), 1
    ):
        checkpoint = average.add(path)
        alone = _scores(checkpoint, index, world, args)
        alone.save(folder / f"epoch-{epoch:03d}.npz")
        averaged = alone
        if count > 1:
            weights = replace(checkpoint, weights=average.weights())
            averaged = _scores(weights, index, world, args)
        total = total + alone.scores
        mean = (total / count).astype(np.float32)
        maps = [evaluate(s, alone.targets).mAP for s in (alone.scores, averaged.scores, mean)]
        starts.append(Start(epoch, *maps))
    return starts[::-1]


def _epochs(run: Path) -> list[tuple[int, Path]]:
    found = epoch_checkpoints(run)
    if not found:
        raise CheckpointError("there is no checkpoint here", where=run, fix="give a run's folder")
    return list(zip(sorted(found), find_epochs(run, min(found), max(found)), strict=True))


def _scores(checkpoint: Checkpoint, index: ShardIndex, world: World, args: Args) -> Scores:
    model = checkpoint.build().to(world.device)
    predictor = Predictor(
        model, checkpoint.classes, checkpoint.features, args.batch_size, args.reader
    )
    scores = gather_scores(predictor, index, world)
    assert scores is not None  # one process
    return scores


def chart(starts: list[Start]) -> str:
    """The three curves, as an SVG file that brings its own colours."""
    epochs = [start.epoch for start in starts]
    names = ("checkpoint", "weight_average", "score_ensemble")
    curves = {name: [getattr(start, name) for start in starts] for name in names}
    styles = ("faint", "first", "second")
    series = [
        Series(name, epochs, values, style)
        for (name, values), style in zip(curves.items(), styles, strict=True)
    ]
    drawn = line_chart(
        "mAP by first epoch: one checkpoint (grey), mean weights (blue), mean scores (red)",
        linear_axis("first epoch", epochs, smallest_step=1),
        linear_axis("mAP", [value for values in curves.values() for value in values]),
        series,
    )
    head, _, marks = str(drawn).removeprefix("<svg").partition(">")
    style = f"<style>{STYLE}</style>"
    return f'<svg xmlns="http://www.w3.org/2000/svg"{head}>{style}{marks}\n'


def main() -> None:
    args = cli.parse(Args, __doc__, prog="python -m eval.figures")
    if args.output.exists():
        raise ConfigError(
            "something is there already", where=args.output, fix="choose another --output"
        )
    index = open_indexes(args.index)
    classes = load_checkpoint(_epochs(args.run)[-1][1]).classes
    check_classes(classes, index.classes, where=args.run)
    index.check_shards()
    with join_world() as world, atomic_folder(args.output) as folder:
        starts = averaging_curves(index, world, args, folder)
        curves = json.dumps([asdict(start) for start in starts], indent=1)
        (folder / "averaging.json").write_text(curves)
        (folder / "averaging.svg").write_text(chart(starts), encoding="utf-8")
    best = max(starts, key=lambda start: start.weight_average)
    print(
        f"wrote {args.output} (averaging.json, averaging.svg, the scores of each epoch); the best "
        f"average begins at epoch {best.epoch} (mAP {best.weight_average:.4f}); next: "
        f"python -m eval.ensemble {args.output}/epoch-*.npz --output E.npz"
    )


if __name__ == "__main__":
    cli.run(main)
