"""Forward passes that are divided among cores."""

from collections.abc import Iterator

import pytest
import torch

from psla_wds.runtime.cores import OnCores

CPU = torch.device("cpu")


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def sums(
    rows: torch.Tensor, lengths: torch.Tensor, factor: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    return rows.sum(1) * lengths * factor, rows[:, :1].clone()


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("size", [1, 2, 3, 17, 40])
def test_the_parts_are_those_of_the_batch(size: int):
    rows, lengths = torch.arange(4.0 * size).reshape(size, 4), torch.arange(size)
    forward = OnCores(sums, CPU)
    for settings in ({}, {"factor": 3}):
        computed, whole = forward(rows, lengths, **settings), sums(rows, lengths, **settings)
        for found, expected in zip(computed, whole, strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=0)
    forward.close()


@pytest.mark.usefixtures("two_threads")
def test_each_core_computes_a_part_by_itself():
    seen = []

    def forward(rows: torch.Tensor) -> tuple[torch.Tensor]:
        seen.append((len(rows), torch.get_num_threads(), torch.is_inference_mode_enabled()))
        return (rows,)

    on_cores = OnCores(forward, CPU)
    on_cores(torch.zeros(6, 1))
    assert seen == [(3, 1, True)] * 2
    on_cores(torch.zeros(1, 1))  # nothing to divide: all threads share its operators
    assert seen[2:] == [(1, 2, True)]
    on_cores.close()
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_an_error_of_a_part_is_raised():
    def fail(rows: torch.Tensor) -> tuple[torch.Tensor]:
        raise ValueError(f"{len(rows)} rows")

    with pytest.raises(ValueError, match="2 rows"):
        OnCores(fail, CPU)(torch.zeros(4, 1))
