"""The log-mel front end on a CPU, in NumPy and torch: encoded audio in, batches for the model out.

It needs no DALI, and half of the time that DALI's operators take on a CPU.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from jaxtyping import Float32, UInt8

from psla_wds.audio.pcm import decode_float
from psla_wds.features.config import FeatureConfig
from psla_wds.features.encoded_batch import EncodedBatch, UndecodableBatchError
from psla_wds.features.log_mel import LogMel, fit, normalise
from psla_wds.features.mixup import Mix, mixed, mixes
from psla_wds.sampling.augment import Change

COMPUTED_BATCHES = 2
"""Batches in work at a time, including the one returned next."""


class CpuFrontEnd:
    """Encoded audio in, normalised log-mel out, in the order of the source: `dali.FrontEnd` for a
    CPU, with the same order, reading ahead and errors.

    One thread computes one draw, so that its features depend neither on the rest of the batch nor
    on the number of threads.
    """

    def __init__(
        self,
        source: Callable[[int], EncodedBatch],
        features: FeatureConfig,
        changes: Collection[Change] = (),
        *,
        num_threads: int,
    ) -> None:
        self._source, self._features = source, features
        self._longest = features.max_clip_samples if "crops" in changes else None
        self._log_mel = LogMel(features)
        self._pool = ThreadPoolExecutor(
            num_threads, "features", initializer=torch.set_num_threads, initargs=(1,)
        )
        self._in_work: deque[tuple[EncodedBatch, torch.Tensor, Iterator[int]]] = deque()
        self._iteration = 0
        self._end: Exception | type[StopIteration] | None = None
        """What the source raised; it reaches the caller after the batches before it."""
        self.lengths: list[int] = []
        """Samples of the clips of the last batch, as decoded."""

    def run(self) -> tuple[Float32[torch.Tensor, "draws frames mels"], EncodedBatch]:
        """The next output and the batch that it comes from. StopIteration after the last one.

        After an `UndecodableBatchError`, the next call returns the batch that follows the bad one.
        """
        while len(self._in_work) < COMPUTED_BATCHES and self._end is None:
            self._begin()
        if not self._in_work:
            assert self._end is not None
            raise self._end from None
        batch, features, lengths = self._in_work.popleft()
        try:
            self.lengths = list(lengths)
        except (RuntimeError, ValueError, MemoryError) as error:
            raise UndecodableBatchError(batch) from error
        return features, batch

    def _begin(self) -> None:
        """Give the threads another batch."""
        try:
            batch = self._source(self._iteration)
        except StopIteration:  # only its class, since its traceback would hold this object
            self._end = StopIteration
            return
        except Exception as error:
            self._end = error
            return
        self._iteration += 1
        shape = len(batch.audio), self._features.num_frames, self._features.num_mels
        features = torch.empty(shape)
        draws = (mixes(batch.draws), batch.draws.masks.tolist(), batch.audio, batch.partner_audio)
        lengths = self._pool.map(self._compute, *draws, features)
        self._in_work.append((batch, features, lengths))

    @torch.inference_mode()
    def _compute(
        self,
        mix: Mix,
        mask: list[int],
        audio: UInt8[np.ndarray, " bytes"],
        partner_audio: UInt8[np.ndarray, " partner_bytes"],
        features: Float32[torch.Tensor, "frames mels"],
    ) -> int:
        """Write the features of one draw; the samples of its clip."""
        waveform, _ = decode_float(audio.data)
        partner = decode_float(partner_audio.data)[0] if mix.has_partner else None
        total = mixed(mix, waveform, partner, self._longest)
        log_mel = self._log_mel(torch.from_numpy(total[: self._features.max_clip_samples]))
        fitted = fit(log_mel, self._features.num_frames)
        freq_start, freq_width, time_start, time_width = mask
        fitted[:, freq_start : freq_start + freq_width] = 0.0
        fitted[time_start : time_start + time_width] = 0.0
        features.copy_(normalise(fitted, self._features))
        return len(waveform)
