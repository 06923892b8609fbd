"""A model in use: a recording in, scores out.

    from psla_wds import Tagger

    tagger = Tagger.load("runs/full")
    tags = tagger(waveform, sample_rate_hz)
    print(tags.top(5))

It needs torch but not DALI, and runs wherever torch does; see docs/use_the_model.md.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64

from psla_wds.audio.decode import Block, decode_array
from psla_wds.audio.files import Notes
from psla_wds.errors import CheckpointError, ConfigError
from psla_wds.labels.class_list import ClassList
from psla_wds.models.audio_tagger import check_precision
from psla_wds.models.checkpoint import Checkpoint
from psla_wds.models.config import Pooling, Precision
from psla_wds.models.model_folder import check_members, load_members, thresholds_of
from psla_wds.runtime.cores import OnCores
from psla_wds.runtime.memory import keep_freed_memory
from psla_wds.tagging.config import EventConfig, WindowConfig
from psla_wds.tagging.events import Event, EventFinder, in_order
from psla_wds.tagging.onnx_runtime import OnnxForward
from psla_wds.tagging.waveform_model import WaveformModel
from psla_wds.tagging.windows import CellMerger, EmbeddingMean, Window, cut, window_layout

GPU_BATCH_SIZE, MOST_WINDOWS = 8, 16
"""Windows of a forward pass on a GPU, and at most on a CPU, where each core takes one."""


@dataclass(frozen=True, eq=False)
class WindowTags:
    """Scores of a window of a recording."""

    recording: int
    """Number of the recording, from 0."""
    start_s: float
    end_s: float
    """End of the window; for the last one, end of the recording."""
    scores: Float32[np.ndarray, " classes"]
    """Scores of the window, near [0, 1]."""
    frame_scores: Float32[np.ndarray, "frames classes"]
    """Frame scores that became final with this window; they follow those of the window before."""
    is_last: bool
    """Whether the recording ends here."""
    embedding: Float32[np.ndarray, " size"] | None = None
    """Features of the window, pooled over its frames; None if they were not asked for."""

    @property
    def length_s(self) -> float:
        return self.end_s - self.start_s


@dataclass(frozen=True, eq=False)
class Tags:
    """Scores of a recording."""

    classes: ClassList
    scores: Float32[np.ndarray, " classes"]
    """Highest score of a window for each class, near [0, 1]."""
    window_starts_s: Float64[np.ndarray, " windows"]
    window_ends_s: Float64[np.ndarray, " windows"]
    window_scores: Float32[np.ndarray, "windows classes"]
    frame_s: float
    """Length of a frame in seconds; frame i begins at i times that."""
    frame_scores: Float32[np.ndarray, "frames classes"]
    """Score of each frame by itself, near [0, 1]; their mean where windows overlap."""
    embedding: Float32[np.ndarray, " size"] | None = None
    """Mean of the windows' embeddings, weighted by their lengths; None if not asked for."""
    window_embeddings: Float32[np.ndarray, "windows size"] | None = None
    thresholds: Float32[np.ndarray, " classes"] | None = None
    """Score from which each class is present; None if the model has no thresholds."""
    flags: dict[str, str] = field(default_factory=dict)
    """What is odd about the audio: flag, one word, and detail."""

    @property
    def duration_s(self) -> float:
        return float(self.window_ends_s[-1])

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """Names and scores of the classes that score highest."""
        return self._named(np.argsort(-self.scores, kind="stable")[:count])

    def present(self) -> list[tuple[str, float]]:
        """Names and scores of the classes whose score is at least their threshold, the highest
        score first; `ConfigError` if the model has no thresholds."""
        if self.thresholds is None:
            raise ConfigError(
                "the model has no thresholds",
                where="tags.present()",
                fix="fit them: psla-wds thresholds SCORES.npz --output T.json, then "
                "psla-wds export MODEL --thresholds T.json --output FOLDER; "
                "or set tagger.thresholds",
            )
        order = np.argsort(-self.scores, kind="stable")
        return self._named(order[(self.scores >= self.thresholds)[order]])

    def _named(self, labels: Int64[np.ndarray, " labels"]) -> list[tuple[str, float]]:
        return [(self.classes.names[label], float(self.scores[label])) for label in labels]

    def events(self, config: EventConfig | None = None) -> list[Event]:
        """Events by start; `event.label` is a position in `classes`."""
        finder = EventFinder(config or EventConfig(), self.frame_s, self.thresholds)
        return in_order(finder.add(self.frame_scores) + finder.finish(self.duration_s))


