"""What the front end is fed: encoded clips, and all that is random about them."""

import io
import wave
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int32, UInt8


def _null_wav() -> UInt8[np.ndarray, " bytes"]:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, 16_000, 1, "NONE", ""))
        file.writeframes(bytes(2))
    return np.frombuffer(buffer.getvalue(), np.uint8)


NULL_WAV = _null_wav()
"""One sample of silence, 46 bytes: the partner of a draw that is not mixed, decoded for free."""


@dataclass(frozen=True)
class EncodedBatch:
    """What the pipeline is fed for one iteration."""

    audio: list[UInt8[np.ndarray, " _"]]  # `_`: no two need be of one length
    """Encoded files (WAV, FLAC, Ogg) at the sample rate of the features, one per draw."""
    partner_audio: list[UInt8[np.ndarray, " _"]]
    """The clip mixed into each draw; `NULL_WAV` where a draw is not mixed."""
    lam: Float32[np.ndarray, " draws"]
    """Share of the first clip; 1 where a draw is not mixed."""
    masks: Int32[np.ndarray, "draws 4"]
    """freq_start, freq_width, time_start, time_width in mels and frames; width 0: no mask."""
    gains: Float32[np.ndarray, "draws 2"] | None = None
    """Factors of the clip and of its partner; 1 unless given."""
    rolls: Float32[np.ndarray, "draws 2"] | None = None
    """Where the clip and its partner begin, as shares of their lengths; 0 unless given. Read only
    by a front end that was opened for rolls."""

    def weights(self) -> Float32[np.ndarray, "draws 2"]:
        """What to multiply the clip and its partner with: shares of the mix times gains."""
        shares = np.stack([self.lam, 1 - self.lam], axis=1)
        return shares if self.gains is None else shares * self.gains


class UndecodableBatchError(RuntimeError):
    """DALI failed on batch `iteration`, as a rule on a damaged clip; it does not say on which."""

    def __init__(self, iteration: int) -> None:
        super().__init__(f"batch {iteration} could not be decoded")
        self.iteration = iteration
