"""The coverage of intervals is counted rightly, and stands in its table."""

import numpy as np
import pytest

from benchmarks import interval_coverage
from benchmarks.interval_coverage import Args, Design, basic, bias_corrected, draw, percentile
from benchmarks.table_forms import coverages
from psla_wds.errors import ConfigError

TINY = (Design("few", 40, 2, (20, 20)), Design("many", 60, 2, (10, 30)))


def test_kinds_of_intervals_are_what_their_names_say():
    values, resampled = np.array([0.2, 0.5]), np.array([np.arange(41) / 40, np.arange(41) / 40])
    np.testing.assert_allclose(percentile(values, resampled), [[0.025] * 2, [0.975] * 2])
    np.testing.assert_allclose(basic(values, resampled), [[-0.575, 0.025], [0.375, 0.975]])
    low, high = bias_corrected(np.array([0.2, 0.5125]), resampled)
    assert low[1] == pytest.approx(0.025, abs=0.02) and high[1] == pytest.approx(0.975, abs=0.02)
    assert low[0] < 0.001 and 0.5 < high[0] < 0.7  # the value is low among its resamples


def test_an_interval_covers_what_lies_within_it():
    ends = np.array([[0.1, 0.1, 0.3, np.nan], [0.2, 0.2, 0.4, np.nan]])
    found = interval_coverage.covers(ends, np.array([0.15, 0.25, 0.25, 0.25]))
    np.testing.assert_array_equal(found, [1, 0, 0, np.nan])


def test_sets_are_as_they_were_designed():
    targets, (first, other) = draw(TINY[0], np.random.default_rng(0))
    assert targets.sum(axis=0).tolist() == [20, 20] and (targets.sum(axis=1) == 1).all()
    counts = np.mean([draw(TINY[1], np.random.default_rng(i))[0].sum(axis=0) for i in range(99)], 0)
    np.testing.assert_allclose(counts, [10, 30], rtol=0.1)
    assert np.corrcoef(first.ravel(), other.ravel())[0, 1] > 0.7


def test_the_record_has_a_line_a_design_measure_and_kind(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(interval_coverage, "DESIGNS", TINY)
    content = interval_coverage.measure(Args(sets=20, resamples=20, truth_sets=100))
    assert len(content["results"]) == 2 * (3 * 5 + 3 * 4)
    covered = {(r["design"], r["measure"], r["kind"]): r["coverage"] for r in content["results"]}
    assert all(0 <= share <= 1 for share in covered.values())
    assert covered["few", "change of mAP", "deviation"] > 0.7
    table = coverages(content).splitlines()
    assert len(table) == 2 + 12 + 2 and table[2].startswith("| few | mAP | ")
    with pytest.raises(ConfigError, match="no deviation of one"):
        Args(resamples=1)
