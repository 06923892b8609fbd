"""Windows of the model that cover a clip: their number follows from its length alone."""

import numpy as np
from jaxtyping import Int64

from psla_wds.features.config import FeatureConfig


def windows_of(
    num_samples: Int64[np.ndarray, " clips"], features: FeatureConfig, *, most: int | None = None
) -> Int64[np.ndarray, " clips"]:
    """Number of windows of each clip: as few as reach all samples, and at most `most`.

    A clip that is longer than a window by a hop or less has one: no frame is lost.
    """
    window = features.max_clip_samples
    fits = num_samples <= window + features.hop_samples
    counts = np.where(fits, 1, -(-num_samples // window))
    return counts if most is None else np.minimum(counts, most)
