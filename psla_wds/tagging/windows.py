"""How a recording of any length is cut into windows that a model takes, and its frame scores laid
on one grid: the cells, each as long as the trunk's stride.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from psla_wds.audio.decode import Block
from psla_wds.errors import ConfigError
from psla_wds.features.config import FeatureConfig
from psla_wds.tagging.config import WindowConfig


@dataclass(frozen=True)
class WindowLayout:
    """Where windows and cells lie. Windows begin at borders of cells."""

    sample_rate_hz: int
    window_samples: int
    """Samples of a whole window."""
    window_cells: int
    """Cells of a whole window: the frame scores that count."""
    step_cells: int
    """Cells from the start of a window to that of the next."""
    cell_samples: int

    @property
    def cell_s(self) -> float:
        return self.cell_samples / self.sample_rate_hz

    def cells_of(self, num_samples: int) -> int:
        """Cells that so many samples of a window reach; at least one."""
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
    """As many as a window has; fewer in the last of a recording."""
    is_last: bool


def window_layout(
    config: WindowConfig, features: FeatureConfig, *, stride_frames: int, num_columns: int
) -> WindowLayout:
    """Windows for a model.

    Args:
        stride_frames: log-mel frames of a column of the trunk's map.
        num_columns: columns of the map of `features.num_frames`.

    Raises `ConfigError` if the model does not take windows of this length.
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
        window_cells=cells,
        step_cells=max(1, round((1 - config.overlap) * cells)),
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
    """Frame scores of windows, one after another, on the grid of cells of their recording: where
    windows overlap, the mean of theirs. After the last window of a recording comes the next one.
    """

    def __init__(self, layout: WindowLayout, num_classes: int) -> None:
        self._step_cells = layout.step_cells
        self._sums = np.zeros((layout.window_cells, num_classes), np.float32)
        self._counts = np.zeros((layout.window_cells, 1), np.float32)

    def add(
        self, frame_scores: Float32[np.ndarray, "cells classes"], *, is_last: bool
    ) -> Float32[np.ndarray, "settled classes"]:
        """The cells that no later window has, from where the ones before ended."""
        self._sums[: len(frame_scores)] += frame_scores
        self._counts[: len(frame_scores)] += 1
        settled = np.count_nonzero(self._counts) if is_last else self._step_cells
        merged = self._sums[:settled] / self._counts[:settled]
        for held in (self._sums, self._counts):
            held[: len(held) - settled] = held[settled:]
            held[len(held) - settled :] = 0
        return merged
