"""The intervals are SciPy's own, and hold what they claim."""

from __future__ import annotations

from statistics import median

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, binom, binomtest, bootstrap, ttest_1samp

from fedseal.intervals import ENOUGH, at_least, at_most, exact, of_mean, of_median, wilson


@given(trials=st.integers(1, 10_000), data=st.data())
def test_of_a_share_they_are_scipys(trials: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, trials))
    tested = binomtest(hits, trials)
    for mine, method in ((wilson(hits, trials), "wilson"), (exact(hits, trials), "exact")):
        theirs = tested.proportion_ci(0.95, method=method)
        assert mine == pytest.approx((theirs.low, theirs.high), abs=1e-9)
    assert (wilson(0, trials)[0], wilson(trials, trials)[1]) == (0, 1)


def test_one_end_alone_errs_with_the_probability_asked_for() -> None:
    assert binom.sf(29, 100, at_least(30, 100, 0.01)) == pytest.approx(0.01)
    assert binom.cdf(30, 100, at_most(30, 100, 0.01)) == pytest.approx(0.01)


def test_parts_of_hits_lie_between_whole_ones() -> None:
    assert exact(6.4, 8) == pytest.approx((beta.ppf(0.025, 6.4, 2.6), beta.ppf(0.975, 7.4, 1.6)))
    assert all(one < part < other for one, part, other in zip(exact(6, 8), exact(6.4, 8), exact(7, 8), strict=True))


@pytest.mark.parametrize("count", [ENOUGH, 7, 20, 101])
def test_the_medians_is_the_tightest_pair_of_values_that_holds_in_95_of_100(count: int) -> None:
    """The k-th of n values from either end hold the median with 1 - 2 P(at most k - 1 heads of n fair tosses)."""
    low, high = of_median(range(1, count + 1)) or (0, 0)
    assert low + high == count + 1
    assert 1 - 2 * binom.cdf(low - 1, count, 0.5) >= 0.95 > 1 - 2 * binom.cdf(low, count, 0.5)


def test_the_medians_holds_a_median() -> None:
    values = np.random.default_rng(0).exponential(size=60).tolist()
    low, high = of_median(values) or (0.0, 0.0)
    assert low < median(values) < high
    other = bootstrap((values,), np.median, rng=np.random.default_rng(1)).confidence_interval
    assert (low, high) == pytest.approx((other.low, other.high), abs=0.15)


def test_the_means_is_students() -> None:
    values = [0.3, 2.0, 1.1, 7.5]
    theirs = ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert of_mean(values) == pytest.approx((theirs.low, theirs.high))
    assert of_mean([1.0]) is None
