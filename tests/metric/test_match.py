"""Matching against brute force over all assignments."""

from __future__ import annotations

import itertools

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedseal.metric.match import match


def cost(truths: Tensor, guesses: Tensor, pairs: list[tuple[int, int]]) -> float:
    return sum(float((truths[row] - guesses[column]).square().mean()) for row, column in pairs)


def cheapest(truths: Tensor, guesses: Tensor) -> float:
    n, m = len(truths), len(guesses)
    if n <= m:
        choices = ([*zip(range(n), columns, strict=True)] for columns in itertools.permutations(range(m), n))
    else:
        choices = ([*zip(rows, range(m), strict=True)] for rows in itertools.permutations(range(n), m))
    return min(cost(truths, guesses, pairs) for pairs in choices)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 5), st.integers(0, 5), st.integers(0, 2**31))
def test_is_the_cheapest_of_all_assignments(n: int, m: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    truths = torch.rand(n, 1, 2, 2, generator=generator, dtype=torch.float64)
    guesses = torch.rand(m, 1, 2, 2, generator=generator, dtype=torch.float64)
    pairs = [(row, column) for row, column in enumerate(match(truths, guesses)) if column is not None]
    assert len(pairs) == min(n, m)
    assert len({column for _, column in pairs}) == len(pairs)
    assert abs(cost(truths, guesses, pairs) - cheapest(truths, guesses)) < 1e-12


def test_undoes_a_permutation() -> None:
    truths = torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    order = [4, 2, 0, 5, 1, 3]
    assert [order[column] for column in match(truths, truths[order]) if column is not None] == list(range(6))
