"""The picture of a gallery: a row for each draw, a column for each stage of the front end."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from jaxtyping import Float32, UInt8
from markupsafe import Markup
from PIL import Image

from eval.pages.charts import document
from eval.pages.runs import open_training_set
from psla_wds.features.config import FeatureConfig
from psla_wds.loading.loader import Loader, LoaderConfig
from psla_wds.loading.waveforms import WaveformLoader
from psla_wds.printable import printable
from psla_wds.sampling.augment import NO_PARTNER, Draws, first_sample, plain_draws
from psla_wds.sampling.schedule import NONE_DAMAGED, BatchLayout, TrainingSchedule
from psla_wds.shards.index import ShardIndex
from train.config import TrainConfig
from train.run.clips import open_training_index
from train.run.log import Run

STAGES = ("waveform", "log-mel", "masked", "mixed", "masked and mixed: as trained")
PANEL_WIDTH, PANEL_HEIGHT = 210, 110
LEFT, TOP = 44, 46
COLUMN_WIDTH, ROW_HEIGHT = PANEL_WIDTH + 14, PANEL_HEIGHT + 58
MOST_LETTERS = 170
COLUMNS_OF_A_WAVEFORM = 420
COLOURS = (
    (8, 8, 30),
    (60, 20, 110),
    (150, 40, 120),
    (225, 90, 70),
    (250, 170, 60),
    (255, 250, 205),
)
"""From the lowest value to the highest; each lighter than the one before."""


@dataclass(frozen=True)
class Exhibit:
    """A draw at each stage."""

    title: str
    waveform: Float32[np.ndarray, " samples"]
    """Waveform in the shard."""
    sample_rate_hz: int
    log_mels: tuple[Float32[np.ndarray, "frames mels"], ...]
    """Normalised: plain, masked, mixed, and both, as the model gets it."""


@dataclass(frozen=True)
class Plan:
    """Clips, and the draws of training from one step on."""

    index: ShardIndex
    config: LoaderConfig
    schedule: TrainingSchedule

    def draws(self, limit: int) -> Draws:
        """The first draws of the step."""
        drawn = self.schedule(0)
        return Draws(**{f.name: getattr(drawn, f.name)[:limit] for f in fields(Draws)})


def plan_of_run(run: Run, specs: Sequence[str], step: int) -> Plan:
    """The plan of a run from a step on; `specs` name its training shards if they were moved."""
    data = open_training_set(run, specs)
    return _plan(data.index, data.config, step)


def plan_of_shards(config: TrainConfig, step: int) -> Plan:
    """The plan that a run with this configuration would have."""
    return _plan(open_training_index(config), config, step)


def _plan(index: ShardIndex, settings: TrainConfig, step: int) -> Plan:
    config = LoaderConfig(
        sampler=settings.sampler, augment=settings.augment, features=settings.features
    )
    layout = BatchLayout(batch_size=settings.batch_size)
    schedule = TrainingSchedule(index, config, layout, seed=settings.seed, first_step=step - 1)
    return Plan(index, config, schedule)


class _Stages:
    """A schedule of four batches with the same draws: plain, masked, mixed, and both."""

    replaces_damaged = False  # another clip would be shown under the name of this one

    def __init__(self, draws: Draws, schedule: TrainingSchedule) -> None:
        self.changes, self.clips_per_pass = schedule.changes, len(draws.rows)
        plain = replace(plain_draws(draws.rows), crops=draws.crops)
        masked, mixed = replace(plain, masks=draws.masks), replace(draws, masks=plain.masks)
        self._batches = (plain, masked, mixed, draws)

    def __call__(self, iteration: int, damaged: frozenset[int] = NONE_DAMAGED) -> Draws | None:
        assert not damaged
        return self._batches[iteration] if iteration < len(self._batches) else None


def exhibits(plan: Plan, limit: int) -> list[Exhibit]:
    """The first draws of the step, at each stage of the front end."""
    draws = plan.draws(limit)
    stages = _Stages(draws, plan.schedule)
    with WaveformLoader(plan.index, stages, plan.config.reader) as waveforms:
        batch = next(waveforms)
    with Loader(plan.index, stages, plan.config) as batches:
        log_mels: list[Float32[np.ndarray, "draws frames mels"]] = [
            batch.log_mel.cpu().numpy().copy() for batch in batches
        ]
    return [
        Exhibit(
            title=_title(plan, draws, i),
            waveform=waveform,
            sample_rate_hz=plan.index.sample_rate_hz,
            log_mels=tuple(stage[i] for stage in log_mels),
        )
        for i, waveform in enumerate(batch.waveforms)
    ]


def _title(plan: Plan, draws: Draws, i: int) -> str:
    first = _named(plan, int(draws.rows[i]), draws.crops[i, 0])
    if draws.partners[i] == NO_PARTNER:
        return f"{first}, not mixed"
    share = 1 - float(draws.lam[i])
    partner = _named(plan, int(draws.partners[i]), draws.crops[i, 1])
    return f"{first}, mixed with {share:.0%} of {partner}"


def _named(plan: Plan, row: int, crop: np.float32) -> str:
    """A clip with its classes; from its first sample that is heard on, if that is not the first."""
    index = plan.index
    names = [index.classes.names[label] for label in index.labels(row)]
    num_places = int(index.num_samples[row]) - plan.config.features.max_clip_samples + 1
    start_s = first_sample(crop, max(num_places, 1)) / index.sample_rate_hz
    place = f" from {start_s:.2f} s" if start_s else ""
    return printable(f"{index.clip_id(row)} ({'; '.join(names) or 'no label'}){place}")


def gallery(exhibits: Sequence[Exhibit], features: FeatureConfig) -> str:
    """An SVG document; all spectrograms share one scale of colours."""
    values = np.concatenate([log_mel.ravel() for e in exhibits for log_mel in e.log_mels])
    low, high = np.quantile(values, [0.01, 0.999]).tolist()
    marks = [
        _text(LEFT + column * COLUMN_WIDTH, 20, name, style="head")
        for column, name in enumerate(STAGES)
    ]
    for number, exhibit in enumerate(exhibits):
        marks += _row(exhibit, features, (low, high), TOP + number * ROW_HEIGHT)
    note = (
        f"Spectrograms: {features.num_frames} frames of {features.hop_ms:g} ms, "
        f"{features.num_mels} mel filters from {features.low_hz:g} to {features.high_hz:g} Hz, the "
        f"lowest at the bottom; normalised log energy, dark {low:.2f} to light {high:.2f}. Masks "
        f"and padding have the value {-features.mean / features.std:.2f}."
    )
    y = TOP + len(exhibits) * ROW_HEIGHT
    marks.append(_text(LEFT, y, note))
    return document(Markup().join(marks), LEFT + len(STAGES) * COLUMN_WIDTH, y + 16)


def _row(
    exhibit: Exhibit, features: FeatureConfig, ends: tuple[float, float], y: int
) -> list[Markup]:
    title = exhibit.title
    title = f"{title[:MOST_LETTERS]}…" if len(title) > MOST_LETTERS else title
    panels = [_waveform(exhibit.waveform, y)]
    durations_s = [len(exhibit.waveform) / exhibit.sample_rate_hz]
    for column, log_mel in enumerate(exhibit.log_mels, 1):
        panels.append(_spectrogram(log_mel, ends, LEFT + column * COLUMN_WIDTH, y))
        durations_s.append(features.num_frames * features.hop_ms / 1000)
    times = []
    for column, duration_s in enumerate(durations_s):
        x, below = LEFT + column * COLUMN_WIDTH, y + PANEL_HEIGHT + 14
        times.append(_text(x, below, "0 s"))
        times.append(_text(x + PANEL_WIDTH, below, f"{duration_s:.3g} s", "end"))
    full_scale = [
        _text(LEFT - 6, y + 10, "+1", "end"),
        _text(LEFT - 6, y + PANEL_HEIGHT, "\N{MINUS SIGN}1", "end"),
    ]
    return [_text(LEFT, y - 6, title, style="key"), *panels, *times, *full_scale]


def _waveform(waveform: Float32[np.ndarray, " samples"], y: int) -> Markup:
    """The lowest and the highest sample of each stretch, from -1 to 1."""
    count = min(COLUMNS_OF_A_WAVEFORM, len(waveform))
    parts = np.array_split(np.clip(waveform, -1, 1), count)
    heights = [float(part.max()) for part in parts] + [float(part.min()) for part in parts[::-1]]
    xs = [LEFT + (i + 0.5) * PANEL_WIDTH / count for i in range(count)]
    scale = PANEL_HEIGHT / 2
    outline = zip([*xs, *xs[::-1]], heights, strict=True)
    path = "L".join(f"{x:.1f} {y + scale - scale * height:.1f}" for x, height in outline)
    return Markup(
        '<path class="rule" fill="none" d="M{} {}h{}v{}h-{}z"/>'
        '<path class="first" fill="currentColor" d="M{}Z"/>'
    ).format(LEFT, y, PANEL_WIDTH, PANEL_HEIGHT, PANEL_WIDTH, path)


def _spectrogram(
    log_mel: Float32[np.ndarray, "frames mels"], ends: tuple[float, float], x: int, y: int
) -> Markup:
    image = io.BytesIO()
    Image.fromarray(coloured(log_mel.T[::-1], ends)).save(image, "PNG", optimize=True)
    return Markup(
        '<image x="{}" y="{}" width="{}" height="{}" preserveAspectRatio="none" '
        'href="data:image/png;base64,{}"/>'
    ).format(x, y, PANEL_WIDTH, PANEL_HEIGHT, base64.b64encode(image.getvalue()).decode())


def coloured(
    values: Float32[np.ndarray, "rows columns"], ends: tuple[float, float]
) -> UInt8[np.ndarray, "rows columns 3"]:
    """The values as colours, from the low end to the high one."""
    low, high = ends
    share = np.clip((values - low) / max(high - low, 1e-9), 0, 1)
    places = np.linspace(0, 1, len(COLOURS))
    channels = [np.interp(share, places, channel) for channel in zip(*COLOURS, strict=True)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def _text(x: int, y: int, text: str, anchor: str = "start", *, style: str = "") -> Markup:
    return Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>').format(
        style, x, y, anchor, text
    )
