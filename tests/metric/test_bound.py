"""The bounds: published values, an independent accountant, laws, and intervals that hold what they claim."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from dp_accounting.pld import privacy_loss_distribution
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, norm

from fedseal.errors import BadConfig
from fedseal.metric.bound import (
    BoundPoint,
    Estimate,
    approximate,
    bound_curve,
    concentrated,
    gaussian_bound,
    monte_carlo,
    pure,
    renyi,
    simplex,
    subsampled,
)

KAPPAS, NOISES, STEPS = st.floats(1e-4, 0.9), st.floats(0.3, 20), st.integers(1, 50)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("noise", "bound"), [(1, 0.389), (2, 0.217), (4, 0.151)])
def test_golden_values_of_ten_candidates_and_one_step(noise: float, bound: float) -> None:
    assert gaussian_bound(0.1, noise) == pytest.approx(bound, abs=5e-4)


def test_two_candidates_of_opposite_gradients_reach_the_bound_exactly() -> None:
    for noise in (0.5, 1.0, 3.0):
        assert simplex(2, noise) == pytest.approx(gaussian_bound(0.5, noise), abs=1e-9)
        assert simplex(2, noise) == pytest.approx(norm.cdf(1 / noise), abs=1e-9)


@given(KAPPAS, NOISES, STEPS)
def test_the_bound_is_above_a_blind_guess_and_below_one_and_below_coarser_bounds(
    kappa: float, noise: float, steps: int
) -> None:
    bound, rho = gaussian_bound(kappa, noise, steps), steps / (2 * noise**2)
    assert kappa < bound <= 1
    assert bound <= concentrated(kappa, rho) + 1e-12
    for alpha in (1.5, 2.0, 8.0):
        assert concentrated(kappa, rho) <= renyi(kappa, alpha, alpha * rho) + 1e-12


@given(KAPPAS, NOISES, STEPS)
def test_a_better_guess_less_noise_and_more_steps_never_lower_the_bound(kappa: float, noise: float, steps: int) -> None:
    bound = gaussian_bound(kappa, noise, steps)
    assert gaussian_bound(min(0.95, 1.05 * kappa), noise, steps) >= bound
    assert gaussian_bound(kappa, 0.9 * noise, steps) >= bound
    assert gaussian_bound(kappa, noise, steps + 1) >= bound
    assert concentrated(kappa, 1.1 / noise) >= concentrated(kappa, 1 / noise)
    assert pure(kappa, 1.1 / noise) >= pure(kappa, 1 / noise) > kappa


@given(st.integers(2, 60), NOISES, STEPS)
@settings(max_examples=30)
def test_a_simplex_of_gradients_stays_below_the_bound_and_above_a_guess(k: int, noise: float, steps: int) -> None:
    assert 1 / k < simplex(k, noise, steps) <= gaussian_bound(1 / k, noise, steps) + 1e-9


def test_a_simplex_measured() -> None:
    """Against draws in ten dimensions, with the vectors written down."""
    corners = math.sqrt(10 / 9) * (torch.eye(10, dtype=torch.float64) - 0.1)
    seen = corners[0] + torch.randn(40_000, 10, generator=_generator(), dtype=torch.float64)
    hits = int(((seen @ corners.T).argmax(1) == 0).sum())
    assert hits / 40_000 == pytest.approx(simplex(10, 1.0), abs=4 * math.sqrt(0.36 * 0.64 / 40_000))


def _by_accountant(kappa: float, noise: float, rate: float, steps: int) -> float:
    """Google's accountant on a grid: the blow-up is the least of lambda kappa + hockey-stick(lambda) over lambda."""
    loss = privacy_loss_distribution.from_gaussian_mechanism(
        noise, sampling_prob=rate, value_discretization_interval=1e-3
    ).self_compose(steps)
    remove = loss._pmf_remove  # with the target against without; the public method takes the worse direction
    epsilons = np.linspace(-5, 8, 2601)
    return float(min(math.exp(e) * kappa + d for e, d in zip(epsilons, remove.get_delta_for_epsilon(epsilons))))  # noqa: B905


@pytest.mark.parametrize(
    ("noise", "rate", "steps"),
    [(1.0, 1.0, 1), (2.0, 1.0, 4), (0.7, 0.1, 1), (1.0, 0.1, 10), (0.5, 0.1, 10), (0.5, 0.05, 20)],
)
def test_the_bounds_agree_with_an_accountant_written_by_others(noise: float, rate: float, steps: int) -> None:
    ours = subsampled(0.1, noise, rate, steps, generator=_generator(), draws=100_000)
    theirs = _by_accountant(0.1, noise, rate, steps)
    assert ours.low - 1e-3 <= theirs <= ours.high + 1e-3
    assert ours.value == pytest.approx(theirs, rel=0.03)


@pytest.mark.parametrize(("rate", "steps"), [(1.0, 1), (1.0, 4), (0.1, 1), (0.5, 1)])
def test_chance_agrees_with_the_closed_forms(rate: float, steps: int) -> None:
    exact = subsampled(0.1, 1.5, rate, steps, generator=_generator())
    drawn = monte_carlo(0.1, 1.5, rate, steps, generator=_generator(), draws=100_000)
    assert exact.low == exact.value == exact.high
    assert drawn.low <= exact.value <= drawn.high
    assert drawn.high - drawn.low < 0.03


