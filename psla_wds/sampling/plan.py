"""The epoch plan: which clip is drawn at which step. A pure function without state.

Global batch b of an epoch is `rows[b * batch_size : (b + 1) * batch_size]`, and each rank takes its
slice of it. So batches do not depend on the number of ranks, and a run resumes by its step number.
All randomness comes from Philox, a counter-based generator, keyed by (seed, epoch, purpose).
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64, UInt64

from psla_wds.errors import ConfigError
from psla_wds.sampling.config import SamplerConfig
from psla_wds.shards.index import ShardIndex

PURPOSE_DRAWS = 0
PURPOSE_AUGMENT = 1
PURPOSE_ORDER = 2
PURPOSE_WAVEFORM = 3
PURPOSE_CROP = 4

DRAWS_AT_ONCE = 2**17
"""Draws looked up in one go: few enough for the processor's caches."""


@dataclass(frozen=True)
class EpochPlan:
    """The clips of an epoch in the order in which they are drawn."""

    rows: Int64[np.ndarray, " draws"]
    seed: int
    epoch: int

    def fingerprint(self) -> str:
        """Digest of the plan, to compare it between ranks and after a resume."""
        return hashlib.blake2b(
            self.rows.astype("<i8").tobytes() + f"{self.seed} {self.epoch}".encode(), digest_size=8
        ).hexdigest()


def plan_epoch(
    index: ShardIndex,
    config: SamplerConfig,
    *,
    seed: int,
    epoch: int,
    weights: Float64[np.ndarray, " clips"] | None = None,
) -> EpochPlan:
    """The plan of training epoch `epoch`, counted from 1.

    balanced: independent draws in proportion to the weights, with replacement.
    systematic: draws at equal distances along the weights from a random start, in random order.
    shuffle: a random order of all clips.

    Args:
        weights: `clip_weights(index)`, computed here by default.

    Raises `ConfigError` if draws go by weight and no clip has labels.
    """
    num_draws = config.num_draws(len(index))
    if config.sampling == "shuffle":
        order = np.argsort(raw_bits(seed, epoch, PURPOSE_DRAWS, 0, num_draws), kind="stable")
        return EpochPlan(order, seed, epoch)
    if not len(index.label_values):
        raise ConfigError(
            "no clip has labels, so draws cannot be balanced",
            where="sampler",
            fix="set --sampler.sampling shuffle, or label the clips",
        )
    weights = clip_weights(index) if weights is None else weights
    if config.sampling == "balanced":
        uniform = to_uniform(raw_bits(seed, epoch, PURPOSE_DRAWS, 0, num_draws))
        return EpochPlan(draw_rows(weights, uniform), seed, epoch)
    offset = to_uniform(raw_bits(seed, epoch, PURPOSE_DRAWS, 0, 1)).item()
    order = np.argsort(raw_bits(seed, epoch, PURPOSE_ORDER, 0, num_draws), kind="stable")
    return EpochPlan(systematic_rows(weights, num_draws, offset=offset)[order], seed, epoch)


def clip_weights(index: ShardIndex) -> Float64[np.ndarray, " clips"]:
    """Weight of each clip: the sum over its classes of 1 / clips of that class (PSLA algorithm 1).

    The official code uses 1000 / (count + 0.01), which differs in scale, and by 1e-4 for a class of
    100 clips.
    """
    counts = index.class_counts()
    per_class = np.divide(1.0, counts, out=np.zeros(len(counts)), where=counts > 0)
    sums = np.concatenate([[0.0], np.cumsum(per_class[index.label_values])])
    return np.diff(sums[index.label_starts])


def draw_rows(
    weights: Float64[np.ndarray, " clips"], uniform: Float64[np.ndarray, " draws"]
) -> Int64[np.ndarray, " draws"]:
    """The row that each uniform number picks, with replacement, in proportion to the weights.

    Independent draws in the order of their positions: counts are multinomial, and any run of
    consecutive draws is an independent sample, so a batch is a slice.
    """
    ends = np.cumsum(weights)
    rows = np.empty(len(uniform), np.int64)
    # Look-ups in nearly ascending order stay in the cache: in any other they take 4 times as long
    # for 2M clips. Integers of 16 bits are sorted by radix, in linear time.
    order = np.argsort((uniform * 2**16).astype(np.uint16), kind="stable")
    for start in range(0, len(order), DRAWS_AT_ONCE):
        positions = order[start : start + DRAWS_AT_ONCE]
        rows[positions] = _rows_at(ends, uniform[positions])
    return rows


def systematic_rows(
    weights: Float64[np.ndarray, " clips"], num_draws: int, *, offset: float
) -> Int64[np.ndarray, " draws"]:
    """The rows at equal distances along the cumulative weights, in the order of the index.

    With a uniform offset in [0, 1), a clip is drawn as often on average as by independent draws,
    and each time its expectation rounded down or up.
    """
    return _rows_at(np.cumsum(weights), (np.arange(num_draws) + offset) / num_draws)


def _rows_at(
    ends: Float64[np.ndarray, " clips"], places: Float64[np.ndarray, " draws"]
) -> Int64[np.ndarray, " draws"]:
    """Row at each place, where 0 is the beginning and 1 the end of all weights.

    Args:
        ends: cumulative weights.
    """
    # The product can round up to the total, which would pick a row past the end.
    targets = np.minimum(places * ends[-1], np.nextafter(ends[-1], 0))
    return np.searchsorted(ends, targets, side="right")


def raw_bits(
    seed: int, epoch: int, purpose: int, start: int, count: int
) -> UInt64[np.ndarray, " count"]:
    """Words `start` to `start + count` of the stream of (seed, epoch, purpose).

    Philox's raw output is fixed by its definition (Salmon et al., 2011), while NumPy's
    distributions may change between versions. A counter yields four words.
    """
    first_counter, skip = divmod(start, 4)
    key = np.array([seed, (epoch << 8) | purpose], np.uint64)
    counter = np.array([first_counter, 0, 0, 0], np.uint64)
    return np.random.Philox(key=key, counter=counter).random_raw(skip + count)[skip:]


def to_uniform(bits: UInt64[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
    """Uniform numbers in [0, 1), from the upper 53 bits."""
    return (bits >> np.uint64(11)) * 2.0**-53
