"""The picture of a gallery: a row a draw, a column a stage of the front end."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt8
from markupsafe import Markup
from PIL import Image

from eval.chart_files import document
from psla_wds.features.config import FeatureConfig

STAGES = ("waveform", "log-mel", "masked", "mixed", "masked and mixed: as trained")
PANEL_WIDTH, PANEL_HEIGHT = 210, 110
GAP, LEFT, TOP = 14, 44, 46
ROW_HEIGHT = PANEL_HEIGHT + 58
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
    """A draw, and what becomes of it."""

    title: str
    waveform: Float32[np.ndarray, " samples"]
    """As it lies in the shard."""
    sample_rate_hz: int
    log_mels: tuple[Float32[np.ndarray, "frames mels"], ...]
    """Normalised: plain, masked, mixed, and as the model gets it."""


def gallery(exhibits: Sequence[Exhibit], features: FeatureConfig) -> str:
    """An SVG document; all spectrograms have the same colours for the same values."""
    values = np.concatenate([log_mel.ravel() for e in exhibits for log_mel in e.log_mels])
    low, high = np.quantile(values, [0.01, 0.999]).tolist()
    width = LEFT + len(STAGES) * (PANEL_WIDTH + GAP)
    marks = [_heads()]
    for number, exhibit in enumerate(exhibits):
        y = TOP + number * ROW_HEIGHT
        marks.append(_row(exhibit, features, (low, high), y))
    y = TOP + len(exhibits) * ROW_HEIGHT
    marks.append(_text(LEFT, y, _note(features, low, high)))
    return document(Markup().join(marks), width, y + 16)


def _note(features: FeatureConfig, low: float, high: float) -> str:
    return (
        f"Spectrograms: {features.num_frames} frames of {features.hop_ms:g} ms, "
        f"{features.num_mels} mel filters from {features.low_hz:g} to {features.high_hz:g} Hz, the "
        f"lowest at the bottom; normalised log energy, dark {low:.2f} to light {high:.2f}. Masks "
        f"and padding have the value {-features.mean / features.std:.2f}."
    )


def _heads() -> Markup:
    step = PANEL_WIDTH + GAP
    return Markup().join(
        Markup('<text class="key" x="{}" y="20" font-weight="bold">{}</text>').format(
            LEFT + column * step, name
        )
        for column, name in enumerate(STAGES)
    )


def _row(exhibit: Exhibit, features: FeatureConfig, ends: tuple[float, float], y: int) -> Markup:
    title = exhibit.title
    if len(title) > MOST_LETTERS:
        title = f"{title[:MOST_LETTERS]}…"
    duration_s = len(exhibit.waveform) / exhibit.sample_rate_hz
    marks = [Markup('<text class="key" x="{}" y="{}">{}</text>').format(LEFT, y - 6, title)]
    marks.append(_waveform(exhibit.waveform, y))
    marks.append(_times(LEFT, y, duration_s))
    marks += [
        _text(LEFT - 6, y + 10, "+1", "end"),
        _text(LEFT - 6, y + PANEL_HEIGHT, "\N{MINUS SIGN}1", "end"),
    ]
    for column, log_mel in enumerate(exhibit.log_mels, 1):
        x = LEFT + column * (PANEL_WIDTH + GAP)
        marks += [_spectrogram(log_mel, ends, x, y)]
        marks.append(_times(x, y, features.num_frames * features.hop_ms / 1000))
    return Markup().join(marks)


def _waveform(waveform: Float32[np.ndarray, " samples"], y: int) -> Markup:
    """The lowest and the highest sample of each stretch, from -1 to 1."""
    count = min(COLUMNS_OF_A_WAVEFORM, len(waveform))
    parts = np.array_split(waveform, count)
    tops = [float(np.clip(part.max(), -1, 1)) for part in parts]
    feet = [float(np.clip(part.min(), -1, 1)) for part in parts]
    xs = [LEFT + (i + 0.5) * PANEL_WIDTH / count for i in range(count)]
    middle, scale = y + PANEL_HEIGHT / 2, PANEL_HEIGHT / 2
    outline = [*zip(xs, tops, strict=True), *reversed(list(zip(xs, feet, strict=True)))]
    path = "L".join(f"{x:.1f} {middle - scale * v:.1f}" for x, v in outline)
    frame = Markup('<path class="rule" fill="none" d="M{} {}h{}v{}h-{}z"/>').format(
        LEFT, y, PANEL_WIDTH, PANEL_HEIGHT, PANEL_WIDTH
    )
    line = Markup('<path class="first" fill="currentColor" d="M{}Z"/>').format(path)
    return frame + line


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
    """The values as colours, from that of the low end to that of the high one."""
    low, high = ends
    share = np.clip((values - low) / max(high - low, 1e-9), 0, 1)
    places = np.linspace(0, 1, len(COLOURS))
    channels = [np.interp(share, places, channel) for channel in zip(*COLOURS, strict=True)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def _times(x: int, y: int, end_s: float) -> Markup:
    """The ends of the time axis, in seconds."""
    below = y + PANEL_HEIGHT + 14
    return _text(x, below, "0 s") + _text(x + PANEL_WIDTH, below, f"{end_s:.3g} s", "end")


def _text(x: int, y: int, text: str, anchor: str = "start") -> Markup:
    return Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>').format(x, y, anchor, text)
