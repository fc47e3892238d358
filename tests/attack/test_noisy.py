"""A softmax head and a squashing activation under noise, against numpy's least squares, a minimizer of its own and
numerical quadrature.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import integrate, optimize, special

from fedseal.attack.equations.noisy import NoisyHead, read_noisy_head, through_squashing

Array = NDArray[np.float64]
CLASSES, FEATURES = 5, 12


def _softmax(z: Array) -> Array:
    e = np.exp(z - z.max())
    return np.asarray(e / e.sum())


def _signal(head: NoisyHead, h: Array) -> Array:
    """The gradient by the logits of one example's cross-entropy."""
    d = _softmax(head.weight.numpy() @ h + head.bias.numpy())
    d[head.label] -= 1
    return d


def _rest(head: NoisyHead, h: Array) -> Array:
    """All equations' differences in standard errors, the prior's last; without those of what was not sent."""
    d, (mean, spread) = _signal(head, h), head.prior
    parts = [
        ((head.gradient.numpy() - np.outer(d, h)) / head.error.numpy()).ravel(),
        (head.bias_gradient.numpy() - d) / head.bias_error.numpy(),
        (mean - h) / spread,
    ]
    return np.concatenate(parts)


def _slopes(function: Callable[[Array], Array], at: Array) -> Array:
    """The Jacobian by central differences, `(outputs, inputs)`."""
    steps = 1e-5 * np.eye(len(at))
    return np.stack([(function(at + step) - function(at - step)) / 2e-5 for step in steps], 1)


def _head(seed: int, noise: float, *, missing: float = 0.0, weight: float = 1.0, features: float = 0.5) -> NoisyHead:
    """A head seen with noise of uneven sizes, a part of it not at all; the true features are 0.5 +- `features`."""
    drawn = np.random.default_rng(seed)
    v, b = weight * drawn.standard_normal((CLASSES, FEATURES)) / FEATURES**0.5, drawn.standard_normal(CLASSES)
    truth = 0.5 + features * drawn.standard_normal(FEATURES)
    d = _softmax(v @ truth + b)
    d[seed % CLASSES] -= 1
    error, bias_error = (noise * drawn.uniform(0.5, 2, size) for size in ((CLASSES, FEATURES), CLASSES))
    gradient = np.outer(d, truth) + error * drawn.standard_normal(error.shape)
    by_bias = d + bias_error * drawn.standard_normal(CLASSES)
    lost = drawn.random(error.shape) < missing
    gradient[lost], error[lost] = 0, math.inf
    one = torch.from_numpy
    seen = (one(gradient), one(error), one(by_bias), one(bias_error))
    return NoisyHead(one(v), one(b), *seen, seed % CLASSES, (0.5, 0.5))


@pytest.mark.parametrize("missing", [0.0, 0.5])
@pytest.mark.parametrize("noise", [1e-4, 1e-2, 0.1])
@pytest.mark.parametrize("seed", range(4))
def test_the_heads_input_is_the_least_squares_solution_of_all_its_equations(
    seed: int, noise: float, missing: float
) -> None:
    head = _head(seed, noise, missing=missing)
    found = read_noisy_head(head, eps=0.0)
    best = optimize.least_squares(
        lambda h: _rest(head, h), found.value.numpy() + 0.01, x_scale=noise, xtol=1e-14, ftol=1e-14, gtol=1e-14
    )
    np.testing.assert_allclose(found.value.numpy(), best.x, rtol=0, atol=0.02 * float(found.value_error.min()))
    np.testing.assert_allclose(
        found.delta.numpy(), _signal(head, best.x) @ head.weight.numpy(), rtol=0, atol=0.1 * noise
    )


@pytest.mark.parametrize("noise", [1e-4, 1e-2])
@pytest.mark.parametrize("seed", range(4))
def test_no_other_start_finds_a_better_input(seed: int, noise: float) -> None:
    head, drawn = _head(seed, noise), np.random.default_rng(seed)
    found = np.square(_rest(head, read_noisy_head(head, eps=0.0).value.numpy())).sum()
    starts = 0.5 + 0.5 * drawn.standard_normal((6, FEATURES))
    others = [2 * optimize.least_squares(lambda h: _rest(head, h), start).cost for start in starts]
    assert found <= min(others) + 1e-3