class Tagger:
    """A model, or an ensemble whose scores are averaged, with the front end of its training."""

    def __init__(
        self,
        members: Sequence[Checkpoint],
        *,
        windows: WindowConfig | None = None,
        batch_size: int | None = None,
        device: str | torch.device | None = None,
        precision: Precision = "float32",
        thresholds: Float32[np.ndarray, " classes"] | None = None,
    ) -> None:
        """`Tagger.load` describes the arguments; `members` must share classes and features.

        Args:
            thresholds: score from which each class is present.
        """
        check_members(members, where="members")
        if batch_size is not None and batch_size < 1:
            raise ConfigError(
                f"batch_size={batch_size} is too small",
                where="batch_size",
                fix="set it to 1 or more",
            )
        self.device = _device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        check_precision(precision, self.device)
        self.classes = members[0].classes
        self.features = members[0].features
        self.thresholds = thresholds
        """Score from which each class is present; None: not known. It can be set."""
        model = WaveformModel(members, precision)
        self.layout = window_layout(windows or WindowConfig(), model)
        self.embedding_size = model.embedding_size
        """Numbers of an embedding: the features of the trunk, in an ensemble those of all."""
        if self.device.type == "cpu" and precision == "float32":  # in others, rounding would differ
            model.simplify()
        model = model.to(self.device).to(memory_format=torch.channels_last)
        self._forward: OnCores | OnnxForward = OnCores(model, self.device)
        on_cpu = min(self._forward.threads, MOST_WINDOWS)
        self._batch_size = batch_size or (on_cpu if self.device.type == "cpu" else GPU_BATCH_SIZE)
        keep_freed_memory()

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        classes: ClassList | None = None,
        windows: WindowConfig | None = None,
        batch_size: int | None = None,
        device: str | torch.device | None = None,
        precision: Precision = "float32",
    ) -> "Tagger":
        """The model in a run's folder (its last epoch), a checkpoint, an average, an exported
        folder, or a checkpoint of the paper's authors.

        Args:
            classes: class list for a checkpoint of the authors, which does not name its classes
                (`psla_wds.labels.class_list.read_class_list`).
            windows: length and overlap of the windows; default `WindowConfig()`.
            batch_size: windows of a forward pass; default 8 on a GPU, one for each core on a CPU.
            device: device of the model; default the GPU if there is one.
            precision: precision of the trunk; features and head are float32.

        Raises `CheckpointError` if there is no model, or if it is damaged.
        """
        members = load_members(Path(path), classes=classes)
        return cls(
            members,
            windows=windows,
            batch_size=batch_size,
            device=device,
            precision=precision,
            thresholds=thresholds_of(Path(path)),
        )

    def use_onnx_runtime(self, folder: str | Path) -> None:
        """Compute by the `model.onnx` of the exported folder that was loaded, on the CPU.

        Raises `ConfigError` if there is none, if ONNX Runtime is not installed, or if the tagger
        is on another device; `CheckpointError` if the file cannot be used.
        """
        if self.device.type != "cpu":
            raise ConfigError(
                f"ONNX Runtime computes on the CPU here, not on {self.device}",
                where="device",
                fix="set it to cpu",
            )
        self._forward = OnnxForward(Path(folder), self.classes.mids)

    def __call__(self, waveform: Any, sample_rate_hz: int | float) -> Tags:
        """The scores of a recording of any length.

        Args:
            waveform: samples, or (samples, channels), whose mean is taken: an array or a tensor of
                floats in [-1, 1] or integers at full scale.
            sample_rate_hz: any rate; the waveform is resampled to the model's.

        Raises `AudioError` if there is no sample, or if one is NaN or infinite.
        """
        return next(self.many([waveform], sample_rate_hz))

    def embed(
        self, waveform: Any, sample_rate_hz: int | float, pooling: Pooling = "attention"
    ) -> Tags:
        """The same scores, with `embedding` and `window_embeddings`: the features that the head
        sees, pooled over the frames, as float32 vectors of `embedding_size` numbers.

        Args:
            pooling: `attention` weighs frames as the head does, on average over its heads and
                classes (equally, if it has no attention); `mean` weighs them equally.
        """
        return next(self.many([waveform], sample_rate_hz, pooling))

    def many(
        self,
        waveforms: Iterable[Any],
        sample_rate_hz: int | float,
        pooling: Pooling | None = None,
    ) -> Iterator[Tags]:
        """Scores of several recordings, in their order; their windows share batches.

        Args:
            pooling: pooling of embeddings, as for `embed`; default: there are none.
        """
        noted: list[Notes] = []

        def blocks(waveform: Any) -> Iterator[Block]:
            noted.append(notes := Notes())
            to_hz = self.features.sample_rate_hz
            decoded = decode_array(_as_array(waveform), sample_rate_hz, to_hz=to_hz, notes=notes)
            return self.layout.noting_length(decoded, notes)

        windows: list[WindowTags] = []
        for window in self.stream(map(blocks, waveforms), pooling):
            windows.append(window)
            if window.is_last:
                window_scores = np.stack([w.scores for w in windows])
                yield Tags(
                    classes=self.classes,
                    scores=window_scores.max(axis=0),
                    window_starts_s=np.array([w.start_s for w in windows]),
                    window_ends_s=np.array([w.end_s for w in windows]),
                    window_scores=window_scores,
                    frame_s=self.layout.cell_s,
                    frame_scores=np.concatenate([w.frame_scores for w in windows]),
                    **(_embeddings_of(windows) if pooling else {}),
                    thresholds=self.thresholds,
                    flags=noted[window.recording].flags,
                )
                windows = []

    def stream(
        self, recordings: Iterable[Iterable[Block]], pooling: Pooling | None = None
    ) -> Iterator[WindowTags]:
        """Windows of recordings as they come, in memory that does not grow with their lengths.

        Args:
            recordings: the blocks of each recording, such as `psla_wds.audio.decode.decode` gives:
                one channel at the model's sample rate. No sample means one sample of silence.
            pooling: pooling of embeddings, as for `embed`; default: there are none.
        """
        merger, rate_hz = CellMerger(self.layout, len(self.classes)), self.features.sample_rate_hz
        windows = (
            window
            for number, blocks in enumerate(recordings)
            for window in cut(blocks, self.layout, number)
        )
        while batch := list(islice(windows, self._batch_size)):
            results = zip(batch, *self._results(batch, pooling), strict=True)
            for window, scores, frame_scores, *embeddings in results:
                cells = frame_scores[: self.layout.cells_of(len(window.samples))]
                yield WindowTags(
                    recording=window.recording,
                    start_s=window.start / rate_hz,
                    end_s=window.end / rate_hz,
                    scores=scores,
                    frame_scores=merger.add(cells, is_last=window.is_last),
                    is_last=window.is_last,
                    embedding=embeddings[0] if pooling else None,
                )

    def _results(self, batch: list[Window], pooling: Pooling | None) -> list[np.ndarray]:
        """Scores, frame scores, and with `pooling` embeddings of each window."""
        lengths = [len(window.samples) for window in batch]
        waveforms = np.zeros((len(batch), max(lengths)), np.float32)
        for row, window in zip(waveforms, batch, strict=True):
            row[: len(window.samples)] = window.samples
        results = self._forward(
            torch.from_numpy(waveforms).to(self.device),
            torch.tensor(lengths, device=self.device),
            pooling=pooling,
        )
        if not results[0].isfinite().all():
            raise CheckpointError(
                "some scores of the model are not finite",
                where=f"{self.features.num_frames} frames at {self.features.sample_rate_hz} Hz",
                fix="use a checkpoint of an earlier epoch",
            )
        return [result.cpu().numpy() for result in results]


def _embeddings_of(windows: list[WindowTags]) -> dict[str, Float32[np.ndarray, "..."]]:
    """Embeddings of a recording and of its windows, as fields of `Tags`."""
    mean, embeddings = EmbeddingMean(), []
    for window in windows:
        assert window.embedding is not None
        embeddings.append(window.embedding)
        mean.add(window.embedding, window.length_s)
    return {"embedding": mean.value(), "window_embeddings": np.stack(embeddings)}


def _as_array(waveform: Any) -> np.ndarray:
    if isinstance(waveform, torch.Tensor):
        waveform = waveform.detach().cpu()
        if waveform.dtype == torch.bfloat16:  # NumPy has no such type
            waveform = waveform.float()
    return np.asarray(waveform)


def _device(name: str | torch.device) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(1, device=device).tolist()  # fails where nothing is computed: on meta
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"device {name} cannot be used: {str(error).splitlines()[0]}",
            where="device",
            fix="set it to cpu, or leave it out",
        ) from None
    return device
