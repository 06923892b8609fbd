"""Draw what training makes of clips: log-mel, masked, mixed.

    psla-wds gallery RUN --output GALLERY.svg
    psla-wds gallery --index SHARDS --output GALLERY.svg

It shows the first clips of a step of the run's own plan, with the partners, mixing weights and
masks of that step, computed by the same graph. Without a run, the settings are those of the
options; the defaults are the paper's for AudioSet. Look at it before the first training on new
shards. A .png is written beside the .svg after python -m pip install resvg_py.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from psla_wds import cli
from psla_wds.config import SEED, Within, check_ranges
from psla_wds.errors import ConfigError
from psla_wds.features.config import FeatureConfig
from psla_wds.sampling.config import AugmentConfig, SamplerConfig

SETTINGS = ("features", "sampler", "augment", "seed")
"""Options that a run's config.json has too."""


@dataclass(frozen=True)
class Args(cli.Overwrite):
    run: Positional[Path | None] = None
    """Run folder, for its settings and training shards."""
    output: Annotated[Path, cli.New(twins=(".png",))] = Path("gallery.svg")
    """File to write; the .png has the same name."""
    index: cli.Shards = ()
    """Shards, without a run; with a run, its training shards if they were moved."""
    clips: Annotated[int, Within(1, 1000)] = 4
    """Number of draws to show."""
    step: Annotated[int, Within(1, 10**12)] = 1
    """Step whose first draws are shown, counted from 1 over all epochs."""
    seed: Annotated[int, SEED] = 0
    """Seed of the draws, without a run."""
    features: FeatureConfig = field(default_factory=FeatureConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.run is None and not self.index:
            raise ConfigError(
                "there is nothing to show", where="RUN", fix="name a run, or give --index SHARDS"
            )
        if self.output.suffix != ".svg":
            raise ConfigError(
                f"{self.output} is not an .svg", where="--output", fix="set --output gallery.svg"
            )
        for name in SETTINGS if self.run else ():
            if getattr(self, name) != getattr(DEFAULTS, name):
                raise ConfigError(
                    "with a run, its own settings are used",
                    where=f"--{name}",
                    fix="leave it out, or leave RUN out and give --index",
                )


DEFAULTS = Args(index=("SHARDS",))


def main() -> None:
    args = cli.parse(Args, __doc__, prog="gallery")
    # Imported here, since they take seconds.
    from eval.pages.charts import why_no_png, write_drawing
    from eval.pages.gallery import exhibits, gallery, plan_of_run, plan_of_shards
    from psla_wds.io.atomic_files import disk_errors
    from train.config import TrainConfig
    from train.run.log import read_run

    if args.run:
        plan = plan_of_run(read_run(args.run), args.index, args.step)
    else:
        settings = {name: getattr(args, name) for name in SETTINGS}
        config = TrainConfig(index=args.index, batch_size=args.clips, **settings)
        plan = plan_of_shards(config, args.step)
    shown = exhibits(plan, args.clips)
    with disk_errors(args.output, "write the gallery", then="run the command again"):
        args.output.parent.mkdir(parents=True, exist_ok=True)
        write_drawing(gallery(shown, plan.config.features), args.output)
    reason = why_no_png()
    png = f"; {reason}" if reason else f" and {args.output.with_suffix('.png')}"
    print(f"wrote {len(shown)} clips of step {args.step} to {args.output}{png}")


if __name__ == "__main__":
    cli.run(main)
