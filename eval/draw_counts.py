"""What a run's plans draw over all of its epochs: how often each class, and which clips never."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from eval.charts import Figure
from eval.class_charts import class_counts_figure, class_draws_figure, unseen_figure
from eval.run_settings import TrainingSet


@dataclass(frozen=True)
class DrawCounts:
    """Counted on the plans themselves, not estimated."""

    of_class: Int64[np.ndarray, " classes"]
    """Draws of clips that carry each class, over all epochs; what is mixed in is not counted."""
    unseen: list[float]
    """Share of the clips that no draw had after 0, 1, 2, ... epochs."""
    unseen_with_partners: list[float]
    """Share of the clips that neither a draw nor mixup had."""


def count_draws(data: TrainingSet) -> DrawCounts:
    """Go through the plans of all epochs."""
    num_clips = len(data.index)
    times = np.zeros(num_clips, np.int64)
    seen = np.zeros(num_clips, bool)
    unseen, with_partners = [1.0], [1.0]
    for rows, partners in data.epochs():
        times += np.bincount(rows, minlength=num_clips)
        seen[rows] = seen[partners] = True
        unseen.append(1 - int(np.count_nonzero(times)) / num_clips)
        with_partners.append(1 - int(np.count_nonzero(seen)) / num_clips)
    index = data.index
    by_label = np.repeat(times, np.diff(index.label_starts))
    # Sums of integers below 2**53 are exact in the float64 of bincount's weights.
    of_class = np.bincount(index.label_values, by_label, len(index.classes)).astype(np.int64)
    return DrawCounts(of_class, unseen, with_partners)


def plan_figures(data: TrainingSet) -> list[Figure]:
    """Clips and draws of every class, and what stays unseen (PSLA figures 4 to 6)."""
    counts, drawn = data.index.class_counts(), count_draws(data)
    settings = data.config
    mixes = settings.augment.mixup_rate > 0
    return [
        class_counts_figure(counts, data.index.classes.names),
        class_draws_figure(
            counts,
            drawn.of_class,
            epochs=settings.epochs,
            sampling=settings.sampler.sampling,
        ),
        unseen_figure(drawn.unseen, drawn.unseen_with_partners if mixes else None),
    ]
