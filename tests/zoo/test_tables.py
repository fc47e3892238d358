"""The bundled tables: as published, in an order of which any prefix is a sample, and unharmed by their users."""

from __future__ import annotations

import sys

import pytest
import torch

from fedseal.errors import MissingExtra
from fedseal.modality.tabular import Categorical
from fedseal.zoo import tables

SIZES = {
    "breast_cancer": (569, 30, 0, 2),
    "diabetes": (442, 11, 1, 2),
    "fair": (6366, 30, 5, 2),
    "wine": (178, 13, 0, 3),
}


@pytest.mark.parametrize("name", tables.TABLES)
def test_a_table_is_as_published(name: str) -> None:
    batch, table = tables.TABLES[name]()
    rows, width, categorical, classes = SIZES[name]
    assert batch.inputs.shape == (rows, width)
    assert table.shape == (width,)
    assert sum(isinstance(column, Categorical) for column in table.columns) == categorical
    assert sorted(set(batch.labels.tolist())) == list(range(classes))
    assert torch.allclose(table.nearest(batch.inputs), batch.inputs, atol=1e-5)


@pytest.mark.parametrize("name", tables.TABLES)
def test_any_prefix_is_a_sample(name: str) -> None:
    batch, _ = tables.TABLES[name]()
    share = batch.labels.double().mean()
    assert abs(batch.labels[:100].double().mean() - share) < 5 * batch.labels.double().std() / 10
    again, _ = tables.TABLES[name]()
    assert torch.equal(batch.inputs, again.inputs)
    batch.inputs.zero_()
    assert torch.equal(again.inputs, tables.TABLES[name]().batch.inputs)


def test_the_diabetes_classes_part_the_patients_at_the_median() -> None:
    assert tables.diabetes().batch.labels.sum() == 221


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    tables._table.cache_clear()
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingExtra, match=r"the table 'wine' comes with sklearn.*; pip install 'fedseal\[tables\]'"):
        tables.wine()
