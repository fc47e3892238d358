"""Noise has the distribution that the mechanism names, and a clip never lengthens."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fedseal import Update, defense
from fedseal.errors import BadConfig
from fedseal.norm import length


@pytest.mark.parametrize(
    ("name", "law"), [("gaussian:0.3", stats.norm(scale=0.3)), ("laplace:0.3", stats.laplace(scale=0.3))]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_follows_the_law_that_it_names(name: str, law: object, dtype: torch.dtype) -> None:
    update = Update("gradient", {"w": torch.full((200, 50), 2.0, dtype=dtype), "b": torch.zeros(7, dtype=dtype)})
    noisy = defense.parse(name).on_update(update, torch.Generator().manual_seed(0))
    drawn = (noisy.tensors["w"] - 2).double().flatten().numpy()
    assert stats.kstest(drawn, law.cdf).pvalue > 0.01  # type: ignore[attr-defined]
    assert abs(float(torch.corrcoef(torch.as_tensor(drawn).view(2, -1))[0, 1])) < 4 / math.sqrt(5000)
    assert bool(noisy.tensors["b"].all())


@pytest.mark.parametrize("name", ["gaussian", "laplace", "clip"])
@pytest.mark.parametrize("strength", [0.0, -1.0, 1e11, float("nan"), float("inf")])
def test_strengths_that_make_no_sense_are_refused(name: str, strength: float) -> None:
    with pytest.raises(BadConfig, match=r"give a positive number, 1e\+10 at most"):
        defense.DEFENSES[name](strength)


@given(
    values=st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=9),
    norm=st.floats(1e-3, 1e3),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_a_clip_never_lengthens_nor_turns(values: list[float], norm: float, dtype: torch.dtype) -> None:
    flat = torch.tensor(values, dtype=dtype)
    before = {"w": flat[:1], "b": flat[1:]}
    after = defense.clip(norm).on_update(Update("gradient", before), torch.Generator()).tensors
    long = math.sqrt(sum(float(value) ** 2 for value in flat.double()))
    assert length(before.values()) == pytest.approx(long)
    assert length(after.values()) <= min(norm, long) * (1 + 1e-6)
    scale = min(1.0, norm / long) if long else 1.0
    assert torch.allclose(torch.cat(list(after.values())), flat * scale, rtol=1e-6, atol=1e-30)
    if long <= norm:
        assert all(torch.equal(after[name], before[name]) for name in before)
