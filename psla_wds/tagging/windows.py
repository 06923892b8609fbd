"""Windows that a recording of any length is cut into for a model, the grid of cells that its frame
scores are merged on (a cell is as long as the trunk's stride), and the mean of its embeddings.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64

from psla_wds.audio.decode import Block
from psla_wds.audio.files import Notes
from psla_wds.errors import ConfigError
from psla_wds.tagging.config import WindowConfig
from psla_wds.tagging.waveform_model import WaveformModel

SHORT = 0.1
"""Share of a window below which a recording is short: nine tenths of what the model hears are
padding."""


@dataclass(frozen=True)
class WindowLayout:
    """Lengths of windows and cells. Windows begin at borders of cells."""

    sample_rate_hz: int
    window_samples: int
    """Samples of a whole window."""
    window_cells: int
    """Cells of a whole window: the frame scores that are used."""
    step_cells: int
    """Cells from the start of a window to that of the next."""
    cell_samples: int

    @property
    def cell_s(self) -> float:
        return self.cell_samples / self.sample_rate_hz

    def cells_of(self, num_samples: int) -> int:
        """Number of cells that the first samples of a window reach; at least one."""
        return min(max(1, -(-num_samples // self.cell_samples)), self.window_cells)

    def noting_length(self, blocks: Iterable[Block], notes: Notes) -> Iterator[Block]:
        """The blocks of a recording; notes take whether it is much shorter than a window."""
        num_samples = 0
        for block in blocks:
            num_samples += len(block)
            yield block
        if num_samples < SHORT * self.window_samples:
            length_s, window_s = (
                samples / self.sample_rate_hz for samples in (num_samples, self.window_samples)
            )
            notes.flags["short"] = f"{length_s:.2f} s, where a window has {window_s:.2f} s"


@dataclass(frozen=True, eq=False)
class Window:
    """A stretch of a recording."""

    recording: int
    """Number of the recording."""
    start: int
    """Its first sample."""
    end: int
    """The sample after its last; for the last window, the end of the recording."""
    samples: Block
    """Samples of a whole window; fewer in the last window of a recording."""
    is_last: bool


def window_layout(config: WindowConfig, model: WaveformModel) -> WindowLayout:
    """The layout of windows for a model; `ConfigError` if it does not take their length."""
    features = model.features
    frame_s = features.hop_samples / features.sample_rate_hz
    stride_frames = min(model.stride_frames, features.num_frames)
    frames = features.num_frames if config.window_s is None else round(config.window_s / frame_s)
    if not stride_frames <= frames <= features.num_frames:
        raise ConfigError(
            f"window_s={config.window_s} is {frames} frames; the model takes "
            f"{stride_frames} to {features.num_frames}",
            where="windows",
            fix=f"set --windows.window-s to at most {features.num_frames * frame_s:g}",
        )
    cells = min(model.num_columns, frames // stride_frames)  # whole ones
    return WindowLayout(
        sample_rate_hz=features.sample_rate_hz,
        window_samples=(frames - 1) * features.hop_samples + features.window_samples,
        window_cells=cells,
        step_cells=max(1, round((1 - config.overlap) * cells)),
        cell_samples=stride_frames * features.hop_samples,
    )


def cut(blocks: Iterable[Block], layout: WindowLayout, recording: int) -> Iterator[Window]:
    """The windows of a recording, each as soon as it is known whether another follows.

    One follows if more than a cell remains after this one. The last one may be short: the model
    pads it, as training pads short clips.
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
    """Merges the frame scores of windows on the grid of cells: their mean where windows overlap.

    Windows come in order, recording after recording.
    """

    def __init__(self, layout: WindowLayout, num_classes: int) -> None:
        self._step_cells = layout.step_cells
        self._sums = np.zeros((layout.window_cells, num_classes), np.float32)
        self._counts = np.zeros((layout.window_cells, 1), np.float32)

    def add(
        self, frame_scores: Float32[np.ndarray, "cells classes"], *, is_last: bool
    ) -> Float32[np.ndarray, "settled classes"]:
        """The cells that are now final; they follow those returned before."""
        self._sums[: len(frame_scores)] += frame_scores
        self._counts[: len(frame_scores)] += 1
        settled = np.count_nonzero(self._counts) if is_last else self._step_cells
        merged = self._sums[:settled] / self._counts[:settled]
        for held in (self._sums, self._counts):
            held[: len(held) - settled] = held[settled:]
            held[len(held) - settled :] = 0
        return merged


class EmbeddingMean:
    """The embedding of one recording: the mean of its windows', weighted by their lengths, so that
    a short last window counts for little. What two windows cover counts twice."""

    def __init__(self) -> None:
        self._sum: Float64[np.ndarray, " size"] | float = 0.0
        self._length_s = 0.0

    def add(self, embedding: Float32[np.ndarray, " size"], length_s: float) -> None:
        """Add a window; a recording without a sample has one, of no length."""
        weight = length_s or 1.0
        self._sum = self._sum + weight * embedding.astype(np.float64)
        self._length_s += weight

    def value(self) -> Float32[np.ndarray, " size"]:
        """The mean of the windows so far."""
        return np.asarray(self._sum / self._length_s, np.float32)
