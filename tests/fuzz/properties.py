"""What holds of a file that was changed: it is refused, or it does no harm, in bounded memory."""

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import pytest
from fuzz.tally import TALLY
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

from psla_wds.errors import PslaError

T = TypeVar("T")

PIECE = 1000
"""Most cases of one test: so many end within minutes on a busy machine."""

MEMORY_BYTES = 256 * 2**20
"""What a case may take beside what the process has: far more than any of these files needs, far
less than they claim."""
LONGEST_CASE = timedelta(seconds=20)


class Cases(int):
    """Number of cases of a test, with the seed of their changes."""

    seed = 0

    def __floordiv__(self, parts: int) -> "Cases":
        return seeded(int(self) // parts, self.seed)


def seeded(num_cases: int, seed: int) -> Cases:
    cases = Cases(num_cases)
    cases.seed = seed
    return cases


def tiers(first: int, second: int) -> pytest.MarkDecorator:
    """Numbers of cases: some always, many in the second tier, in pieces with a seed each."""
    marks = [pytest.mark.slow, pytest.mark.timeout(900)]
    pieces = [
        pytest.param(seeded(min(PIECE, second - begin), seed), marks=marks, id=f"{second}-{seed}")
        for seed, begin in enumerate(range(0, second, PIECE), 1)
    ]
    return pytest.mark.parametrize("num_cases", [seeded(first, 0), *pieces])


def fuzz(num_cases: Cases, cases: SearchStrategy[T], check: Callable[[T], None]) -> None:
    """Check so many cases, always the same ones; a case that fails is made small, and shown."""

    @seed(num_cases.seed)
    @settings(
        max_examples=num_cases,
        derandomize=True,
        database=None,
        deadline=LONGEST_CASE,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(cases)
    def each(case: T) -> None:
        TALLY["cases"] += 1
        check(case)

    each()


def accepted(read: Callable[[], T]) -> T | None:
    """What was read; None where that was refused by an error for the user. Any other ends the
    test, and so does more memory than a case may take."""
    try:
        with limited_memory():
            content = read()
        TALLY["taken"] += 1
        return content
    except PslaError as error:
        TALLY["refused"] += 1
        assert "  where: " in str(error) and "  fix:   " in str(error), error
        return None


@contextmanager
def limited_memory() -> Iterator[None]:
    """Asking for much more memory than there is in use fails, though it be never touched."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    in_use = pages * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + MEMORY_BYTES, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


class Trap:
    """Unpickled, it leaves a file: code from the pickle was run."""

    def __init__(self, canary: Path) -> None:
        self._canary = canary

    def __reduce__(self) -> tuple[object, ...]:
        return open, (str(self._canary), "w")
