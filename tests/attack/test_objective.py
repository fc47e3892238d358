"""Distances of updates: zero at equality, differentiable, and scaled as their papers say. New rows inherit the laws."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from attack.cases import seeded
from fedseal.attack.search import objective as module
from fedseal.attack.search.objective import (
    Objective,
    balanced_distance,
    cosine_distance,
    cosine_with_matrices,
    layerwise_cosine,
    layerwise_distance,
    squared_distance,
)

OBJECTIVES: dict[str, Objective] = {
    function.__name__: function
    for function in (
        squared_distance,
        cosine_distance,
        balanced_distance,
        layerwise_cosine,
        layerwise_distance,
        cosine_with_matrices,
    )
}


def _tensors(seed: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = seeded(seed)
    return [
        torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype) for shape in ((4, 3), (4,), (2, 2, 2))
    ]


def test_the_table_holds_every_objective() -> None:
    public = [n for n, f in inspect.getmembers(module, inspect.isfunction) if f.__module__ == module.__name__]
    assert sorted(n for n in public if not n.startswith("_")) == sorted(OBJECTIVES)


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_zero_at_equality_and_positive_elsewhere(name: str, dtype: torch.dtype) -> None:
    objective, one, other = OBJECTIVES[name], _tensors(0, dtype), _tensors(1, dtype)
    assert abs(objective(one, one).item()) < 10 * torch.finfo(dtype).eps
    assert objective(one, other).item() > 0.01


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_gradient_is_the_slope(name: str) -> None:
    objective, observed = OBJECTIVES[name], _tensors(1)

    def of(*guess: Tensor) -> Tensor:
        return objective(guess, observed)

    guess = [tensor.requires_grad_() for tensor in _tensors(0)]
    assert torch.autograd.gradcheck(of, tuple(guess))
    assert torch.autograd.gradgradcheck(of, tuple(guess))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_number_of_tensors_must_agree(name: str) -> None:
    with pytest.raises(ValueError, match="zip"):
        OBJECTIVES[name](_tensors(0), _tensors(1)[:2])


def _scaled(tensors: Sequence[Tensor], factor: float) -> list[Tensor]:
    return [factor * tensor for tensor in tensors]


@pytest.mark.parametrize("factor", [1e-6, 3.0, 1e6])
def test_scaling_one_side_leaves_the_cosine_and_both_sides_the_balanced_distance(factor: float) -> None:
    one, other = _tensors(0), _tensors(1)
    torch.testing.assert_close(cosine_distance(_scaled(one, factor), other), cosine_distance(one, other))
    torch.testing.assert_close(cosine_distance(one, _scaled(other, factor)), cosine_distance(one, other))
    both = balanced_distance(_scaled(one, factor), _scaled(other, factor))
    torch.testing.assert_close(both, balanced_distance(one, other))
    squared = squared_distance(_scaled(one, factor), _scaled(other, factor))
    torch.testing.assert_close(squared, factor**2 * squared_distance(one, other))


def test_the_cosine_of_opposite_updates_is_two_and_is_taken_over_all_tensors_at_once() -> None:
    one, other = _tensors(0), _tensors(1)
    torch.testing.assert_close(cosine_distance(one, _scaled(one, -2.0)), torch.tensor(2.0, dtype=torch.float64))
    flat = [torch.cat([tensor.flatten() for tensor in side]) for side in (one, other)]
    similarity = torch.nn.functional.cosine_similarity(flat[0], flat[1], dim=0)
    torch.testing.assert_close(cosine_distance(one, other), 1 - similarity)


def test_a_tensor_counts_as_much_in_the_balanced_distance_whatever_its_size() -> None:
    one, other = _tensors(0), _tensors(1)
    uneven = [(scale * a, scale * b) for scale, a, b in zip((1e4, 1.0, 1e-4), one, other, strict=True)]
    value = balanced_distance([a for a, _ in uneven], [b for _, b in uneven])
    torch.testing.assert_close(value, balanced_distance(one, other))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_tensor_that_is_zero_on_either_side_gives_a_finite_value_and_gradient(name: str) -> None:
    observed = _tensors(1)
    observed[1].zero_()
    guess = _tensors(0)
    guess[0].zero_()
    guess = [tensor.requires_grad_() for tensor in guess]
    value = OBJECTIVES[name](guess, observed)
    grads = torch.autograd.grad(value, guess)
    assert bool(torch.isfinite(value))
    assert all(bool(torch.isfinite(grad).all()) for grad in grads)


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_guess_of_zeros_has_a_finite_slope_and_so_does_the_truth(name: str, dtype: torch.dtype) -> None:
    """A root has an infinite slope at 0, and a black candidate's first gradient is often zero everywhere."""
    observed = _tensors(1, dtype)
    for guess in ([torch.zeros_like(tensor) for tensor in observed], [tensor.clone() for tensor in observed]):
        leaves = [tensor.requires_grad_() for tensor in guess]
        grads = torch.autograd.grad(OBJECTIVES[name](leaves, observed), leaves)
        assert all(bool(torch.isfinite(grad).all()) for grad in grads)
        # and a search goes on: the slope of the objective reaches inputs through the square of a gradient
        small = torch.full((), 1e-30, dtype=dtype).requires_grad_()
        value = OBJECTIVES[name]([small * tensor for tensor in observed], observed)
        assert bool(torch.isfinite(torch.autograd.grad(value, small)[0]))
