"""What noise is worth, against divergences summed up term by term and against dp_accounting."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedseal.errors import BadConfig
from fedseal.secagg import accounting
from secagg.rounds import terms


def _renyi(deviation: float, count: int, shift: int, order: float) -> float:
    """Divergence of a sum of discrete Gaussians from itself shifted, by convolution."""
    reach = int(12 * deviation * math.sqrt(count)) + 30
    one = np.exp(-(np.arange(-reach, reach + 1.0) ** 2) / (2 * deviation**2))
    one /= one.sum()
    density = np.array([1.0])
    for _ in range(count):
        density = np.convolve(density, one)
    here, there = density[shift:], density[:-shift]
    keep = (here > 1e-200) & (there > 1e-200)
    terms_ = order * np.log(here[keep]) + (1 - order) * np.log(there[keep])
    return float(np.log(np.exp(terms_).sum()) / (order - 1))


@pytest.mark.parametrize("honest", [2, 4])
@pytest.mark.parametrize("spread", [0.6, 1.0, 3.0])
def test_the_bound_holds_for_one_entry_at_every_order(honest: int, spread: float) -> None:
    bound = accounting.concentrated_sum(2.0, spread, honest, 1)
    for order in (1.1, 2.0, 5.0):
        assert _renyi(spread, honest, 2, order) <= bound * order * (1 + 1e-6)


def test_the_round_s_figure_is_the_formula_s() -> None:
    round_ = terms(clients=10, size=1000, clip=1.0, bound=1.0, noise=0.5, minimum=4)
    found = accounting.rho(round_, 10)
    assert found == pytest.approx(0.5 * (1.0 / (0.25 * math.sqrt(10))) ** 2, rel=1e-4)
    assert accounting.rho(round_, 4) == pytest.approx(0.5 * (1.0 / 0.5) ** 2, rel=1e-4)
    assert accounting.rho(round_, 3) > accounting.rho(round_, 4)


def test_metrics_cost_privacy() -> None:
    plain = terms(size=100, clip=1.0, bound=1.0, noise=0.5)
    more = terms(size=100, clip=1.0, bound=1.0, noise=0.5, metrics={"loss": 3.0})
    assert accounting.rho(more, 2) == pytest.approx(2 * accounting.rho(plain, 2), rel=1e-3)


def test_rounding_is_accounted_for() -> None:
    coarse = terms(size=10**6, clip=1.0, bound=900.0, noise=200.0, clients=200, minimum=100)
    assert accounting.sum_sensitivity(coarse) == pytest.approx(coarse.codec.scale + 500)


def test_a_sum_without_noise_or_clip_has_no_figure() -> None:
    with pytest.raises(BadConfig, match="noise"):
        accounting.rho(terms(), 3)
    with pytest.raises(BadConfig, match="clip"):
        accounting.sum_sensitivity(terms())
    with pytest.raises(BadConfig):
        accounting.sum_epsilon(0.0, 1e-5)


@pytest.mark.parametrize("rho", [0.01, 0.5, 8.0])
def test_epsilon_agrees_with_dp_accounting(rho: float) -> None:
    dp = pytest.importorskip("dp_accounting")
    from dp_accounting.rdp import RdpAccountant

    orders = [1 + 10 ** (step / 50) for step in range(-100, 150)]
    accountant = RdpAccountant(orders=orders)
    accountant.compose(dp.ZCDpEvent(rho=rho))
    assert accounting.sum_epsilon(rho, 1e-5) == pytest.approx(accountant.get_epsilon(1e-5), rel=2e-3)
