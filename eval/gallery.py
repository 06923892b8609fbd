"""A gallery of what training makes of clips: waveform, log-mel, masked, mixed, and all of it.

    python -m eval.gallery RUN --output GALLERY.svg
    python -m eval.gallery --index SHARDS --output GALLERY.svg

The clips are the first of a step of the run's own plan, with the partners, mixing weights and
masks that they have there, brought to the model by the same graph. Without a run the settings are
the paper's for AudioSet, or flags. Look at it before the first training on new shards. Beside the
.svg a .png is written, after: pip install 'psla-wds[report]'.
"""

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated

import numpy as np
from jaxtyping import Float32
from tyro.conf import Positional, UseAppendAction, arg

from eval.chart_files import why_no_png, write_drawing
from eval.gallery_page import Exhibit, gallery
from eval.run_settings import open_training_set
from psla_wds import cli
from psla_wds.errors import ConfigError
from psla_wds.features.config import FeatureConfig
from psla_wds.io.atomic_files import disk_errors
from psla_wds.loading.loader import Loader, LoaderConfig
from psla_wds.loading.waveforms import WaveformLoader
from psla_wds.sampling.augment import NO_PARTNER, Draws, plain_draws
from psla_wds.sampling.config import AugmentConfig, SamplerConfig
from psla_wds.sampling.schedule import NONE_DAMAGED, BatchLayout, TrainingSchedule
from psla_wds.shards.index import ShardIndex
from psla_wds.shards.index_files import open_indexes
from train.run.log import read_run


@dataclass(frozen=True)
class Args:
    run: Positional[Path | None] = None
    """Folder of a run, whose settings and training shards are taken."""
    output: Path = Path("gallery.svg")
    """File to write; the .png has its name."""
    index: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="SHARDS[:SPLIT,...]")] = ()
    """Shards, without a run; or the run's, if they are no longer where it had them."""
    clips: int = 4
    """Draws to show."""
    step: int = 1
    """Step whose first draws they are, counted from 1 over all epochs."""
    seed: int = 0
    """Seed of the draws, without a run."""
    features: FeatureConfig = field(default_factory=FeatureConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        if self.run is None and not self.index:
            raise ConfigError(
                "there is nothing to show", where="RUN", fix="name a run, or give --index SHARDS"
            )
        if self.output.suffix != ".svg":
            raise ConfigError(
                f"{self.output} is not an .svg", where="--output", fix="set --output gallery.svg"
            )
        if self.clips < 1 or self.step < 1:
            raise ConfigError(
                "clips and steps count from 1", where="--clips, --step", fix="set them to 1 or more"
            )
        for name in ("features", "sampler", "augment", "seed") if self.run else ():
            default = FIELDS[name].default_factory() if name != "seed" else 0
            if getattr(self, name) != default:
                raise ConfigError(
                    "the settings are the run's, so this one is not read",
                    where=f"--{name}",
                    fix="leave it out, or leave RUN out and give --index",
                )


FIELDS = {field.name: field for field in fields(Args)}


@dataclass(frozen=True)
class Source:
    """What is shown, and by which settings."""

    index: ShardIndex
    config: LoaderConfig
    schedule: TrainingSchedule

    def draws(self, limit: int) -> Draws:
        """The first draws of the step."""
        drawn = self.schedule(0)
        return Draws(**{f.name: getattr(drawn, f.name)[:limit] for f in fields(Draws)})


def open_source(args: Args) -> Source:
    """The clips and the plan of a run, or of shards by the settings that are given."""
    if args.run is not None:
        data = open_training_set(read_run(args.run), args.index)
        index, settings = data.index, data.config
        batch_size = settings.batch_size
    else:
        index, settings, batch_size = open_indexes(args.index), args, args.clips
    config = LoaderConfig(
        sampler=settings.sampler, augment=settings.augment, features=settings.features
    )
    layout = BatchLayout(batch_size=batch_size)
    first_step = args.step - 1
    schedule = TrainingSchedule(index, config, layout, seed=settings.seed, first_step=first_step)
    return Source(index, config, schedule)


class Stages:
    """A schedule of four batches of the same draws: plain, masked, mixed, and as in training."""

    replaces_damaged = False  # another clip in its place would be shown under its name

    def __init__(self, draws: Draws, *, rolls: bool) -> None:
        self.rolls, self.clips_per_pass = rolls, len(draws.rows)
        plain = plain_draws(draws.rows)
        masked = replace(plain, masks=draws.masks)
        self._batches = (plain, masked, replace(draws, masks=plain.masks), draws)

    def __call__(self, iteration: int, damaged: frozenset[int] = NONE_DAMAGED) -> Draws | None:
        assert not damaged
        return self._batches[iteration] if iteration < len(self._batches) else None


def exhibits(source: Source, limit: int) -> list[Exhibit]:
    """The first draws of the step, with what the front end makes of them at each stage."""
    draws = source.draws(limit)
    stages = Stages(draws, rolls=source.schedule.rolls)
    with WaveformLoader(source.index, stages, source.config.reader) as waveforms:
        batch = next(waveforms)
    with Loader(source.index, stages, source.config) as batches:
        log_mels: list[Float32[np.ndarray, "draws frames mels"]] = [
            batch.log_mel.cpu().numpy().copy() for batch in batches
        ]
    return [
        Exhibit(
            title=_title(source.index, draws, i),
            waveform=waveform,
            sample_rate_hz=source.index.sample_rate_hz,
            log_mels=tuple(stage[i] for stage in log_mels),
        )
        for i, waveform in enumerate(batch.waveforms)
    ]


def _title(index: ShardIndex, draws: Draws, i: int) -> str:
    first = _named(index, int(draws.rows[i]))
    if draws.partners[i] == NO_PARTNER:
        return f"{first}, not mixed"
    share = 1 - float(draws.lam[i])
    return f"{first}, mixed with {share:.0%} of {_named(index, int(draws.partners[i]))}"


def _named(index: ShardIndex, row: int) -> str:
    names = [index.classes.names[label] for label in index.labels(row)]
    return f"{index.clip_id(row)} ({'; '.join(names) or 'no label'})"


def main() -> None:
    args = cli.parse(Args, __doc__, prog="python -m eval.gallery")
    source = open_source(args)
    shown = exhibits(source, args.clips)
    with disk_errors(args.output, "write the gallery", then="run the command again"):
        args.output.parent.mkdir(parents=True, exist_ok=True)
        write_drawing(gallery(shown, source.config.features), args.output)
    reason = why_no_png()
    png = f"; {reason}" if reason else f" and {args.output.with_suffix('.png')}"
    print(f"wrote {len(shown)} clips of step {args.step} to {args.output}{png}")


if __name__ == "__main__":
    cli.run(main)
