"""The log-mel front end as one DALI graph, for a GPU: encoded audio in, batches for the model out.

It also runs on a CPU, where `psla_wds.features.on_cpu` is faster. It equals
`psla_wds.features.log_mel` up to float32 rounding; a naive DALI chain is wrong by up to 16 nats in
the low mels. It draws no random numbers: all come from the source.
"""

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import Float32, Int32
from nvidia.dali import Pipeline, fn
from nvidia.dali import math as dali_math
from nvidia.dali.data_node import DataNode
from nvidia.dali.types import Constant, DALIDataType

from psla_wds.errors import ConfigError
from psla_wds.features.config import FeatureConfig
from psla_wds.features.encoded_batch import EncodedBatch, UndecodableBatchError
from psla_wds.features.log_mel import PREEMPHASIS, SMALLEST_ENERGY, hann_window, mel_matrix
from psla_wds.sampling.augment import Change

PREFETCH_BATCHES = 2  # in work at a time, including the one that DALI returns next


class FrontEnd:
    """Encoded audio in, normalised log-mel out, in the order of the source.

    `source(iteration)` is called with 0, 1, 2, ..., up to `PREFETCH_BATCHES` ahead of `run`; its
    batch may depend on the iteration only. It raises StopIteration after the last batch. Any other
    exception reaches the caller of `run` unchanged, after the batches before it.

    DALI reads the arrays of a batch in place, long after the source returned them. A source may
    reuse a buffer only once it is garbage collected, which is after `run` has returned the output
    of its batch and has been called again.
    """

    def __init__(
        self,
        feed: "Feed",
        *,
        batch_size: int,
        num_threads: int,
        device: torch.device,
        with_lengths: bool = False,
    ) -> None:
        """A batch of the feed may be smaller than `batch_size`, but not larger.

        Args:
            with_lengths: whether `lengths` is wanted, for which the host waits.
        """
        self._feed, self._device = feed, device
        self._pipeline = Pipeline(
            batch_size=batch_size,
            num_threads=num_threads,
            device_id=_device_id(device),
            prefetch_queue_depth=PREFETCH_BATCHES,
        )
        with self._pipeline:
            stages = graph_stages(feed, device)
            *_, log_mel = stages.values()
            lengths = [_length(stages["decode"])] if with_lengths else []
            self._pipeline.set_outputs(log_mel, *lengths)
        self._pipeline.build()
        self.lengths: list[int] = []
        """Samples of the clips of the last batch, as decoded; empty if they are not wanted."""

    def run(self) -> tuple[Float32[torch.Tensor, "draws frames mels"], EncodedBatch]:
        """The next output and the batch that it comes from. StopIteration after the last one.

        After an `UndecodableBatchError`, the next call returns the batch that follows the bad one.
        """
        self._feed.release()
        self._pipeline.schedule_run()
        try:
            log_mel, *lengths = self._pipeline.outputs(self._consumer_stream())
        except StopIteration:
            raise (self._feed.error or StopIteration) from None
        except (RuntimeError, ValueError, MemoryError) as error:  # as DALI maps those of C++
            raise UndecodableBatchError(self._feed.deliver()) from error
        self.lengths = [int(length) for values in lengths for length in values.as_array()]
        return torch.from_dlpack(log_mel.as_tensor()), self._feed.deliver()

    def _consumer_stream(self) -> torch.cuda.Stream | None:
        # DALI binds the output to this stream: the stream waits for it, but the host does not, and
        # its memory is reused only after the work that is on the stream by then.
        return None if self._device.type == "cpu" else torch.cuda.current_stream(self._device)


class Feed:
    """DALI's callback, and what must outlive its calls."""

    def __init__(
        self,
        source: Callable[[int], EncodedBatch],
        features: FeatureConfig,
        changes: Sequence[Change] = (),
    ) -> None:
        """Clips are rolled or cropped only if `changes` has it, since that costs a copy of each."""
        self._source, self.features, self.changes = source, features, changes
        self._in_work: deque[tuple[EncodedBatch, list[object]]] = deque()
        self._delivered: tuple[EncodedBatch, list[object]] | None = None
        self.error: Exception | None = None

    def __call__(self, iteration: int) -> list[object]:
        try:
            batch = self._source(iteration)
        except StopIteration:
            raise
        except Exception as error:
            # If DALI raised it, it would come before the batches that are still in work.
            self.error = error
            raise StopIteration from None
        draws = batch.draws
        inputs: list[object] = [batch.audio, batch.partner_audio, draws.weights]
        inputs += _mask_regions(draws.masks, self.features)
        inputs += [getattr(draws, change) for change in self.changes]
        self._in_work.append((batch, inputs))
        return inputs

    def deliver(self) -> EncodedBatch:
        """The batch whose output has come; it is held until `release`."""
        self._delivered = self._in_work.popleft()
        return self._delivered[0]

    def release(self) -> None:
        """Drop the batch delivered last."""
        self._delivered = None


