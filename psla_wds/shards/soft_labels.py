"""Soft labels: a teacher's highest scores for each clip, as training targets of a student."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float16, Float32, Int64, UInt16


@dataclass(frozen=True)
class SoftLabels:
    """Soft labels of the clips of an index, by row; the scores may be memory-mapped."""

    scores: Float16[np.ndarray, "scored k"]
    """The k highest of each clip that the teacher scored."""
    classes: UInt16[np.ndarray, "scored k"]
    """Class of each score."""
    rows: Int64[np.ndarray, " clips"]
    """Row of each clip in `scores` and `classes`."""
    num_classes: int

    def targets(self, rows: Int64[np.ndarray, " rows"]) -> Float32[np.ndarray, "rows classes"]:
        """Scores cut to [0, 1], as cross-entropy needs them; 0 for classes without one."""
        places = self.rows[rows]
        targets = np.zeros((len(rows), self.num_classes), np.float32)
        scores = self.scores[places].astype(np.float32)
        np.put_along_axis(targets, self.classes[places].astype(np.int64), scores, axis=1)
        return targets.clip(0, 1)

    def select(self, rows: Int64[np.ndarray, " rows"]) -> "SoftLabels":
        """The soft labels of some of the clips."""
        return replace(self, rows=self.rows[rows])
