"""Examples from files, and one set dealt out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fedseal.errors import BadConfig, StorageFailure, UnfitBatch
from fedseal.federation.data import held_out, read_npz, split
from fedseal.types import Batch


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbered(count: int = 60, classes: int = 3) -> Batch:
    return Batch(torch.arange(float(count))[:, None], torch.arange(count) % classes)


def sorted_rows(parts: list[Batch]) -> Tensor:
    return torch.cat([part.inputs[:, 0] for part in parts]).sort().values


@pytest.mark.parametrize("how", ["iid", "dirichlet:0.1", "dirichlet:100", "dirichlet:0.00001"])
def test_every_example_goes_to_one_owner_and_nobody_goes_without(how: str) -> None:
    parts = split(numbered(), 7, how, generator())
    assert torch.equal(sorted_rows(parts), torch.arange(60.0))
    assert min(map(len, parts)) >= 1
    assert all(torch.equal(part.inputs[:, 0].long() % 3, part.labels) for part in parts)
    again = split(numbered(), 7, how, generator())
    assert all(torch.equal(one.inputs, other.inputs) for one, other in zip(parts, again, strict=True))


def _skew(how: str) -> float:
    """Mean share of an owner's largest class."""
    parts = split(numbered(3000), 10, how, generator(1))
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
        split(numbered(), 3, how, generator())


def test_more_owners_than_examples() -> None:
    with pytest.raises(BadConfig, match="2 examples for 3"):
        split(numbered(2), 3, "iid", generator())


def test_held_out_examples_are_in_neither_twice() -> None:
    rest, held = held_out(numbered(), 0.2, generator())
    assert held is not None
    assert (len(rest), len(held)) == (48, 12)
    assert torch.equal(sorted_rows([rest, held]), torch.arange(60.0))
    assert held_out(numbered(), 0, generator())[1] is None
    with pytest.raises(BadConfig, match="validation split"):
        held_out(numbered(3), 0.9, generator())


def test_pictures_of_three_shapes(tmp_path: Path) -> None:
    labels = np.arange(4)
    for name, shape in {"grey": (4, 6, 5), "last": (4, 6, 5, 3), "first": (4, 3, 6, 5)}.items():
        np.savez(tmp_path / f"{name}.npz", images=np.full(shape, 51, np.uint8), y=labels)
        batch = read_npz(tmp_path / f"{name}.npz")
        assert tuple(batch.inputs.shape) == ((4, 1, 6, 5) if name == "grey" else (4, 3, 6, 5))
        assert float(batch.inputs.max()) == pytest.approx(0.2)
    np.savez(tmp_path / "rows.npz", x=np.ones((4, 7)), labels=labels)
    assert read_npz(tmp_path / "rows.npz").inputs.dtype == torch.float32


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(StorageFailure, match=r"no whole \.npz"):
        read_npz(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("x")
    with pytest.raises(StorageFailure, match=r"no whole \.npz"):
        read_npz(tmp_path / "text.npz")
    np.savez(tmp_path / "other.npz", a=np.ones(3))
    with pytest.raises(StorageFailure, match="name an array 'inputs'"):
        read_npz(tmp_path / "other.npz")
    np.savez(tmp_path / "objects.npz", inputs=np.array([{}], dtype=object), labels=np.arange(1))
    with pytest.raises(StorageFailure, match=r"no whole \.npz"):
        read_npz(tmp_path / "objects.npz")
    np.savez(tmp_path / "fractions.npz", inputs=np.ones((2, 2)), labels=np.array([0.5, 1.0]))
    with pytest.raises(UnfitBatch, match="labels"):
        read_npz(tmp_path / "fractions.npz")
