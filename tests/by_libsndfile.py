"""What libsndfile makes of an audio file, to compare other decoders with."""

import io
from collections.abc import Callable

import numpy as np
import soundfile


def by_libsndfile(encoded: bytes) -> np.ndarray:
    return soundfile.read(io.BytesIO(encoded), dtype="float32", always_2d=True)[0]


def outcome(decode: Callable[[bytes], np.ndarray], encoded: bytes) -> object:
    """The bytes of the samples, or "refused"."""
    try:
        return decode(encoded).tobytes()
    except RuntimeError:
        return "refused"
