"""Rounding: the published half-widths hold, rounding at random has no bias, and a sign is one bit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedseal import Update, defense
from fedseal.defense.precision import stochastic
from fedseal.errors import BadConfig, UnfitUpdate

ENTRIES = st.lists(st.floats(-6e4, 6e4, width=32), min_size=1, max_size=20)


def _sent(specification: str, *tensors: Tensor, seed: int = 0) -> list[Tensor]:
    update = Update("gradient", {str(k): tensor for k, tensor in enumerate(tensors)})
    out = defense.parse(specification).on_update(update, torch.Generator().manual_seed(seed))
    return list(out.tensors.values())


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
@given(values=ENTRIES)
def test_a_rounded_entry_lies_within_the_published_half_width_of_the_true_one(name: str, values: list[float]) -> None:
    true = torch.tensor(values)
    (sent,) = _sent(name, true)
    (figures,) = (step.figures for step in defense.parse(name).public)
    error = (sent.double() - true.double()).abs()
    assert bool((error <= figures["eps"] * sent.double().abs() + figures["tiny"]).all())


@pytest.mark.parametrize(("name", "bits"), [("float16", 11), ("bfloat16", 8)])
def test_half_widths_are_no_wider_than_needed(name: str, bits: int) -> None:
    halfway = torch.tensor([1 + 2.0**-bits + 2.0**-20, 1.0])  # just above the middle between 1 and the next number
    assert _sent(name, halfway)[0].tolist() == [1 + 2.0 ** (1 - bits), 1.0]
    assert defense.parse(name).public[0].figures["eps"] == 2.0**-bits


def test_the_smallest_numbers_are_rounded_to_their_grid() -> None:
    tiny = defense.float16().public[0].figures["tiny"]
    assert tiny == 2.0**-25
    assert _sent("float16", torch.tensor([1.4 * tiny, 0.9 * tiny]))[0].tolist() == [2 * tiny, 0.0]


@pytest.mark.parametrize(("name", "value"), [("float16", 7e4), ("bfloat16", 3.4e38)])
def test_an_entry_beyond_the_format_is_named(name: str, value: float) -> None:
    with pytest.raises(UnfitUpdate, match=f"'1' does not fit into {name}"):
        _sent(name, torch.ones(2), torch.tensor([0.0, value]))


@given(values=ENTRIES, levels=st.integers(1, 127), seed=st.integers(0, 99))
def test_levels_are_the_neighbors_on_the_grid_of_the_largest(values: list[float], levels: int, seed: int) -> None:
    true = torch.tensor(values)
    (sent,) = _sent(f"int8:levels={levels}", true, seed=seed)
    largest = true.double().abs().max()
    assert sent.abs().max() == true.abs().max()  # so that the receiver, and an attacker, reads the scale off
    step = float(largest) / levels
    error = (sent.double() - true.double()).abs()
    assert bool((error <= step * (1 + 1e-5)).all())
    if step > 1e-30:
        places = sent.double() / step
        assert bool(((places - places.round()).abs() < 1e-4).all())


def test_rounding_at_random_keeps_the_mean() -> None:
    true = torch.tensor([1.0, 0.3, -0.77, 0.01, 0.0, -0.5])
    generator = torch.Generator().manual_seed(0)
    mean = torch.stack([stochastic(true, 3, generator).double() for _ in range(4000)]).mean(0)
    error = (mean - true.double()).abs()
    assert float(error.max()) < 4 * (1 / 3) / 2 / 4000**0.5  # four standard errors of the widest two-point variable
    assert error[[0, 4]].tolist() == [0, 0]


def test_a_tensor_of_zeros_stays_zero() -> None:
    for name in ("int8", "sign", "float16"):
        assert not bool(_sent(name, torch.zeros(3), torch.ones(2))[0].any())


def test_a_sign_is_one_bit_an_entry_and_one_number_a_tensor() -> None:
    one, other = _sent("sign", torch.tensor([[3.0, -1.0], [0.0, -2.0]]), torch.tensor([-0.5]))
    assert one.tolist() == [[1.5, -1.5], [1.5, -1.5]]
    assert other.tolist() == [-0.5]


@pytest.mark.parametrize("levels", [0, -1, 128])
def test_other_numbers_of_levels_are_refused(levels: int) -> None:
    with pytest.raises(BadConfig, match=f"{levels} levels of a signed byte; give 1 to 127"):
        defense.int8(levels=levels)
