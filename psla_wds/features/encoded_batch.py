"""A batch between the shards and the front end: its draws, and their encoded clips."""

import io
import wave
from dataclasses import dataclass
from itertools import compress

import numpy as np
from jaxtyping import UInt8

from psla_wds.sampling.augment import Draws


def _null_wav() -> UInt8[np.ndarray, " bytes"]:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, 16_000, 1, "NONE", ""))
        file.writeframes(bytes(2))
    return np.frombuffer(buffer.getvalue(), np.uint8)


NULL_WAV = _null_wav()
"""One sample of silence (46 bytes), which is the partner of a draw that is not mixed."""


@dataclass(frozen=True)
class EncodedBatch:
    """The draws of an iteration and their audio: WAV, FLAC or Ogg files."""

    draws: Draws
    audio: list[UInt8[np.ndarray, " _"]]  # `_`: lengths differ
    """One clip for each draw, at the sample rate of the features."""
    partner_audio: list[UInt8[np.ndarray, " _"]]
    """The clip mixed into each draw; `NULL_WAV` where a draw is not mixed."""

    @classmethod
    def of(cls, draws: Draws, clips: list[UInt8[np.ndarray, " _"]]) -> "EncodedBatch":
        """The batch of these draws, given the audio of `draws.clips`."""
        count = len(draws.rows)
        partner_audio = [NULL_WAV] * count
        for draw, clip in zip(np.flatnonzero(draws.mixed).tolist(), clips[count:], strict=True):
            partner_audio[draw] = clip
        return cls(draws, clips[:count], partner_audio)

    @property
    def clips(self) -> list[tuple[int, UInt8[np.ndarray, " _"]]]:
        """Row and audio of each clip in `draws.clips`."""
        partners = compress(self.partner_audio, self.draws.mixed)
        return list(zip(self.draws.clips.tolist(), [*self.audio, *partners], strict=True))


class UndecodableBatchError(RuntimeError):
    """A batch could not be decoded, usually because of a damaged clip; DALI does not say which."""

    def __init__(self, batch: EncodedBatch) -> None:
        super().__init__("a batch could not be decoded")
        self.batch = batch
