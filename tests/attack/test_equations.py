"""The linear equations of a convolution's input: autograd says what they are, a dense solver what their solution is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from attack.cases import initialized, pictures, seeded
from attack.nets import Layer, layers_of, rows_of_layers
from fedseal.attack.equations import convolution as module
from fedseal.attack.equations.convolution import ConvEquations, Factored, conv_equations, solve_convolution
from fedseal.attack.evidence.structure import Conv

DRAWN = settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


def _equations(layer: Layer, *, seed: int = 0, scale: float = 1e-6, spread: float = 0.5) -> ConvEquations:
    """The library's equations for a layer's true output and gradients, with uneven errors around `scale`."""
    conv, generator = layer.conv, seeded(seed)
    described = Conv(
        "weight",
        None,
        tuple(layer.value.shape[1:]),
        tuple(layer.output.shape[1:]),
        _pair(conv.kernel_size),
        _pair(conv.stride),
        _pair(conv.padding),
        _pair(conv.dilation),
        conv.groups,
    )
    output_error = scale * torch.rand(layer.output.shape, generator=generator, dtype=torch.float64).add(0.5)
    row_error = scale * torch.rand(conv.out_channels, generator=generator, dtype=torch.float64).add(0.5)
    mean = torch.full(described.in_shape, 0.5, dtype=torch.float64)
    weight = conv.weight.detach()
    return conv_equations(
        described, weight, layer.output, output_error, layer.delta, layer.gradient, row_error, (mean, spread)
    )


def _pair(value: tuple[int, ...] | str) -> tuple[int, int]:
    return int(value[0]), int(value[1])


def _layer(channels: int = 3, width: int = 6, kernel: int = 3, seed: int = 0, **options: int) -> Layer:
    conv = nn.Conv2d(channels, width, kernel, **options)  # type: ignore[arg-type]
    outputs = conv(torch.zeros(1, channels, 8, 8)).numel()
    model = initialized(nn.Sequential(conv, nn.Tanh(), nn.Flatten(), nn.Linear(outputs, 5)), seed)
    assert isinstance(model, nn.Sequential)
    return layers_of(model, pictures(shape=(channels, 8, 8), seed=seed))[0]


@DRAWN
@given(rows_of_layers(), st.integers(0, 2**16))
def test_the_true_input_satisfies_both_kinds_of_equations(model: nn.Sequential, seed: int) -> None:
    assert isinstance(model[0], nn.Conv2d)
    batch = pictures(shape=(model[0].in_channels, 8, 8), seed=seed)
    for layer in layers_of(model, batch):
        system = _equations(layer, seed=seed, scale=1.0)
        truth = layer.value.reshape(-1, 1)
        forward, gradient = system._forward(truth)[:, 0], system._gradient(truth)[..., 0]
        torch.testing.assert_close(forward, system.target, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(gradient, system.gradient_target, rtol=1e-12, atol=1e-12)


@DRAWN
@given(rows_of_layers(), st.integers(0, 2**16))
def test_both_sides_of_the_equations_have_torchs_own_values_at_any_input(model: nn.Sequential, seed: int) -> None:
    """Sorted and scaled back, so that the order of the rows is free."""
    assert isinstance(model[0], nn.Conv2d)
    layer = layers_of(model, pictures(shape=(model[0].in_channels, 8, 8), seed=seed))[-1]
    system = _equations(layer, scale=1.0)
    value = torch.randn(layer.value.numel(), 1, generator=seeded(seed), dtype=torch.float64)
    forward, gradient = layer.equations(value)
    right = system.normal_times(value) - system.prior_precision * value
    noise = seeded(0)
    output_error = torch.rand(layer.output.shape, generator=noise, dtype=torch.float64).add(0.5)
    row_error = torch.rand(layer.conv.out_channels, generator=noise, dtype=torch.float64).add(0.5)
    norm = (forward / output_error).square().sum() + (gradient / row_error.view(-1, 1, 1, 1)).square().sum()
    torch.testing.assert_close((value * right).sum(), norm, rtol=1e-9, atol=0)


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("scale", [1e-2, 1e-5])
def test_the_solution_is_that_of_a_dense_least_squares_solver(groups: int, scale: float) -> None:
    """The equations stacked with the prior as rows, by LAPACK; right sides moved off any exact solution."""
    layer = _layer(groups=groups, stride=2)
    layer.output = layer.output + 10 * scale * torch.randn(layer.output.shape, generator=seeded(1), dtype=torch.float64)
    system = _equations(layer, seed=0, scale=scale)
    generator = seeded(0)
    output_error = scale * torch.rand(layer.output.shape, generator=generator, dtype=torch.float64).add(0.5)
    row_error = scale * torch.rand(layer.conv.out_channels, generator=generator, dtype=torch.float64).add(0.5)
    gradient_error = row_error.view(-1, 1, 1, 1).expand(layer.gradient.shape)
    weights = 1 / torch.cat([output_error.flatten(), gradient_error.flatten()])
    unknowns = layer.value.numel()
    rows = torch.cat([layer.matrix() * weights[:, None], torch.eye(unknowns, dtype=torch.float64) / 0.5])
    right = torch.cat([layer.output.flatten(), layer.gradient.flatten()]) * weights
    right = torch.cat([right, torch.full((unknowns,), 0.5 / 0.5, dtype=torch.float64)])
    expected, *_ = np.linalg.lstsq(rows.numpy(), right.numpy(), rcond=None)
    found = solve_convolution(system, generator=seeded(), probes=2000)
    torch.testing.assert_close(found.mean.flatten(), torch.from_numpy(expected), rtol=1e-5, atol=1e-6)
    deviation = torch.linalg.inv(rows.T @ rows).diagonal().sqrt()
    torch.testing.assert_close(found.error.flatten(), deviation, rtol=0.15, atol=0)  # 2000 draws: 1.6 % each


ROUTES: list[Callable[[ConvEquations], Factored]] = [module._primal, module._dual, module._blocks]


# The second layer's gradient equations alone leave every channel undetermined: 36 equations for 64 pixels.
LAYERS = {"wide": _layer(width=4, kernel=4, stride=2, padding=1), "narrow": _layer(channels=4, width=4)}


@pytest.mark.parametrize("scale", [1e-3, 1e-6, 1e-13], ids=["coarse", "float32", "float64"])
@pytest.mark.parametrize("route", [module._primal, module._dual], ids=["primal", "dual"])
@pytest.mark.parametrize("name", LAYERS)
def test_the_exact_factorizations_solve_the_normal_equations(
    name: str, route: Callable[[ConvEquations], Factored], scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = LAYERS[name]
    # as in use: where the quick factorization does not suffice, as the dual does not for float64, the dense one follows
    monkeypatch.setattr(module, "_preconditioner", lambda system, quick: (route if quick else module._primal)(system))
    found = solve_convolution(_equations(layer, scale=scale, spread=10.0), generator=seeded(), probes=0)
    assert layer.condition() < 1e3
    assert float((found.mean - layer.value).abs().max()) < 1e4 * scale + 1e-9


@pytest.mark.parametrize("scale", [1e-3, 1e-6, 1e-13], ids=["coarse", "float32", "float64"])
@pytest.mark.parametrize("groups", [1, 3])
def test_the_block_factorization_leads_conjugate_gradients_to_the_same_solution(
    groups: int, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = _layer(padding=1, groups=groups)
    system = _equations(layer, scale=scale, spread=10.0)
    expected = solve_convolution(system, generator=seeded(), probes=0).mean
    monkeypatch.setattr(module, "_preconditioner", lambda system, *_: module._blocks(system))
    found = solve_convolution(system, generator=seeded(), probes=0, iterations=2000).mean
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("route", ROUTES, ids=["primal", "dual", "blocks"])
def test_whitening_is_a_square_root_of_the_factorizations_inverse_or_of_a_part_of_it(
    route: Callable[[ConvEquations], Factored],
) -> None:
    """S S^T is the approximate inverse; the dual route leaves the few forward equations out of S."""
    layer = _layer(width=4, stride=2, padding=1)
    system = _equations(layer, scale=1e-2)
    factored = route(system)
    unit = torch.eye(system.unknowns, dtype=torch.float64)
    root = factored.whiten(unit)
    if route is module._dual:
        blocks = module._gradient_normal(system).repeat_interleave(3, 0)
        inverse = torch.linalg.inv(
            torch.block_diag(*blocks)  # type: ignore[no-untyped-call]
        )
    else:
        inverse = factored.solve(unit)
    torch.testing.assert_close(root @ root.T, inverse, rtol=1e-6, atol=1e-12)


def _noted(taken: list[str], route: str) -> Callable[..., None]:
    return lambda *_: taken.append(route)


def test_large_layers_are_split_into_blocks_and_few_outputs_take_the_dual(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []
    for route in ("_primal", "_dual", "_blocks"):
        monkeypatch.setattr(module, route, _noted(taken, route))
    module._preconditioner(_equations(_layer(padding=1)), quick=True)
    module._preconditioner(_equations(_layer(width=4, stride=2)), quick=True)
    module._preconditioner(_equations(_layer(width=4, stride=2)), quick=False)
    monkeypatch.setattr(module, "DENSE_LIMIT", 100)
    module._preconditioner(_equations(_layer(padding=1)), quick=True)
    assert taken == ["_primal", "_dual", "_primal", "_blocks"]


def test_without_equations_the_prior_is_the_answer() -> None:
    layer = _layer()
    system = _equations(layer, scale=1e12)
    found = solve_convolution(system, generator=seeded(), probes=4000)
    torch.testing.assert_close(found.mean, torch.full_like(found.mean, 0.5), rtol=0, atol=1e-6)
    torch.testing.assert_close(found.error, torch.full_like(found.error, 0.5), rtol=0.1, atol=0)


def test_a_misfit_of_one_is_what_errors_of_the_stated_size_leave() -> None:
    layer = _layer(padding=1)
    scale = 1e-3
    generator = seeded(0)
    noise: Tensor = torch.rand(layer.output.shape, generator=generator, dtype=torch.float64).add(0.5)
    draw = torch.randn(layer.output.shape, generator=seeded(5), dtype=torch.float64)
    layer.output = layer.output + scale * noise * draw
    calm = solve_convolution(_equations(layer, scale=scale), generator=seeded(), probes=0).misfit
    layer.output = layer.output + 100 * scale * draw
    wild = solve_convolution(_equations(layer, scale=scale), generator=seeded(), probes=0).misfit
    assert 0.3 < calm < 1.2
    assert wild > 10 * calm


@pytest.mark.parametrize("route", ROUTES[:2], ids=["primal", "dual"])
@pytest.mark.parametrize("groups", [1, 3])
def test_weights_by_the_entry_enter_every_route_and_missing_entries_drop_out(
    groups: int, route: Callable[[ConvEquations], Factored], monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = _layer(groups=groups, stride=2)
    generator = seeded(0)
    output_error = 1e-2 * torch.rand(layer.output.shape, generator=generator, dtype=torch.float64).add(0.5)
    error = 1e-2 * torch.rand(layer.gradient.shape, generator=generator, dtype=torch.float64).add(0.5)
    error[torch.rand(error.shape, generator=generator) < 0.4] = torch.inf
    conv, mean = _equations(layer).conv, torch.full(layer.value.shape[1:], 0.5, dtype=torch.float64)
    system = conv_equations(
        conv, layer.conv.weight.detach(), layer.output, output_error, layer.delta, layer.gradient, error, (mean, 0.5)
    )
    unknowns = layer.value.numel()
    weights = 1 / torch.cat([output_error.flatten(), error.flatten()])
    rows = torch.cat([layer.matrix() * weights[:, None], torch.eye(unknowns, dtype=torch.float64) / 0.5])
    right = torch.cat([layer.output.flatten(), layer.gradient.flatten()]) * weights
    expected, *_ = np.linalg.lstsq(rows.numpy(), torch.cat([right, torch.ones(unknowns).double()]).numpy(), rcond=None)
    monkeypatch.setattr(module, "_preconditioner", lambda system, *_: route(system))
    found = solve_convolution(system, generator=seeded(), probes=0, iterations=2000).mean
    torch.testing.assert_close(found.flatten(), torch.from_numpy(expected), rtol=1e-3, atol=1e-3)
    diagonal = module._gradient_normal(system).diagonal(dim1=1, dim2=2) - system.prior_precision
    torch.testing.assert_close(module._gradient_diagonal(system), diagonal, rtol=1e-9, atol=1e-9)