@pytest.mark.parametrize("missing", [0.0, 0.5])
@pytest.mark.parametrize("noise", [1e-4, 1e-2, 0.1])
def test_the_errors_are_those_of_the_equations_linearized_where_the_search_ends(noise: float, missing: float) -> None:
    head = _head(1, noise, missing=missing)
    found = read_noisy_head(head, eps=0.0)
    at = found.value.numpy()
    jacobian = _slopes(lambda h: _rest(head, h), at)
    signal = _slopes(lambda h: head.weight.numpy().T @ _signal(head, h), at)
    covariance = np.linalg.inv(jacobian.T @ jacobian)
    np.testing.assert_allclose(found.value_error.numpy(), np.sqrt(covariance.diagonal()), rtol=1e-4)
    expected = np.sqrt((signal @ covariance @ signal.T).diagonal())
    np.testing.assert_allclose(found.delta_error.numpy(), expected, rtol=1e-4)


@pytest.mark.parametrize("missing", [0.0, 0.3, 1.0])
def test_a_head_of_zeros_is_a_linear_problem_and_its_solution_is_numpys(missing: float) -> None:
    """Its softmax depends on the bias alone, so that only the input's own entries are unknown."""
    head = _head(2, 0.05, missing=missing, weight=0.0)
    d = _signal(head, np.zeros(FEATURES))
    mean, spread = head.prior
    rows = [np.kron(d[:, None], np.eye(FEATURES)) / head.error.numpy().reshape(-1, 1), np.eye(FEATURES) / spread]
    right = [(head.gradient.numpy() / head.error.numpy()).ravel(), np.full(FEATURES, mean / spread)]
    matrix = np.concatenate(rows)
    expected, *_ = np.linalg.lstsq(matrix, np.concatenate(right), rcond=None)
    found = read_noisy_head(head, eps=0.0)
    np.testing.assert_allclose(found.value.numpy(), expected, rtol=0, atol=1e-9)
    errors = np.sqrt(np.linalg.inv(matrix.T @ matrix).diagonal())
    np.testing.assert_allclose(found.value_error.numpy(), errors, rtol=1e-9)
    np.testing.assert_array_equal(found.delta.numpy(), np.zeros(FEATURES))


@pytest.mark.parametrize("noise", [1e-5, 1e-3, 3e-2])
def test_the_truth_lies_within_the_stated_errors(noise: float) -> None:
    """Of 40 heads with 12 features: about two thirds within one error, as of a normal law."""
    scores = []
    for seed in range(40):
        head, drawn = _head(seed, noise), np.random.default_rng(seed)
        drawn.standard_normal(CLASSES * FEATURES + CLASSES)  # the weights, as `_head` draws them
        truth = 0.5 + 0.5 * drawn.standard_normal(FEATURES)
        found = read_noisy_head(head, eps=0.0)
        scores.append((found.value.numpy() - truth) / found.value_error.numpy())
    assert 0.9 < float(np.sqrt(np.mean(np.square(scores)))) < 1.1


def test_what_the_client_computed_is_known_to_its_number_format_only() -> None:
    head = _head(0, 1e-2)
    sharp, rounded = read_noisy_head(head, eps=0.0), read_noisy_head(head, eps=1e-2)
    torch.testing.assert_close(rounded.value_error - sharp.value_error, 1e-2 * sharp.value.abs())
    d = torch.from_numpy(_signal(head, sharp.value.numpy()))
    torch.testing.assert_close(rounded.delta_error - sharp.delta_error, 1e-2 * (d.abs() @ head.weight.abs()))


SQUASHING: dict[str, tuple[Callable[[float], float], Callable[[float], float], Callable[[float], float]]] = {
    "sigmoid": (
        lambda z: float(special.expit(z)),
        lambda z: float(special.expit(z) * special.expit(-z)),
        lambda a: float(special.logit(a)),
    ),
    "tanh": (math.tanh, lambda z: math.cosh(z) ** -2, math.atanh),
}


def _moments(kind: str, value: float, error: float, mean: float, spread: float) -> tuple[float, float, float, float]:
    """Mean and variance of the argument and mean and deviation of the slope, by adaptive quadrature."""
    function, slope, _ = SQUASHING[kind]

    def log(z: float) -> float:
        return -0.5 * ((function(z) - value) / error) ** 2 - 0.5 * ((z - mean) / spread) ** 2

    grid = np.linspace(mean - 12 * spread, mean + 12 * spread, 20001)
    logs = np.array([log(z) for z in grid])
    peak, alive = logs.max(), grid[logs > logs.max() - 40]
    low, high = alive[0] - (grid[1] - grid[0]), alive[-1] + (grid[1] - grid[0])

    def expected(what: Callable[[float], float]) -> float:
        total, _ = integrate.quad(lambda z: what(z) * math.exp(log(z) - peak), low, high, epsabs=1e-13, limit=500)
        return float(total)

    mass = expected(lambda z: 1.0)
    first = expected(lambda z: z) / mass
    variance = expected(lambda z: (z - first) ** 2) / mass
    steep = expected(slope) / mass
    return first, variance, steep, math.sqrt(expected(lambda z: (slope(z) - steep) ** 2) / mass)


