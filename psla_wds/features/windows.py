"""How clips fit the window of a model: windows that cover one, and a line where lengths differ."""

import numpy as np
from jaxtyping import Int64

from psla_wds.features.config import FeatureConfig

NEAR = 0.15
"""Share of padding, or of audio beyond the window, up to which lengths agree."""
FRAMES_STEP = 32
"""Stride of the trunks: a number of frames is a multiple of it."""
COVERED = 95
"""Percentage of the clips that `frames_for` covers."""
PADDING = "{padding} % padding; --features.num-frames {frames}"
"""The rest of the line for clips that are shorter than the window."""
HEARD = "training hears a random {window_s:.1f} s of each in each epoch"
SCORED = "evaluation averages {windows} windows"
"""The same for longer clips, which training crops at random."""


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


def frames_for(num_samples: Int64[np.ndarray, " clips"], features: FeatureConfig) -> int:
    """Frames, a multiple of the stride, that cover all but the longest clips."""
    longest = float(np.percentile(num_samples, COVERED, method="higher"))
    frames = max(1, int(longest - features.window_samples) // features.hop_samples + 1)
    return -(-frames // FRAMES_STEP) * FRAMES_STEP


def mismatch(
    num_samples: Int64[np.ndarray, " clips"],
    features: FeatureConfig,
    *,
    shorter: str = PADDING,
    longer: str = f"{HEARD}, {SCORED}",
    model: str = "the model takes",
) -> str | None:
    """One line on clips that are much shorter or longer than the window; None if they are not.

    Args:
        shorter: end of the line for shorter clips, a format string with `padding` and `frames`.
        longer: the same for longer ones, with `window_s`, `windows` (as many as cover a clip) and
            `unheard`, the percentage of the audio beyond the first window.
    """
    if not len(num_samples):
        return None
    window = features.max_clip_samples
    heard = np.minimum(num_samples, window)
    padding, unheard = 1 - heard.mean() / window, 1 - heard.sum() / max(num_samples.sum(), 1)
    frames = frames_for(num_samples, features)
    if unheard > NEAR:
        rest = longer
    elif padding > NEAR and frames < (1 - NEAR) * features.num_frames:
        rest = shorter
    else:
        return None
    window_s, counts = window / features.sample_rate_hz, windows_of(num_samples, features)
    rest = rest.format(
        padding=round(100 * padding),
        unheard=round(100 * unheard),
        frames=frames,
        window_s=window_s,
        windows=" to ".join(str(count) for count in sorted({counts.min(), counts.max()})),
    )
    median_s = np.median(num_samples) / features.sample_rate_hz
    return f"clips have {median_s:.1f} s (median), {model} {window_s:.1f} s: {rest}"


def mismatch_by_default(
    num_samples: Int64[np.ndarray, " clips"], sample_rate_hz: int
) -> str | None:
    """The line for the window that recipes have by default, where no model is known."""
    features = FeatureConfig(sample_rate_hz=sample_rate_hz, high_hz=sample_rate_hz / 2)
    return mismatch(num_samples, features, model="models take by default")
