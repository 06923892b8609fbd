"""What a study is going to cost: runs, clips and hours, before any of it is run."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from psla_wds.errors import PslaError
from train.config import CONFIG, TrainConfig, read_config
from train.run.log import read_run
from train.study_commands import Commands, Step
from train.study_engine import Engine, begun
from train.study_settings import StudyArgs


@dataclass(frozen=True)
class Cost:
    """Of a run."""

    step: Step
    state: str
    epochs_left: int
    clips: int
    """To train on, over the epochs left."""
    clips_per_s: float | None
    """None where neither a run nor an option tells."""

    @property
    def hours(self) -> float | None:
        return self.clips / self.clips_per_s / 3600 if self.clips_per_s else None


def costs(steps: Iterable[Step], engine: Engine, commands: Commands, args: StudyArgs) -> list[Cost]:
    """Of every run of the study, those done included."""
    runs = [step for step in steps if step.config]
    speeds = _measured(args.work)
    anyway = args.clips_per_s or next(iter(speeds.values()), None)
    found = []
    for step in runs:
        config = step.config
        assert config is not None
        left = config.epochs - _epochs_done(config)
        clips = left * clips_of_an_epoch(config, len(commands.index))
        speed = speeds.get(_network(config), anyway)
        found.append(Cost(step, engine.state(step).text, left, clips, speed))
    return found


def clips_of_an_epoch(config: TrainConfig, num_clips: int) -> int:
    """Draws, less the last ones that fill no batch."""
    drawn_from = min(config.subset or num_clips, num_clips)
    return config.sampler.steps_per_epoch(drawn_from, config.batch_size) * config.batch_size


def _epochs_done(config: TrainConfig) -> int:
    try:
        epochs = read_run(config.run_dir).epochs if begun(config) else ()
    except PslaError:
        return 0
    return epochs[-1].epoch if epochs else 0


def _measured(work: Path) -> dict[str, float]:
    """Clips a second by network, of the runs that are there, of whatever study."""
    rates: dict[str, float] = {}
    for path in sorted(work.glob(f"runs/*/seed-*/{CONFIG}")):
        try:
            config, epochs = read_config(path), read_run(path.parent).epochs
        except PslaError:
            continue
        if epochs:
            rates[_network(config)] = epochs[-1].clips_per_s
    return rates


def _network(config: TrainConfig) -> str:
    return f"{config.model.backbone}, {config.model.head}"


def to_text(found: Sequence[Cost], commands: Commands, num_evaluated: int, steps: int) -> str:
    """A line a run, then the sums."""
    lines = [f"{'run':<58}{'state':<20}{'epochs left':>12}{'clips':>14}{'hours':>9}"]
    lines += [
        f"{cost.step.name:<58}{cost.state[:18]:<20}{cost.epochs_left:>12}{cost.clips:>14,}"
        f"{_hours(cost.hours):>9}"
        for cost in found
    ]
    hours = [cost.hours for cost in found if cost.clips]
    known = [h for h in hours if h is not None]
    total = f"{sum(known):,.2f} h of training" if len(known) == len(hours) else "unknown hours"
    evaluated = sum(cost.epochs_left for cost in found) * num_evaluated
    first, last = commands.averaged
    lines.append(
        f"{sum(1 for c in found if c.epochs_left)} of {len(found)} runs to train: "
        f"{sum(cost.clips for cost in found):,} clips, {total}; {evaluated:,} clips to evaluate "
        f"beside it, and {steps} commands on what was trained. Weights are averaged over epochs "
        f"{first} to {last}."
    )
    if len(known) < len(hours):
        lines.append("No run is there yet that tells the speed: --clips-per-s gives the hours.")
    return "\n".join(lines)


def _hours(hours: float | None) -> str:
    return "?" if hours is None else f"{hours:,.2f}"
