"""The discrete Gaussian against its formula, and its exact path against the paper's own loop."""

from __future__ import annotations

import decimal
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from fedseal.errors import BadConfig
from fedseal.secagg.hazmat.gaussian import Coins, DiscreteGaussian
from vectors import second


def _expected(deviation: float, reach: int) -> np.ndarray:
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * deviation**2))
    return np.asarray(weights / weights.sum())


def _fits(draws: np.ndarray, deviation: float) -> float:
    reach = int(4 * deviation) + 1
    inside = draws[np.abs(draws) <= reach]
    counts = np.bincount(inside + reach, minlength=2 * reach + 1)
    expected = _expected(deviation, reach) * inside.size
    keep = expected > 8
    statistic = float((((counts - expected) ** 2 / expected)[keep]).sum())
    return float(stats.chi2.sf(statistic, keep.sum() - 1))


@pytest.mark.parametrize("deviation", [0.4, 1.0, 2.7, 11.3])
def test_draws_follow_the_formula(deviation: float) -> None:
    draws = DiscreteGaussian(deviation, 1000, Coins(bytes(32))).draw(60_000)
    assert _fits(draws, deviation) > 1e-3


def test_the_paper_s_own_loop_follows_the_formula_too() -> None:
    draws = np.array([second.discrete_gaussian(Fraction(27, 10) ** 2, _COINS.of) for _ in range(3_000)])
    assert _fits(draws, 2.7) > 1e-3


def test_when_no_comparison_is_certain_in_float64_the_draws_are_the_same() -> None:
    """Then every coin is decided over exact fractions; the first 64 digits of each are those of the quick path."""
    slow = DiscreteGaussian(1.7, 30, Coins(bytes(32), unsure=2.0)).draw(400)
    quick = DiscreteGaussian(1.7, 30, Coins(bytes(32))).draw(400)
    assert np.array_equal(slow, quick)


def test_a_coin_between_two_64_bit_numbers_takes_more_digits() -> None:
    coins = Coins(bytes(32), unsure=2.0)
    taken: list[int] = []
    words = coins.words
    coins.words = lambda count: taken.append(count) or words(count)  # type: ignore[func-returns-value,method-assign]
    near = int(decimal.Context(prec=60).exp(decimal.Decimal(-1)) * 2**64)
    assert coins._decided(near - 1, Fraction(1))
    assert not coins._decided(near + 1, Fraction(1))
    assert taken == []
    coins._decided(near, Fraction(1))
    assert taken == [2]


@pytest.mark.parametrize("deviation", [1e5, 2.0**40, 2.0**54])
def test_large_deviations_are_normal(deviation: float) -> None:
    draws = DiscreteGaussian(deviation, int(12 * deviation), Coins(bytes([1] * 32))).draw(20_000)
    assert stats.kstest(draws / deviation, "norm").pvalue > 1e-3


def test_nothing_passes_the_tail_and_both_signs_come() -> None:
    draws = DiscreteGaussian(3.0, 4, Coins(bytes(32))).draw(2_000)
    assert set(draws.tolist()) == set(range(-4, 5))


@pytest.mark.parametrize("bits", [32, 64])
def test_noise_is_added_in_the_ring(bits: int) -> None:
    vector = np.zeros(1000, f"<u{bits // 8}")
    DiscreteGaussian(5.0, 60, Coins(bytes(32))).add_to(vector)
    drawn = DiscreteGaussian(5.0, 60, Coins(bytes(32))).draw(1000)
    assert np.array_equal(vector.view(f"<i{bits // 8}"), drawn)


def test_two_samplers_without_coins_draw_from_secret_seeds() -> None:
    assert not np.array_equal(DiscreteGaussian(1e6, 10**8).draw(8), DiscreteGaussian(1e6, 10**8).draw(8))


@pytest.mark.parametrize(
    ("deviation", "tail"), [(0.0, 10), (1e-200, 10), (-1.0, 10), (2.0**60, 2**62), (10.0, 5), (float("nan"), 9)]
)
def test_deviations_that_mean_nothing_are_refused(deviation: float, tail: int) -> None:
    with pytest.raises(BadConfig):
        DiscreteGaussian(deviation, tail)


class _Counted:
    """Uniform whole numbers from a fixed stream, for the second implementation."""

    def __init__(self) -> None:
        self._coins = Coins(bytes([9] * 32))

    def of(self, limit: int) -> int:
        bits = max(64, limit.bit_length() + 64)
        words: list[int] = self._coins.words(-(-bits // 64)).tolist()
        return sum(word << 64 * place for place, word in enumerate(words)) % limit


_COINS = _Counted()
