"""How many windows of the model cover a clip."""

import numpy as np
import pytest

from psla_wds.features.config import FeatureConfig
from psla_wds.features.windows import windows_of

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
