"""Examples from files of numpy arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fedseal.errors import StorageFailure, UnfitBatch
from fedseal.setup.data.arrays import read_npz


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
    (tmp_path / "bytes.npz").write_bytes(bytes(range(200, 250)))
    for name in ("objects.npz", "bytes.npz"):  # where numpy's own words advise to unpickle
        with pytest.raises(
            StorageFailure, match=r"no whole \.npz file \(no archive of arrays, or one of Python objects"
        ):
            read_npz(tmp_path / name)
    np.savez(tmp_path / "fractions.npz", inputs=np.ones((2, 2)), labels=np.array([0.5, 1.0]))
    with pytest.raises(UnfitBatch, match="labels"):
        read_npz(tmp_path / "fractions.npz")


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 1e300])
def test_a_value_that_is_no_number_of_float32_is_refused_by_its_example(tmp_path: Path, wrong: float) -> None:
    """In training it read as a rate too high: nan in the model, and the advice to lower it."""
    inputs = np.zeros((3, 4))
    inputs[2, 1] = wrong
    path = tmp_path / "wrong.npz"
    np.savez(path, x=inputs, y=np.arange(3))
    with pytest.raises(UnfitBatch, match=r"example 2 of '.*wrong.npz' holds the value (nan|inf|1e\+300)"):
        read_npz(path)