def _mask_regions(
    masks: Int32[np.ndarray, "draws 4"], features: FeatureConfig
) -> tuple[Float32[np.ndarray, "draws 4"], Float32[np.ndarray, "draws 4"]]:
    """Anchors and shapes, as (frame, mel) of the frequency mask, then of the time mask."""
    freq_start, freq_width, time_start, time_width = masks.T
    none = np.zeros_like(freq_start)
    anchors = [none, freq_start, time_start, none]
    shapes = [none + features.num_frames, freq_width, time_width, none + features.num_mels]
    return np.stack(anchors, 1).astype(np.float32), np.stack(shapes, 1).astype(np.float32)


def _device_id(device: torch.device) -> int | None:
    if device.type == "cpu":
        return None
    return torch.cuda.current_device() if device.index is None else device.index


def graph_stages(feed: Feed, device: torch.device) -> dict[str, DataNode]:
    """Outputs of the graph's stages, in order; the last is the input of the model."""
    features, num_arrays = feed.features, 3 + len(feed.changes)
    audio, partner_audio, weights, anchors, shapes, *shares = fn.external_source(
        source=feed,
        num_outputs=2 + num_arrays,
        batch=True,
        no_copy=True,
        dtype=[DALIDataType.UINT8] * 2 + [DALIDataType.FLOAT] * num_arrays,
        ndim=1,
    )
    waveform, partner = _decode(audio), _decode(partner_audio)
    stages = {"decode": waveform}
    cropped = partial(_cropped, longest=features.max_clip_samples)
    operators: dict[Change, Callable[..., DataNode]] = {"rolls": _rolled, "crops": cropped}
    for change, share in zip(feed.changes, shares, strict=True):
        change_by = operators[change]
        waveform, partner = change_by(waveform, share[0]), change_by(partner, share[1])
    num_samples = _length(waveform)
    if device.type == "cuda":  # the decoder has no GPU version
        waveform, partner, weights = waveform.gpu(), partner.gpu(), weights.gpu()
    mixed = stages["mixup"] = _mixup(waveform, partner, weights, num_samples)
    power = stages["frames, power"] = _power(_frames(mixed, num_samples, features), features)
    log_mel = stages["mel, log"] = _log_mel(power, features, device)
    fitted = _first(log_mel, features.num_frames)
    masked = fn.erase(fitted, anchor=anchors, shape=shapes, axes=[0, 1], fill_value=0.0)
    stages["masks, normalise"] = (masked - features.mean) * (1.0 / features.std)
    return stages


def _decode(audio: DataNode) -> DataNode:
    return fn.decoders.audio(audio, dtype=DALIDataType.FLOAT, downmix=True)[0]


def _rolled(waveform: DataNode, share: DataNode) -> DataNode:
    """The waveform from `share` of its length on, followed by the part before that."""
    length = _length(waveform)
    start = _first_sample(share, length)
    return fn.slice(fn.cat(waveform, waveform), start=start, shape=length, axes=[0])


def _cropped(waveform: DataNode, share: DataNode, longest: int) -> DataNode:
    """The part of `longest` samples at `share` of a longer waveform; a shorter one as it is."""
    length = _length(waveform)
    kept = dali_math.min(length, longest)
    return fn.slice(waveform, start=_first_sample(share, length - kept + 1), shape=kept, axes=[0])


def _first_sample(share: DataNode, num_places: DataNode) -> DataNode:
    """As `augment.first_sample`."""
    start = fn.cast(dali_math.floor(share * num_places), dtype=DALIDataType.INT32)
    return dali_math.min(start, num_places - 1)


def _length(waveform: DataNode) -> DataNode:
    return fn.cast(waveform.shape()[0], dtype=DALIDataType.INT32)


def _mixup(
    waveform: DataNode, partner: DataNode, weights: DataNode, num_samples: DataNode
) -> DataNode:
    """The weighted sum of a clip and its partner, which is cut or padded to the clip's length.

    As in PSLA's code, partner, clip and sum have their means removed; the clip's mean goes with the
    sum's.
    """
    partner = _first(_centred(partner), num_samples)
    return _centred(waveform * weights[0] + partner * weights[1])


def _centred(signal: DataNode, axis: int = 0) -> DataNode:
    return signal - fn.reductions.mean(signal, axes=[axis], keep_dims=True)


def _first(signal: DataNode, length: DataNode | int) -> DataNode:
    """The first `length` entries, padded with zeros if there are fewer."""
    return fn.slice(signal, start=0, shape=length, axes=[0], out_of_bounds_policy="pad")


