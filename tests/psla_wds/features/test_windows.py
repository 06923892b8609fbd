"""How many windows of the model cover a clip, and what is said where lengths differ."""

import numpy as np
import pytest

from psla_wds.features.config import FeatureConfig
from psla_wds.features.windows import mismatch, mismatch_by_default, windows_of

FEATURES = FeatureConfig(num_frames=100)
WINDOW, HOP = 99 * 160 + 400, 160


@pytest.mark.parametrize(
    ("num_samples", "most", "count"),
    [
        (1, None, 1),
        (WINDOW, None, 1),
        (WINDOW + HOP, None, 1),
        (WINDOW + HOP + 1, None, 2),
        (2 * WINDOW, None, 2),
        (2 * WINDOW + 1, None, 3),
        (10 * WINDOW, 4, 4),
        (10 * WINDOW, 1, 1),
        (2 * WINDOW, 4, 2),
    ],
)
def test_windows_are_as_few_as_cover_the_clip(num_samples: int, most: int | None, count: int):
    assert windows_of(np.array([num_samples]), FEATURES, most=most).tolist() == [count]


def lengths(*seconds: float) -> np.ndarray:
    return np.array([round(16_000 * s) for s in seconds], np.int64)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (
            (5,) * 100,
            "5.0 s (median), the model takes 10.6 s: 53 % padding; --features.num-frames 512",
        ),
        (
            (60,) * 9,
            "training hears a random 10.6 s of each in each epoch, evaluation averages 6 windows",
        ),
        ((5, 5, 5, 40), "5.0 s (median), the model takes 10.6 s: training hears a random"),
        ((5, 5, 5, 40), "evaluation averages 1 to 4 windows"),
        ((1,) * 96 + (10,) * 4, "87 % padding; --features.num-frames 128"),
    ],
)
def test_lengths_that_differ_are_said_in_one_line(seconds: tuple[float, ...], said: str):
    line = mismatch(lengths(*seconds), FeatureConfig())
    assert line is not None and said in line and "\n" not in line
    by_default = mismatch_by_default(lengths(*seconds), 16_000)
    assert by_default is not None and "models take by default 10.6 s: " in by_default


@pytest.mark.parametrize(
    "seconds", [(), (10,), (9.5,), (12,), (1, 1, 1, 10.2), (10,) * 9 + (20,), (0.01, 10)]
)
def test_nothing_is_said_where_lengths_agree(seconds: tuple[float, ...]):
    assert mismatch(lengths(*seconds), FeatureConfig()) is None


def test_the_frames_that_are_offered_leave_nothing_to_say():
    for seconds in (0.02, 0.5, 2.0, 5.0, 8.0):
        clips = lengths(*[seconds] * 20)
        line = mismatch(clips, FeatureConfig())
        assert line is not None
        frames = int(line.split("--features.num-frames ")[1])
        features = FeatureConfig(num_frames=frames)
        assert features.max_clip_samples >= clips.max() - features.hop_samples
        assert frames == 32 or mismatch(clips, features) is None
