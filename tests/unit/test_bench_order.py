"""The simulation of storage, on cases that can be worked by hand."""

import numpy as np
import pytest

from benchmarks.bench_order import Throttled, compare_orders, layout, orders_of
from benchmarks.order_models import (
    GAP_BYTES,
    MAX_REQUEST_BYTES,
    Reads,
    Storage,
    duplicates,
    in_order,
    merged,
    read_time_s,
    shard_order,
    whole_shards,
)


def reads(*ranges: tuple[int, int, int]) -> Reads:
    return Reads(*np.array(ranges, np.int64).T.copy())


FOUR = reads((0, 0, 100), (0, 500, 100), (1, 0, 100), (1, 900, 100))


@pytest.mark.parametrize(
    ("concurrent", "seconds"),
    [
        (1, 4 * (1 + 0.5)),  # latency and transfer of each, one after another
        (2, 3.5),  # two wait together and arrive at 1.5 and 2; the next begin then
        (4, 1 + 4 * 0.5),  # all wait together, and share the link
        (64, 1 + 4 * 0.5),
    ],
)
def test_a_store_takes_latency_and_a_shared_link(concurrent: int, seconds: float):
    storage = Storage("store", latency_s=1.0, bandwidth=200, concurrent=concurrent)
    assert read_time_s(FOUR, storage) == pytest.approx(seconds)


def test_a_head_seeks_unless_a_read_goes_on_where_one_ended():
    disk = Storage("disk", latency_s=1.0, bandwidth=200, concurrent=1, seeks=True)
    adjacent = reads((0, 0, 100), (0, 100, 100), (1, 200, 100))
    assert read_time_s(adjacent, disk) == pytest.approx(1 + 0.5 + 0.5 + 1 + 0.5)


def test_near_ranges_of_a_shard_are_one_request_up_to_a_size():
    near = reads((0, 0, 10), (0, 10 + GAP_BYTES, 10))
    far = reads((0, 0, 10), (0, 11 + GAP_BYTES, 10))
    other = reads((0, 0, 10), (1, 10, 10))
    back = reads((0, 100, 10), (0, 0, 10))  # where the next pass begins in the same shard
    large = reads((0, 0, MAX_REQUEST_BYTES), (0, MAX_REQUEST_BYTES, 1))

    def requests(ranges: Reads) -> Reads:
        return merged(ranges.shard, ranges.offset, ranges.size)

    assert requests(near).size.tolist() == [20 + GAP_BYTES]
    assert [len(requests(ranges)) for ranges in (far, other, back, large)] == [2] * 4


def test_orders_have_the_same_draws_and_repeats_go_to_different_passes():
    rows = np.array([3, 1, 3, 0, 2, 3, 1, 5])
    shard, offset = np.arange(6) // 2, np.arange(6) % 2 * 100
    for passes in (1, 3):
        order = shard_order(rows, shard, offset, passes)
        assert sorted(order) == sorted(rows)
    assert (np.diff(np.flatnonzero(order == 3)) > 1).all()  # a row of each of three passes
    assert len(in_order(rows, shard, offset, np.full(6, 10))) == len(rows)


def test_duplicates_are_counted_within_batches():
    assert duplicates(np.array([1, 1, 2, 3, 4, 5]), window=1, batch_size=3) == 0.5
    assert duplicates(np.array([1, 2, 3, 1, 4, 5]), window=1, batch_size=3) == 0.0


def test_whole_shards_are_read_once():
    requests = whole_shards([MAX_REQUEST_BYTES + 5, 7])
    assert requests.size.tolist() == [MAX_REQUEST_BYTES, 5, 7]
    assert requests.continues().tolist() == [False, True, False]


def test_an_epoch_that_is_staged_pays_its_share_of_the_copy():
    place = layout(100)
    orders = orders_of(np.arange(100), place)
    store = Storage("store", latency_s=0.1, bandwidth=1e9, concurrent=1)
    hours = {r["order"]: r["hours_per_epoch"] for r in compare_orders(orders, store, 100)}
    copy_h = read_time_s(orders["stage"], store) / 3600
    assert hours["stage, 1 epochs"] - hours["stage, 30 epochs"] == pytest.approx(copy_h * 29 / 30)


def test_a_real_read_takes_no_less_than_the_simulation_and_not_much_more():
    storage = Storage("store", latency_s=0.02, bandwidth=1e5, concurrent=2)
    predicted_s = read_time_s(FOUR, storage)
    real_s = Throttled(storage).read_all(FOUR)
    assert predicted_s * 0.98 <= real_s < predicted_s + 1