def _one(number: float) -> torch.Tensor:
    return torch.tensor([number], dtype=torch.float64)


CASES = [  # value (in the sigmoid's range), error, mean, spread
    (0.5, 0.1, 0.0, 2.0),
    (0.7, 0.05, -1.0, 1.0),
    (0.7, 0.2, 1.0, 0.7),
    (0.97, 0.05, 0.0, 3.0),
    (0.03, 0.02, 0.5, 1.5),
    (1.05, 0.05, 0.0, 2.0),  # noise took it out of the range
    (-0.2, 0.1, 0.0, 2.0),
    (0.9, 0.004, 0.0, 3.0),
]


@pytest.mark.parametrize("kind", SQUASHING)
@pytest.mark.parametrize("case", CASES)
def test_argument_and_slope_have_the_moments_that_quadrature_gives(
    case: tuple[float, float, float, float], kind: str
) -> None:
    """With the prior, which the cavity lacks, multiplied in again.

    The variance is up to a tenth too wide: a grid's step is counted as an error of its own.
    """
    value, error, mean, spread = case
    if kind == "tanh":
        value, error = 2 * value - 1, 2 * error
    found = through_squashing(kind, *(_one(number) for number in (value, error, mean, spread)))
    first, variance, steep, bent = _moments(kind, value, error, mean, spread)
    precision = float(found.error**-2) + spread**-2
    assert 0.999 * variance < 1 / precision < 1.1 * variance
    both = (float(found.value * found.error**-2) + mean * spread**-2) / precision
    assert both == pytest.approx(first, abs=1e-3 * math.sqrt(variance))
    assert float(found.slope) == pytest.approx(steep, abs=1e-3 * bent)
    assert float(found.slope_error) == pytest.approx(bent, rel=1e-3)


@pytest.mark.parametrize("kind", SQUASHING)
@pytest.mark.parametrize("value", [0.2, 0.5, 0.9])
def test_a_value_without_noise_is_inverted(value: float, kind: str) -> None:
    function, slope, inverse = SQUASHING[kind]
    found = through_squashing(kind, *(_one(number) for number in (value, 1e-9, 0.0, 3.0)))
    z = inverse(value)
    assert function(float(found.value)) == pytest.approx(value, abs=1e-9)
    assert float(found.error) == pytest.approx(1e-9 / slope(z), rel=0.05)
    assert float(found.slope) == pytest.approx(slope(z), abs=1e-8)


@pytest.mark.parametrize("kind", SQUASHING)
def test_a_value_that_says_nothing_leaves_the_argument_open(kind: str) -> None:
    found = through_squashing(kind, *(_one(number) for number in (0.5, 1e6, 0.0, 2.0)))
    assert float(found.error) > 20 * 2.0
    steep, bent = _moments(kind, 0.5, 1e6, 0.0, 2.0)[2:]
    assert float(found.slope) == pytest.approx(steep, rel=0.01)
    assert float(found.slope_error) == pytest.approx(bent, rel=0.01)


def test_where_value_and_prior_disagree_nothing_negative_is_learned() -> None:
    """The law of the argument is then wider than its prior was, and a negative precision is no variance."""
    value, error, mean, spread = 0.7, 0.2, 3.0, 0.7
    assert _moments("sigmoid", value, error, mean, spread)[1] > spread**2
    found = through_squashing("sigmoid", *(_one(number) for number in (value, error, mean, spread)))
    assert 100 * spread < float(found.error) < math.inf
    assert math.isfinite(float(found.value))
    assert float(found.value) < mean


def test_entries_do_not_see_each_other() -> None:
    drawn = torch.Generator().manual_seed(0)
    value, error = torch.rand(3, 4, generator=drawn).double(), 0.01 + torch.rand(3, 4, generator=drawn).double()
    mean, spread = torch.randn(3, 4, generator=drawn).double(), 0.5 + torch.rand(3, 4, generator=drawn).double()
    together = through_squashing("sigmoid", value, error, mean, spread)
    alone = through_squashing("sigmoid", value[1, 2], error[1, 2], mean[1, 2], spread[1, 2])
    for whole, single in zip(together, alone, strict=True):
        torch.testing.assert_close(whole[1, 2], single)
