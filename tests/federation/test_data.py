"""One set dealt out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fedseal.errors import BadConfig
from fedseal.federation.data import held_out, split_among
from fedseal.types import Batch


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbered(count: int = 60, classes: int = 3) -> Batch:
    return Batch(torch.arange(float(count))[:, None], torch.arange(count) % classes)


def sorted_rows(parts: list[Batch]) -> Tensor:
    return torch.cat([part.inputs[:, 0] for part in parts]).sort().values


@pytest.mark.parametrize("how", ["iid", "dirichlet:0.1", "dirichlet:100", "dirichlet:0.00001"])
def test_every_example_goes_to_one_owner_and_nobody_goes_without(how: str) -> None:
    parts = split_among(numbered(), 7, how, generator())
    assert torch.equal(sorted_rows(parts), torch.arange(60.0))
    assert min(map(len, parts)) >= 1
    assert all(torch.equal(part.inputs[:, 0].long() % 3, part.labels) for part in parts)
    again = split_among(numbered(), 7, how, generator())
    assert all(torch.equal(one.inputs, other.inputs) for one, other in zip(parts, again, strict=True))


def _skew(how: str) -> float:
    """Mean share of an owner's largest class."""
    parts = split_among(numbered(3000), 10, how, generator(1))
    return sum(float(part.labels.bincount(minlength=3).max()) / len(part) for part in parts) / 10


def test_the_lower_the_concentration_the_more_owners_differ() -> None:
    assert _skew("dirichlet:0.05") > 0.8 > 0.6 > _skew("dirichlet:10") > 0.34
    assert _skew("iid") < 0.4


def test_shares_have_the_mean_and_variance_of_a_dirichlet_distribution() -> None:
    from fedseal.federation.data import _shares

    draws = torch.stack([_shares(4, 0.5, generator(seed)) for seed in range(2000)])
    assert torch.allclose(draws.mean(0), torch.full((4,), 0.25, dtype=torch.float64), atol=0.02)
    variance = 0.25 * 0.75 / (4 * 0.5 + 1)
    assert torch.allclose(draws.var(0), torch.full((4,), variance, dtype=torch.float64), rtol=0.15)


@pytest.mark.parametrize("how", ["random", "iid:2", "dirichlet", "dirichlet:0", "dirichlet:nan", "dirichlet:x"])
def test_another_split_is_refused(how: str) -> None:
    with pytest.raises(BadConfig):
        split_among(numbered(), 3, how, generator())


def test_more_owners_than_examples() -> None:
    with pytest.raises(BadConfig, match="2 examples for 3"):
        split_among(numbered(2), 3, "iid", generator())


def test_held_out_examples_are_in_neither_twice() -> None:
    rest, held = held_out(numbered(), 0.2, generator())
    assert held is not None
    assert (len(rest), len(held)) == (48, 12)
    assert torch.equal(sorted_rows([rest, held]), torch.arange(60.0))
    assert held_out(numbered(), 0, generator())[1] is None
    with pytest.raises(BadConfig, match="validation split"):
        held_out(numbered(3), 0.9, generator())
