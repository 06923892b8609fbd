"""Draw figures of a run, or of runs that differ by their seed.

    psla-wds figures RUN [RUN ...] --output DIR
    psla-wds figures RUN --index SHARDS --output DIR

learning-curve: mean and spread over the runs (PSLA figure 9). The others show the first run: loss,
learning-rate and data-wait; class-counts, class-draws and unseen, from the plans of its epochs
(figures 4 to 6), if its training shards are found; class-ap, if it has scores.npz (figure 7).
With --index, every epoch is scored, and so are the mean weights and mean scores from each epoch to
the last: averaging (figure 8), averaging.json, and each epoch's scores, for psla-wds ensemble.
figures.json has all numbers. PNG files need python -m pip install resvg_py.
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional

from psla_wds import cli
from psla_wds.config import BATCH_SIZE
from psla_wds.errors import ConfigError
from psla_wds.io.atomic_files import atomic_folder, disk_errors
from psla_wds.printable import typed
from psla_wds.reading.config import ReaderConfig

if TYPE_CHECKING:
    from eval.pages.charts import Figure

logger = logging.getLogger("figures")


@dataclass(frozen=True)
class Args:
    runs: Positional[tuple[Path, ...]]
    """Run folders; several must differ only by their seed."""
    output: Annotated[Path, cli.New()]
    """Folder to write; it must not exist."""
    index: cli.Shards = ()
    """Shards to evaluate every epoch of the first run on, for the averages."""
    train_index: cli.Shards = ()
    """Training shards of the first run, if they are no longer where it had them."""
    plans: bool = True
    """Draw the figures of the epochs' plans: about a second per epoch of two million clips."""
    batch_size: Annotated[int, BATCH_SIZE] = 32
    """Clips of a forward pass, with --index."""
    reader: ReaderConfig = field(default_factory=ReaderConfig)

    def __post_init__(self) -> None:
        if not self.runs:
            raise ConfigError("no run is given", where="RUN", fix="name the folder of a run")


def main() -> None:
    args = cli.parse(Args, __doc__, prog="figures")
    # Imported here, since it takes seconds.
    from eval.pages.charts import why_no_png

    errors = disk_errors(args.output, "write the figures", then="run the command again")
    with errors, atomic_folder(args.output) as folder:
        figures = draw(args, folder)
    reason = why_no_png()
    kinds = "SVG" if reason else "SVG and PNG"
    print(f"wrote {args.output}: {', '.join(f.name for f in figures)} ({kinds})")
    if args.index:
        scores = f"{typed(args.output)}/epoch-*.npz"
        print(f"{figures[-1].note} Next: psla-wds ensemble {scores} --output E.npz")
    if reason:
        logger.warning("%s", reason)


def draw(args: Args, folder: Path) -> "list[Figure]":
    """Write all figures to a folder; the averages are the last one."""
    from eval.pages.averaging import averaging_curves, averaging_figure
    from eval.pages.charts import standalone, write_drawing
    from eval.pages.figures import log_figures, plan_figures, score_figures
    from eval.pages.page import json_text
    from eval.pages.runs import find_training_set
    from psla_wds.shards.index_files import open_indexes
    from train.run.log import read_run

    figures: list[Figure] = []
    # The averages of one run need its checkpoints alone.
    if not args.index or len(args.runs) > 1 or (args.runs[0] / "config.json").exists():
        runs = [read_run(path) for path in args.runs]
        figures += log_figures(runs)
        data = find_training_set(runs[0], args.train_index) if args.plans else None
        figures += plan_figures(data) if data else []
        figures += score_figures(runs[0])
    if args.index:
        starts = averaging_curves(
            args.runs[0],
            open_indexes(args.index),
            folder,
            batch_size=args.batch_size,
            reader=args.reader,
        )
        figures.append(averaging_figure(starts))
    if not figures:
        raise ConfigError(
            "there is nothing to draw: the log is empty",
            where=args.runs[0],
            fix="train the run, or give --index SHARDS",
        )
    for figure in figures:
        write_drawing(standalone(figure), folder / figure.name)
    (folder / "figures.json").write_text(json_text({f.name: f.to_json() for f in figures}))
    return figures


if __name__ == "__main__":
    cli.run(main)
