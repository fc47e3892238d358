"""The size of an update against numpy, over tensors longer than a stretch, of any dtype and memory order."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedseal.norm import STEP, distance, length

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


@given(st.integers(0, 2 * STEP + 3), st.sampled_from(DTYPES), st.integers(0, 2**31))
def test_length_and_distance_are_numpys(entries: int, dtype: torch.dtype, seed: int) -> None:
    drawn = torch.Generator().manual_seed(seed)
    one, other = (torch.randn(entries + 1, generator=drawn).to(dtype) for _ in range(2))
    exact, beside = one.double().numpy(), other.double().numpy()
    assert length([one]) == pytest.approx(float(np.linalg.norm(exact)), rel=1e-12)
    apart = float(np.linalg.norm(exact - beside) / np.linalg.norm(exact))
    assert distance({"a": one}, {"a": other}) == pytest.approx(apart, rel=1e-12)


def test_the_order_in_memory_does_not_matter() -> None:
    one = torch.arange(24.0).view(2, 3, 4)
    assert length([one.transpose(0, 2)]) == length([one])
    assert distance({"a": one.transpose(0, 2)}, {"a": one.clone().transpose(0, 2)}) == 0.0


def test_what_is_not_a_number_is_no_small_distance() -> None:
    some, zero = {"a": torch.ones(2)}, {"a": torch.zeros(2)}
    broken = {"a": torch.tensor([1.0, math.nan])}
    assert math.isnan(distance(some, broken))
    assert math.isnan(distance(broken, some))
    assert math.isnan(distance({"a": torch.tensor([math.inf, 1.0])}, broken))
    assert distance(zero, some) == math.inf
    assert math.isnan(distance(zero, zero))


def test_however_little_is_replayed_of_nothing_is_infinitely_far() -> None:
    assert distance({"a": torch.zeros(2)}, {"a": torch.tensor([0.0, 0.5])}) == math.inf


def test_tensors_of_unlike_sizes_are_no_distance_apart() -> None:
    with pytest.raises(ValueError, match="zip"):
        distance({"a": torch.ones(STEP)}, {"a": torch.ones(2 * STEP)})


def test_nothing_has_no_length() -> None:
    assert length([]) == length([torch.zeros(0)]) == 0.0
