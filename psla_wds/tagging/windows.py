"""How a recording of any length is cut into windows that a model takes, and its frame scores laid
on one grid: the cells, each as long as the trunk's stride.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from psla_wds.audio.recordings import Block
from psla_wds.errors import ConfigError
from psla_wds.features.config import FeatureConfig


@dataclass(frozen=True, kw_only=True)
class WindowConfig:
    """Windows that a recording is cut into."""

    window_s: float | None = None
    """Seconds of a window, at most what the model was trained to take (10.6 in the paper's
    recipes), which it is unless set. AudioSet's clips have 10: the rest is padding in training."""
    overlap: float = 0.5
    """Share of a window that the next one has as well, so that no sound is at an edge in both."""

    def __post_init__(self) -> None:
        if self.window_s is not None and not 0 < self.window_s < math.inf:
            raise ConfigError(
                f"window_s={self.window_s:g} is no length",
                where="windows",
                fix="set --windows.window-s 10, or leave it out",
            )
        if not 0 <= self.overlap < 1:
            raise ConfigError(
                f"overlap={self.overlap:g} is no share from 0 to below 1",
                where="windows",
                fix="set --windows.overlap 0.5, or 0 for none",
            )


@dataclass(frozen=True)
class WindowLayout:
    """Where windows and cells lie. Windows begin at borders of cells."""

    sample_rate_hz: int
    window_samples: int
    """Of a whole window."""
    step_cells: int
    """From the start of a window to that of the next."""
    window_cells: int
    """Of a whole window: the frame scores that count."""
    cell_samples: int

    @property
    def cell_s(self) -> float:
        return self.cell_samples / self.sample_rate_hz

    def cells_of(self, num_samples: int) -> int:
        """Cells that so many samples of a window reach, of which there is one at least."""
        return min(max(1, -(-num_samples // self.cell_samples)), self.window_cells)


@dataclass(frozen=True, eq=False)
class Window:
    """A stretch of a recording."""

    recording: int
    """Number of the recording."""
    start: int
    """Its first sample."""
    end: int
    """The sample after its last; after the last of the recording, in the last window."""
    samples: Block
    """As many as a window has, in the last of a recording fewer."""
    is_last: bool


def window_layout(
    config: WindowConfig, features: FeatureConfig, *, stride_frames: int, num_columns: int
) -> WindowLayout:
    """Windows for a model.

    Args:
        stride_frames: log-mel frames of a column of the trunk's map.
        num_columns: of the map of `features.num_frames`.
    """
    frame_s = features.hop_samples / features.sample_rate_hz
    frames = features.num_frames
    stride_frames = min(stride_frames, frames)
    if config.window_s is not None:
        frames = round(config.window_s / frame_s)
    if not stride_frames <= frames <= features.num_frames:
        raise ConfigError(
            f"window_s={config.window_s} is {frames} frames; the model takes "
            f"{stride_frames} to {features.num_frames}",
            where="windows",
            fix=f"set --windows.window-s to at most {features.num_frames * frame_s:g}",
        )
    cells = min(num_columns, frames // stride_frames)  # whole ones
    return WindowLayout(
        sample_rate_hz=features.sample_rate_hz,
        window_samples=(frames - 1) * features.hop_samples + features.window_samples,
        step_cells=max(1, round((1 - config.overlap) * cells)),
        window_cells=cells,
        cell_samples=stride_frames * features.hop_samples,
    )


def cut(blocks: Iterable[Block], layout: WindowLayout, recording: int) -> Iterator[Window]:
    """The windows of a recording, each as soon as it is known whether another follows.

    One follows where more than a cell is left that no window has. The last one may be short; the
    model gets it as training gets short clips, padded.
    """
    step_samples = layout.step_cells * layout.cell_samples
    held, start = np.empty(0, np.float32), 0
    for block in blocks:
        held = np.concatenate([held, block])
        while len(held) > layout.window_samples + layout.cell_samples:
            samples = held[: layout.window_samples]
            yield Window(recording, start, start + len(samples), samples, is_last=False)
            held, start = held[step_samples:], start + step_samples
    samples = held[: layout.window_samples]
    yield Window(recording, start, start + len(held), samples, is_last=True)


class CellMerger:
    """Frame scores of the windows of one recording, one after another, on its grid of cells:
    where windows overlap, the mean of theirs.
    """

    def __init__(self, layout: WindowLayout, num_classes: int) -> None:
        self._step_cells = layout.step_cells
        self._sums = np.zeros((0, num_classes), np.float32)
        self._counts = np.zeros((0, 1), np.float32)

    def add(
        self, frame_scores: Float32[np.ndarray, "cells classes"], *, is_last: bool
    ) -> Float32[np.ndarray, "settled classes"]:
        """The cells that no later window has, from where the ones before ended."""
        missing = max(0, len(frame_scores) - len(self._sums))
        sums = np.pad(self._sums, ((0, missing), (0, 0)))
        counts = np.pad(self._counts, ((0, missing), (0, 0)))
        sums[: len(frame_scores)] += frame_scores
        counts[: len(frame_scores)] += 1
        settled = len(sums) if is_last else self._step_cells
        self._sums, self._counts = sums[settled:], counts[settled:]
        return sums[:settled] / counts[:settled]
