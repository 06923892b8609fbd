"""What each rank draws at each iteration: the same global batches whatever their number."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psla_wds import SamplerConfig, WaveformConfig
from psla_wds.errors import ConfigError
from psla_wds.sampling.augment import Draws
from psla_wds.sampling.schedule import BatchLayout, EvaluationSchedule, TrainingSchedule
from psla_wds.shards.index import ShardIndex
from psla_wds.shards.index_files import read_index

BATCH_SIZE, DRAWS = 12, 50
SETTINGS = WaveformConfig(sampler=SamplerConfig(draws_per_epoch=DRAWS))


@pytest.fixture(scope="module")
def index(shards: Path) -> ShardIndex:
    return read_index(shards)


def schedule(index: ShardIndex, *, first_step: int = 0, **layout: int) -> TrainingSchedule:
    batches = BatchLayout(batch_size=BATCH_SIZE, **layout)
    return TrainingSchedule(index, SETTINGS, batches, seed=5, first_step=first_step)


def values(parts: list[Draws]) -> list[tuple]:
    """The draws of all parts, one after another, as comparable values."""
    names = ("rows", "partners", "lam", "masks", "crops")
    columns = [np.concatenate([getattr(part, n) for part in parts]).tolist() for n in names]
    return list(zip(*map(list, columns), strict=True))


@pytest.mark.parametrize(
    ("world_size", "accumulate"),
    [(2, 1), (12, 1), (1, 2), (3, 4)],
)
def test_ranks_and_passes_have_the_same_batches(
    index: ShardIndex, world_size: int, accumulate: int
):
    alone = schedule(index)
    ranks = [
        schedule(index, rank=rank, world_size=world_size, accumulate=accumulate)
        for rank in range(world_size)
    ]
    assert {rank.steps_per_epoch for rank in ranks} == {alone.steps_per_epoch} == {50 // 12}
    assert values([alone(0)]) != values([alone(4)])  # the same step of the next epoch
    for step in range(10):  # over two epochs
        passes = range(step * accumulate, (step + 1) * accumulate)
        parts = [rank(iteration) for rank in ranks for iteration in passes]
        assert values(parts) == values([alone(step)])
        of_step = [draws for rank in ranks for draws in rank.draws_of_step(step + 1)]
        assert values(of_step) == values(parts)


@given(st.integers(0, 40), st.sampled_from([1, 2, 3, 4]))
def test_a_run_that_resumes_draws_what_was_left(index: ShardIndex, stopped_at: int, ranks: int):
    whole = schedule(index)
    resumed = [
        schedule(index, first_step=stopped_at, rank=r, world_size=ranks) for r in range(ranks)
    ]
    for step in range(3):
        parts = [rank(step) for rank in resumed]
        assert values(parts) == values([whole(stopped_at + step)])
        of_step = [rank.draws_of_step(stopped_at + step + 1)[0] for rank in resumed]
        assert values(of_step) == values(parts)


def evaluated(evaluation: EvaluationSchedule) -> list[tuple[int, float]]:
    """Row and place of each window that a rank scores, in its order."""
    found, iteration = [], 0
    while (draws := evaluation(iteration)) is not None:
        assert not draws.mixed.any() and not draws.masks.any()
        assert len(draws.rows) <= evaluation.clips_per_pass
        found += zip(draws.rows.tolist(), draws.crops[:, 0].tolist(), strict=True)
        iteration += 1
    return found


@given(st.integers(1, 9), st.integers(1, 9), st.booleans())
def test_evaluation_reads_every_window_once(
    index: ShardIndex, ranks: int, clips_per_pass: int, several: bool
):
    counts = np.random.default_rng(ranks).integers(1, 5, len(index))
    windows = []
    for rank in range(ranks):
        layout = BatchLayout(batch_size=ranks * clips_per_pass, rank=rank, world_size=ranks)
        found = evaluated(EvaluationSchedule(index, layout, counts if several else None))
        assert found == sorted(found)  # windows of a clip follow each other on one rank
        windows += found
        if not several:
            steps = range(0, len(index), layout.batch_size)
            slices = [layout.positions(step, 0, len(index)) for step in range(len(steps))]
            assert [row for row, _ in found] == [row for part in slices for row in range(*part)]
    expected = [
        (row, pytest.approx(place))
        for row, count in enumerate(counts if several else np.ones_like(counts))
        for place in (np.linspace(0, 1, count) if count > 1 else [0.0])
    ]
    assert sorted(windows) == expected


@pytest.mark.parametrize(
    ("batch_size", "world_size", "accumulate", "sizes"),
    [(3, 8, 1, "8"), (100, 8, 2, "96 or 112")],
)
def test_a_batch_that_cannot_be_shared_offers_others(
    batch_size: int, world_size: int, accumulate: int, sizes: str
):
    with pytest.raises(ConfigError, match=f"set --batch-size {sizes}$"):
        BatchLayout(batch_size=batch_size, world_size=world_size, accumulate=accumulate)


@pytest.mark.parametrize(
    ("batch_size", "first_step", "words"), [(51, 0, "at most 50"), (12, -1, "first_step=-1")]
)
def test_a_run_without_one_step_is_refused(
    index: ShardIndex, batch_size: int, first_step: int, words: str
):
    layout = BatchLayout(batch_size=batch_size)
    with pytest.raises(ConfigError, match=words):
        TrainingSchedule(index, SETTINGS, layout, seed=0, first_step=first_step)