def test_the_interval_holds_the_truth_in_at_least_95_of_100() -> None:
    exact = gaussian_bound(0.1, 1.0)
    found = [monte_carlo(0.1, 1.0, 1.0, 1, generator=_generator(seed), draws=2000) for seed in range(100)]
    assert sum(one.low <= exact <= one.high for one in found) >= 95
    assert np.mean([one.value for one in found]) == pytest.approx(exact, abs=0.01)


def test_a_rate_below_one_protects_and_many_chunks_are_one_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [subsampled(0.1, 1.0, rate, 4, generator=_generator(), draws=50_000) for rate in (0.05, 0.2, 0.6, 1.0)]
    assert all(a.high < b.low for a, b in pairwise(values))
    monkeypatch.setattr("fedseal.metric.bound.CHUNK", 999)
    again = subsampled(0.1, 1.0, 0.2, 4, generator=_generator(1), draws=50_000)
    assert again.low < values[1].value < again.high


def test_the_world_is_left_alone_and_the_generator_decides() -> None:
    world = torch.get_rng_state()
    one, two = (subsampled(0.1, 1.0, 0.1, 3, generator=_generator(7), draws=1000) for _ in range(2))
    assert one == two
    assert torch.equal(torch.get_rng_state(), world)


def test_tiny_kappa_costs_width_and_not_truth() -> None:
    with pytest.raises(BadConfig, match="draw 20000"):
        monte_carlo(1e-3, 1.0, 0.1, 3, generator=_generator(), draws=10_000)
    wide = monte_carlo(1e-3, 1.0, 1.0, 1, generator=_generator(), draws=20_000)
    assert wide.low <= gaussian_bound(1e-3, 1.0) <= wide.high


def test_zero_concentrated_is_the_best_order_of_renyi() -> None:
    best = min(renyi(0.05, alpha, 0.4 * alpha) for alpha in np.linspace(1.01, 20, 4000))
    assert concentrated(0.05, 0.4) == pytest.approx(best, rel=1e-5)
    assert concentrated(0.5, 10.0) == 1


def test_epsilon_and_delta_bound_an_event_of_probability_kappa() -> None:
    """Against the Gaussian bound with the epsilon that goes with each delta at noise multiplier 1."""
    for epsilon in (0.3, 1.0, 2.0):
        delta = norm.cdf(0.5 - epsilon) - math.exp(epsilon) * norm.cdf(-0.5 - epsilon)
        assert approximate(0.1, epsilon, delta) >= gaussian_bound(0.1, 1.0)
    assert approximate(0.1, 1.0, 0.05) == pytest.approx(pure(0.1, 1.0) + 0.05)
    assert pure(0.5, 1.0) == 1


def test_a_cell_says_its_interval_and_whether_it_is_within() -> None:
    bound = Estimate(0.389, 0.385, 0.393)
    cell = BoundPoint("labels", 1.0, 1, 1.0, 0.1, 361, 1000, bound)
    assert cell.interval == pytest.approx((beta.ppf(0.025, 361, 640), beta.ppf(0.975, 362, 639)))
    assert cell.within
    assert cell.success == 0.361
    assert cell.share == pytest.approx(0.361 / 0.389)
    assert not BoundPoint("labels", 1.0, 1, 1.0, 0.1, 450, 1000, bound).within
    assert BoundPoint("labels", 1.0, 1, 1.0, 0.1, 0, 9, bound).interval == pytest.approx((0, 1 - 0.025 ** (1 / 9)))
    assert BoundPoint("labels", 1.0, 1, 1.0, 0.1, 9, 9, bound).interval[1] == 1
    assert bound_curve(0.1, (1.0, 2.0)) == ((1.0, gaussian_bound(0.1, 1.0)), (2.0, gaussian_bound(0.1, 2.0)))


BAD: dict[str, Callable[[], object]] = {
    "kappa is 0": lambda: gaussian_bound(0.0, 1.0),
    "kappa is 1": lambda: gaussian_bound(1.0, 1.0),
    "kappa is no number": lambda: pure(math.nan, 1.0),
    "epsilon is 0": lambda: pure(0.1, 0.0),
    "epsilon is infinite": lambda: approximate(0.1, math.inf, 0.0),
    "delta is 1": lambda: approximate(0.1, 1.0, 1.0),
    "rho is negative": lambda: concentrated(0.1, -1.0),
    "order 1": lambda: renyi(0.1, 1.0, 1.0),
    "no noise": lambda: gaussian_bound(0.1, 0.0),
    "negative noise": lambda: gaussian_bound(0.1, -1.0),
    "noise is no number": lambda: gaussian_bound(0.1, math.nan),
    "no step": lambda: gaussian_bound(0.1, 1.0, 0),
    "negative steps": lambda: gaussian_bound(0.1, 1.0, -3),
    "half a step": lambda: gaussian_bound(0.1, 1.0, 1.5),  # type: ignore[arg-type]
    "rate 0": lambda: subsampled(0.1, 1.0, 0.0, 1, generator=_generator()),
    "rate above 1": lambda: subsampled(0.1, 1.0, 1.1, 1, generator=_generator()),
    "one candidate": lambda: simplex(1, 1.0),
    "no trial": lambda: BoundPoint("labels", 1.0, 1, 1.0, 0.1, 0, 0, Estimate(0.4, 0.4, 0.4)),
    "more hits than trials": lambda: BoundPoint("labels", 1.0, 1, 1.0, 0.1, 3, 2, Estimate(0.4, 0.4, 0.4)),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name: str) -> None:
    with pytest.raises(BadConfig):
        BAD[name]()