def _frames(waveform: DataNode, num_samples: DataNode, features: FeatureConfig) -> DataNode:
    """Overlapping frames (frames, window), at least one and at most `num_frames`.

    DALI has no such operator: the waveform is cut into rows of one hop, and a frame is a row and
    the rows after it. A clip shorter than a window is padded to one frame, since no frame at all
    would crash the process in `preemphasis_filter`.
    """
    window, hop = features.window_samples, features.hop_samples
    rows_per_frame = -(-window // hop)
    used_samples = dali_math.min(num_samples, features.max_clip_samples)
    num_frames = dali_math.max((used_samples - window) // hop + 1, 1)
    num_rows = num_frames + (rows_per_frame - 1)
    rows = fn.reshape(_first(waveform, num_rows * hop), shape=[-1, hop])
    widths = [min(hop, window - row * hop) for row in range(rows_per_frame)]
    parts = [
        fn.slice(rows, start=[row, 0], shape=fn.stack(num_frames, Constant(width)), axes=[0, 1])
        for row, width in enumerate(widths)
    ]
    return fn.cat(*parts, axis=1)


def _power(frames: DataNode, features: FeatureConfig) -> DataNode:
    """Kaldi's power spectrum (frames, bins): each frame without its mean, pre-emphasised, windowed.

    The frames are laid end to end, so a step of one window takes them one by one. Pre-emphasis
    leaks into the first sample of each frame, where the symmetric window is zero.
    """
    end_to_end = fn.reshape(_centred(frames, axis=1), shape=[-1])
    return fn.spectrogram(
        fn.preemphasis_filter(end_to_end, preemph_coeff=PREEMPHASIS, border="clamp"),
        nfft=features.fft_size,
        window_length=features.window_samples,
        window_step=features.window_samples,
        window_fn=hann_window(features).tolist(),
        center_windows=False,
        power=2,
        layout="tf",
    )


def _log_mel(power: DataNode, features: FeatureConfig, device: torch.device) -> DataNode:
    """Kaldi's filters by two passes of DALI's: one for the even filters, one for the odd."""

    def constant(values: np.ndarray) -> DataNode:
        backend = "gpu" if device.type == "cuda" else "cpu"
        return Constant(values.astype(np.float32), device=backend)

    weights = mel_pre_weights(mel_matrix(features).numpy(), _dali_mel_matrix(features))
    odd = np.arange(features.num_mels) % 2
    even_mels = _dali_mel(power * constant(weights[0]), features) * constant(1 - odd)
    odd_mels = _dali_mel(power * constant(weights[1]), features) * constant(odd)
    return dali_math.log(dali_math.max(even_mels + odd_mels, SMALLEST_ENERGY))


def _dali_mel(power: DataNode, features: FeatureConfig) -> DataNode:
    return fn.mel_filter_bank(
        fn.reshape(power, layout="tf"),  # arithmetic drops the layout
        sample_rate=features.sample_rate_hz,
        nfilter=features.num_mels,
        freq_low=features.low_hz,
        freq_high=features.high_hz,
        mel_formula="htk",
        normalize=False,
    )


def mel_pre_weights(
    kaldi: Float32[np.ndarray, "mels bins"], dali: Float32[np.ndarray, "mels bins"]
) -> Float32[np.ndarray, "2 bins"]:
    """Factors of the bins, for the even and the odd filters, that turn DALI's matrix into Kaldi's.

    Both have triangles with the same corners, but DALI's are linear in Hz and Kaldi's in mel. A bin
    feeds at most two neighbouring filters, so each parity needs one factor per bin.
    """
    weights = np.zeros((2, kaldi.shape[1]), np.float32)
    for mel, kaldi_bin in np.argwhere((kaldi > 0) & (dali > 0)):
        weights[mel % 2, kaldi_bin] = kaldi[mel, kaldi_bin] / dali[mel, kaldi_bin]
    parity = np.arange(len(kaldi)) % 2
    if not np.allclose(dali * weights[parity], kaldi, rtol=0, atol=1e-6):
        raise ConfigError(
            "DALI's mel filters cannot match Kaldi's: a frequency bin feeds too many of them",
            where="features",
            fix="use fewer mels or another range, for instance --features.num-mels 64",
        )
    return weights


def _dali_mel_matrix(features: FeatureConfig) -> Float32[np.ndarray, "mels bins"]:
    """The matrix that `mel_filter_bank` applies: its response to an identity matrix."""
    pipeline = Pipeline(batch_size=1, num_threads=1, device_id=None)
    with pipeline:
        identity = Constant(np.eye(features.num_bins, dtype=np.float32), device="cpu")
        pipeline.set_outputs(_dali_mel(identity, features))
    (response,) = pipeline.run()
    return np.array(response.at(0)).T
