"""All equations of one example together, against torch's own backward pass, least squares and a minimizer in numpy."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import optimize
from torch import Tensor, nn

from attack.cases import initialized, observed, pictures
from attack.releases import noisy
from fedseal import Image
from fedseal.attack.equations import joint
from fedseal.attack.equations.joint import JointEquations, joint_equations, solve_jointly
from fedseal.attack.equations.recursion import Signal
from fedseal.attack.evidence.belief import Belief, belief
from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.evidence.structure import Activation, Linear
from fedseal.types import Progress

Array = NDArray[np.float64]
INPUTS, OUTPUTS = 7, 9
ACTIVATIONS: dict[str, nn.Module] = {
    "none": nn.Identity(),
    "sigmoid": nn.Sigmoid(),
    "tanh": nn.Tanh(),
    "leaky_relu": nn.LeakyReLU(0.2),
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_at_the_truth_every_equation_holds_as_torch_computes_it(kind: str, bias: bool) -> None:
    """Features, and the gradients of the loss by every layer before the head, in the model's order."""
    model = initialized(
        nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=bias),
            ACTIVATIONS[kind],
            nn.Conv2d(4, 4, 3, padding=1, groups=2),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(64, 5),
        )
    )
    assert isinstance(model, nn.Sequential)
    batch = pictures()
    features = model[:-1](batch.inputs)
    features.retain_grad()
    F.cross_entropy(model[-1](features), batch.labels).backward()  # type: ignore[no-untyped-call]
    delta = features.grad
    assert delta is not None
    signal = Signal(features.detach(), torch.full_like(delta, 1e-3), delta, torch.zeros_like(delta))
    equations = joint_equations(Evidence(noisy(observed(model, batch), 1e-9)), signal)
    grads = [p.grad for name, p in model.named_parameters() if not name.startswith("5.")]
    expected = torch.cat([features.detach().flatten(), *(g.flatten() for g in grads if g is not None)])
    torch.testing.assert_close(equations.values(batch.inputs.flatten()), expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(equations.target, expected, rtol=0, atol=1e-8)
    assert equations.energy(batch.inputs.flatten()) < len(expected)
    assert equations.energy(pictures(seed=5).inputs.flatten()) > 1e3 * len(expected)
    typical = float(torch.cat([g.flatten() for g in grads if g is not None]).abs().mean())
    assert torch.equal(equations.size[: features.numel()], torch.ones(features.numel(), dtype=torch.float64))
    sizes = equations.size[features.numel() :]
    torch.testing.assert_close(sizes, torch.full_like(sizes, typical), rtol=1e-6, atol=0)


class Problem:
    """One linear layer, an activation, a known signal and an error for each equation; written in numpy as well."""

    def __init__(self, kind: str, seed: int, *, noise: float = 0.05, missing: float = 0.3) -> None:
        drawn = np.random.default_rng(seed)
        self.kind = kind
        self.w, self.b = drawn.standard_normal((OUTPUTS, INPUTS)) / 2, drawn.standard_normal(OUTPUTS) / 4
        self.delta = drawn.standard_normal(OUTPUTS)
        self.root = np.tril(drawn.standard_normal((INPUTS, INPUTS))) / 4 + np.eye(INPUTS) / 2
        self.mean = 0.3 * drawn.standard_normal(INPUTS)
        self.truth = self.mean + self.root @ drawn.standard_normal(INPUTS)
        count = len(self.values(self.truth))
        self.error = noise * drawn.uniform(0.5, 2.0, count)
        self.target = self.values(self.truth) + self.error * drawn.standard_normal(count)
        lost = drawn.random(count) < missing
        self.target[lost], self.error[lost] = 0.0, math.inf
        self.size = drawn.uniform(0.5, 1.5, count)

    def values(self, x: Array) -> Array:
        z = self.w @ x + self.b
        if self.kind == "tanh":
            a, slope = np.tanh(z), 1 - np.tanh(z) ** 2
        elif self.kind == "sigmoid":
            a = 1 / (1 + np.exp(-z))
            slope = a * (1 - a)
        else:
            a, slope = z, np.ones_like(z)
        back = self.delta * slope
        return np.concatenate([a, np.outer(back, x).ravel(), back])

    def rest(self, u: Array, floor: float) -> Array:
        """Differences in blurred standard errors, and the prior's."""
        blurred = np.sqrt(self.error**2 + (floor * self.size) ** 2)
        return np.concatenate([(self.values(self.mean + self.root @ u) - self.target) / blurred, u])

    def equations(self) -> JointEquations:
        layer = Linear("w", "b", (INPUTS,), (OUTPUTS,))
        layers = (layer,) if self.kind == "none" else (layer, Activation(self.kind))
        parts = (torch.from_numpy(part) for part in (self.delta, self.target, self.error, self.size))
        state = {"w": torch.from_numpy(self.w), "b": torch.from_numpy(self.b)}
        return JointEquations(None, layers, state, *parts)

    def prior(self) -> Belief:
        mean, root = torch.from_numpy(self.mean), torch.from_numpy(self.root)
        return Belief(mean, lambda u: root @ u, lambda x: torch.linalg.solve(root, x - mean))


@pytest.mark.parametrize("floor", [1.0, 0.01])
@pytest.mark.parametrize("seed", range(3))
def test_linear_equations_have_numpys_least_squares_solution(seed: int, floor: float) -> None:
    problem = Problem("none", seed)
    columns = [problem.values(e) - problem.values(np.zeros(INPUTS)) for e in np.eye(INPUTS)]
    blurred = np.sqrt(problem.error**2 + (floor * problem.size) ** 2)[:, None]
    rows = np.concatenate([np.stack(columns, 1) @ problem.root / blurred, np.eye(INPUTS)])
    expected, *_ = np.linalg.lstsq(rows, -problem.rest(np.zeros(INPUTS), floor), rcond=None)
    found = solve_jointly(problem.equations(), problem.prior(), torch.zeros(INPUTS).double(), floors=(floor,) * 8)
    np.testing.assert_allclose(found.numpy(), problem.mean + problem.root @ expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["sigmoid", "tanh"])
@pytest.mark.parametrize("seed", range(3))
def test_a_long_stage_ends_at_the_most_probable_input(seed: int, kind: str) -> None:
    """Steps of Gauss and Newton at one floor, against scipy's minimizer of the energy as numpy writes it."""
    problem, floor = Problem(kind, seed), 0.02
    sharp = {"xtol": 1e-14, "ftol": 1e-14, "gtol": 1e-14}
    best = optimize.least_squares(lambda u: problem.rest(u, floor), np.zeros(INPUTS), **sharp)
    start = torch.from_numpy(problem.mean)
    found = solve_jointly(problem.equations(), problem.prior(), start, floors=(floor,) * 40)
    np.testing.assert_allclose(found.numpy(), problem.mean + problem.root @ best.x, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["none", "sigmoid", "tanh"])
def test_the_energy_is_half_the_sum_of_squares_and_what_was_not_sent_adds_nothing(kind: str) -> None:
    problem, drawn = Problem(kind, 4), np.random.default_rng(0)
    u = drawn.standard_normal(INPUTS)
    x = torch.from_numpy(problem.mean + problem.root @ u)
    for floor in (0.0, 0.1):
        expected = 0.5 * float(np.square(problem.rest(u, floor)[:-INPUTS]).sum())
        sent = np.isfinite(problem.error)
        if floor == 0:
            assert problem.equations().energy(x) == pytest.approx(expected, rel=1e-12)
        blurred = np.sqrt(problem.error[sent] ** 2 + (floor * problem.size[sent]) ** 2)
        np.testing.assert_allclose(problem.equations().weights(floor).numpy()[sent], 1 / blurred, rtol=1e-12)
    assert not problem.equations().weights(0.1).numpy()[~np.isfinite(problem.error)].any()


@pytest.mark.parametrize("kind", ["sigmoid", "tanh"])
def test_no_step_raises_the_energy_and_the_floors_lead_to_the_truth(kind: str) -> None:
    problem, seen = Problem(kind, 1, noise=1e-5, missing=0.0), list[Progress]()
    equations, prior = problem.equations(), problem.prior()
    found = solve_jointly(equations, prior, prior.mean, progress=seen.append)
    assert float((found - torch.from_numpy(problem.truth)).abs().max()) < 1e-3
    assert [report.step for report in seen] == [1, 2, 3, 4, 5, 6]
    for floor in joint.FLOORS:
        u = prior.coordinates(torch.from_numpy(problem.truth) + 0.3)
        moved = joint._step(equations, prior, u, floor, 150)
        before, after = (np.square(problem.rest(v.numpy(), floor)).sum() for v in (u, moved))
        assert after <= before


@pytest.mark.parametrize("seed", [2, 7, 9, 10, 17, 21, 22, 25, 28])
def test_a_step_that_overshoots_is_halved_until_it_gains(seed: int) -> None:
    """Far from the answer the whole Gauss-Newton step of these saturated layers leads nowhere; a part of it does."""
    problem = Problem("tanh", seed, noise=1e-4, missing=0.0)
    equations, prior, floor = problem.equations(), problem.prior(), 1e-3
    start = 10 * np.random.default_rng(seed).standard_normal(INPUTS)
    moved = joint._step(equations, prior, torch.from_numpy(start), floor, 150).numpy()
    before, after = (float(np.square(problem.rest(u, floor)).sum()) for u in (start, moved))
    assert after < before


def test_stages_whose_blur_the_equations_own_errors_hide_are_left_out() -> None:
    seen = list[Progress]()
    for noise, stages in ((1e-9, 6), (3.0, 1)):
        seen.clear()
        problem = Problem("none", 0, noise=noise, missing=0.0)
        solve_jointly(problem.equations(), problem.prior(), torch.zeros(INPUTS).double(), progress=seen.append)
        assert len(seen) == seen[0].steps == stages


def test_the_start_that_is_the_answer_stays() -> None:
    problem = Problem("tanh", 2)
    equations, prior = problem.equations(), problem.prior()
    answer = solve_jointly(equations, prior, prior.mean, floors=(0.02,) * 40)
    again = solve_jointly(equations, prior, answer, floors=(0.02,))
    torch.testing.assert_close(again, answer, rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_conjugate_gradients_come_within_a_hundredth_of_the_side(seed: int) -> None:
    drawn = np.random.default_rng(seed)
    half = drawn.standard_normal((30, 20))
    matrix, side = half.T @ half + np.eye(20), drawn.standard_normal(20)
    times: Callable[[Tensor], Tensor] = lambda v: torch.from_numpy(matrix) @ v  # noqa: E731
    found = joint._conjugate_gradients(times, torch.from_numpy(side), 100).numpy()
    assert np.linalg.norm(matrix @ found - side) <= 1e-2 * np.linalg.norm(side) * (1 + 1e-9)
    exact = np.linalg.solve(matrix, side)
    errors = []
    for iterations in (0, 2, 5, 10):
        rest = joint._conjugate_gradients(times, torch.from_numpy(side), iterations).numpy() - exact
        errors.append(float(rest @ matrix @ rest))
    assert errors == sorted(errors, reverse=True)  # in the matrix's own length every step is nearer
    assert errors[0] == pytest.approx(exact @ matrix @ exact)


def test_without_equations_the_prior_is_the_answer() -> None:
    """Without a single equation the most probable input is the prior's mean, wherever the search starts."""
    problem = Problem("tanh", 0, missing=1.0)
    found = solve_jointly(problem.equations(), problem.prior(), torch.ones(INPUTS).double(), floors=(0.3,))
    torch.testing.assert_close(found, torch.from_numpy(problem.mean), rtol=0, atol=1e-9)
    prior = belief(Image(shape=(1, 4, 4)))
    torch.testing.assert_close(prior.coordinates(prior.mean), torch.zeros(16).double())
