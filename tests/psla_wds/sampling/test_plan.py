"""Which clips an epoch draws: the random stream, the weights, and the three ways to sample."""

from bisect import bisect_right
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from label_index import index_with_labels
from scipy.stats import chisquare

from psla_wds.errors import ConfigError
from psla_wds.sampling.config import SamplerConfig, Sampling
from psla_wds.sampling.plan import (
    EpochPlan,
    clip_weights,
    draw_rows,
    plan_epoch,
    raw_bits,
    systematic_rows,
    to_uniform,
)

SKEWED = index_with_labels([[0]] * 400 + [[1]] * 40 + [[2]] * 4)
WORD = 2**64

# philox4x64, 10 rounds, of the file kat_vectors of Random123: counter, key, and the four words.
KNOWN_ANSWERS = [
    (
        (WORD - 1,) * 4,
        (WORD - 1,) * 2,
        (0x87B092C3013FE90B, 0x438C3C67BE8D0224, 0x9CC7D7C69CD777B6, 0xA09CAEBF594F0BA0),
    ),
    (
        (0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89),
        (0x452821E638D01377, 0xBE5466CF34E90C6C),
        (0xA528F45403E61D95, 0x38C72DBD566E9788, 0xA5A1610E72FD18B5, 0x57BD43B5E52B7FE6),
    ),
]


def philox(counter: tuple[int, ...], key: tuple[int, int]) -> tuple[int, ...]:
    """Philox4x64-10 as its paper defines it (Salmon et al., 2011, section 4.3)."""
    c, k = counter, key
    for _ in range(10):
        left, right = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
        c = (right // WORD ^ c[1] ^ k[0], right % WORD, left // WORD ^ c[3] ^ k[1], left % WORD)
        k = ((k[0] + 0x9E3779B97F4A7C15) % WORD, (k[1] + 0xBB67AE8584CAA73B) % WORD)
    return c


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN_ANSWERS, ids=["ones", "pi"])
def test_philox_gives_the_published_words(counter, key, words):
    assert philox(counter, key) == words
    before = sum(word * WORD**i for i, word in enumerate(counter)) - 1  # NumPy counts up first
    parts = np.array([before // WORD**i % WORD for i in range(4)], np.uint64)
    numpys = np.random.Philox(key=np.array(key, np.uint64), counter=parts)
    assert tuple(numpys.random_raw(4).tolist()) == words


@given(
    seed=st.integers(0, WORD - 1),
    epoch=st.integers(1, 999),
    purpose=st.integers(0, 3),
    start=st.integers(0, 2**40),
    count=st.integers(0, 40),
)
def test_any_part_of_the_stream_is_philox(seed, epoch, purpose, start, count):
    places = range(start, start + count)
    expected = [philox((i // 4 + 1, 0, 0, 0), (seed, epoch * 256 + purpose))[i % 4] for i in places]
    assert raw_bits(seed, epoch, purpose, start, count).tolist() == expected


def test_weights_are_sums_of_inverse_class_counts():
    few = index_with_labels([[0], [0, 1], [0, 1], [0, 2], []])  # 4, 2, 1 clips; class 3 has none
    expected = [1 / 4, 1 / 4 + 1 / 2, 1 / 4 + 1 / 2, 1 / 4 + 1, 0]
    assert clip_weights(few) == pytest.approx(expected)


def test_counts_of_draws_fit_their_weights():
    weights = np.array([1.0, 2.0, 4.0, 0.5, 0.0, 3.0])
    rows = draw_rows(weights, to_uniform(raw_bits(0, 1, 0, 0, 200_000)))
    counts, drawn = np.bincount(rows, minlength=6), weights > 0
    expected = weights[drawn] / weights.sum() * 200_000
    assert counts[4] == 0 and chisquare(counts[drawn], expected).pvalue > 1e-4


@given(
    st.lists(st.floats(0, 1e6), min_size=1, max_size=30).filter(lambda w: sum(w) > 0),
    st.lists(st.floats(0, 1, exclude_max=True)),
)
def test_a_number_picks_the_row_in_whose_share_it_lies(weights, uniform):
    uniform = [0.0, 2.0**-53, 1 - 2.0**-53, *uniform]
    ends = list(accumulate(weights))
    # What rounds up to the total belongs to the last row that has a weight.
    last = max(row for row, weight in enumerate(weights) if ends[row] > ends[row - 1] or not row)
    expected = [min(bisect_right(ends, number * ends[-1]), last) for number in uniform]
    rows = draw_rows(np.array(weights), np.array(uniform))
    assert rows.tolist() == expected
    assert all(weights[row] > 0 for row in rows)


def plan(sampling: Sampling, seed: int, epoch: int, num_draws: int | None = None) -> EpochPlan:
    config = SamplerConfig(sampling=sampling, draws_per_epoch=num_draws)
    return plan_epoch(SKEWED, config, seed=seed, epoch=epoch)


WEIGHTS = st.lists(
    st.one_of(st.just(0.0), st.floats(1e-9, 1e-6), st.floats(0.1, 10), st.floats(1e6, 1e9)),
    min_size=1,
    max_size=30,
).filter(any)


@given(WEIGHTS, st.integers(1, 300), st.floats(0, 1, exclude_max=True))
def test_systematic_counts_are_within_one_of_expectation(weights, num_draws, offset):
    rows = systematic_rows(np.array(weights), num_draws, offset=offset)
    counts = np.bincount(rows, minlength=len(weights))
    expected = np.array(weights) / sum(weights) * num_draws
    assert len(rows) == num_draws and not counts[expected == 0].any()
    assert (np.abs(counts - expected) < 1 + 1e-9).all()


@pytest.mark.parametrize("sampling", ["balanced", "systematic", "shuffle"])
def test_each_epoch_of_each_seed_has_an_order_of_its_own(sampling: Sampling):
    num_draws = None if sampling == "shuffle" else 30_000
    rows = plan(sampling, 0, 1, num_draws).rows
    if sampling == "shuffle":
        assert sorted(rows) == list(range(len(SKEWED)))
    else:
        drawn = np.bincount([SKEWED.labels(row)[0] for row in rows])
        assert drawn == pytest.approx([10_000] * 3, rel=0.03)
    plans = [plan(sampling, *key, num_draws) for key in [(0, 1), (0, 2), (1, 1), (0, 1)]]
    assert len({one.fingerprint() for one in plans}) == 3
    assert plans[0].fingerprint() == plans[3].fingerprint()
    limit = 4.5 / len(plans[0].rows) ** 0.5
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert abs(np.corrcoef(plans[one].rows, plans[other].rows)[0, 1]) < limit
    for rows in (one.rows for one in plans):
        assert abs(np.corrcoef(np.arange(len(rows)), rows)[0, 1]) < limit
        assert abs(np.corrcoef(rows[1:], rows[:-1])[0, 1]) < limit


def test_a_shuffled_epoch_has_a_fixed_number_of_draws():
    with pytest.raises(ConfigError, match="not a number of draws"):
        SamplerConfig(sampling="shuffle", draws_per_epoch=10)


@pytest.mark.parametrize("sampling", ["balanced", "systematic"])
def test_clips_without_labels_can_only_be_shuffled(sampling: Sampling):
    bare = index_with_labels([[], [], []])
    with pytest.raises(ConfigError, match="no clip has labels"):
        plan_epoch(bare, SamplerConfig(sampling=sampling), seed=0, epoch=1)
    assert len(plan_epoch(bare, SamplerConfig(sampling="shuffle"), seed=0, epoch=1).rows) == 3
