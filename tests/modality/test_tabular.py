"""Rows of a table as model inputs: what goes in comes out, and what cannot be a row is brought to the nearest one."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedseal.errors import BadConfig, FedsealError, UnfitBatch
from fedseal.modality.columns import Categorical, Column, Continuous
from fedseal.modality.tabular import Tabular

AGE, SEX = Continuous("age", 17, 90, mean=40, std=12, digits=0), Categorical("sex", ("f", "m"))
JOB = Categorical("job", ("farmer", "nurse", "smith"))
TABLE = Tabular((AGE, JOB, SEX))
SETTINGS = settings(max_examples=40, deadline=None, derandomize=True)


@st.composite
def tables(draw: st.DrawFn) -> tuple[Tabular, list[dict[str, object]]]:
    """A schema, and rows that fit it."""
    columns: list[Column] = []
    for place in range(draw(st.integers(1, 5))):
        if draw(st.booleans()):
            columns.append(Categorical(f"c{place}", tuple("abcdefgh"[: draw(st.integers(2, 8))])))
        else:
            low, digits = draw(st.integers(-500, 500)), draw(st.integers(0, 3))
            mean, std = low + draw(st.integers(0, 100)), draw(st.floats(0.5, 50))
            columns.append(Continuous(f"n{place}", low, low + 100, mean, std, digits))
    rows: list[dict[str, object]] = []
    for _ in range(draw(st.integers(1, 4))):
        row: dict[str, object] = {}
        for column in columns:
            if isinstance(column, Categorical):
                row[column.name] = draw(st.sampled_from(column.values))
            else:
                row[column.name] = round(column.low + draw(st.floats(0, 100)), column.digits or 0)
        rows.append(row)
    return Tabular(tuple(columns)), rows


@SETTINGS
@given(tables())
def test_rows_come_back_as_they_went_in(case: tuple[Tabular, list[dict[str, object]]]) -> None:
    table, rows = case
    inputs = table.encode(rows)
    assert inputs.shape == (len(rows), *table.shape)
    assert inputs.dtype == torch.float32
    assert table.rows(inputs) == rows
    assert table.rows(table.nearest(inputs)) == rows
    assert torch.equal(table.forward(inputs), inputs)


@SETTINGS
@given(tables(), st.integers(0, 2**16))
def test_the_nearest_row_is_one_that_a_table_can_hold(case: tuple[Tabular, list[dict[str, object]]], seed: int) -> None:
    table = case[0]
    wild = 5 * torch.randn(6, *table.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rows = table.nearest(wild)
    assert torch.allclose(table.nearest(rows), rows, atol=1e-12)
    assert torch.equal(table.decode(rows), table.decode(wild))
    assert torch.allclose(table.project(rows), rows, atol=1e-6)
    for column, place in zip(table.columns, table.places, strict=True):
        if isinstance(column, Categorical):
            assert rows[:, place].sum(1).tolist() == [1.0] * 6
            assert torch.equal(rows[:, place].argmax(1), wild[:, place].argmax(1))
        else:
            values = table.decode(wild)[:, table.columns.index(column)]
            assert bool(((values >= column.low) & (values <= column.high)).all())


@SETTINGS
@given(tables(), st.integers(0, 2**16))
def test_projecting_changes_nothing_that_is_in_range_and_leads_into_it(
    case: tuple[Tabular, list[dict[str, object]]], seed: int
) -> None:
    table = case[0]
    low, high = table.project(torch.full(table.shape, -1e6)), table.project(torch.full(table.shape, 1e6))
    inside = low + (high - low) * torch.rand(4, *table.shape, generator=torch.Generator().manual_seed(seed))
    assert torch.allclose(table.project(inside), inside)
    wild = 1e3 * (inside - inside.mean())
    assert bool(((table.project(wild) >= low) & (table.project(wild) <= high)).all())


def test_a_number_without_a_grid_is_not_rounded() -> None:
    column = Continuous("x", 0, 10, mean=5, std=2)
    inputs = column.encode([1.23456789])
    assert column.decode(inputs.double()).item() == pytest.approx(1.23456789, abs=1e-6)
    assert column.value(inputs[0]) == 1.23457


def test_a_table_says_what_it_is() -> None:
    assert str(TABLE).splitlines() == [
        "3 columns, 6 model inputs",
        "  age  number, 17 to 90, mean 40, whole numbers",
        "  job  3 categories: 'farmer', 'nurse', 'smith'",
        "  sex  2 categories: 'f', 'm'",
    ]
    assert Tabular.from_description(TABLE.describe()) == TABLE
    assert copy.deepcopy(TABLE) == TABLE
    assert hash(TABLE) == hash(Tabular((AGE, JOB, SEX)))


BAD: dict[str, tuple[type[FedsealError], str, object]] = {
    "no columns": (BadConfig, "the columns are []", lambda: Tabular(())),
    "one name twice": (BadConfig, "['age', 'age']", lambda: Tabular((AGE, AGE))),
    "no range": (BadConfig, "column 'x' has the range 3", lambda: Continuous("x", 3, 3)),
    "no deviation": (BadConfig, "deviation 0", lambda: Continuous("x", 0, 1, std=0)),
    "infinite range": (BadConfig, "column 'x'", lambda: Continuous("x", 0, float("inf"))),
    "one category": (BadConfig, "vocabulary of column 'x'", lambda: Categorical("x", ("a",))),
    "category twice": (BadConfig, "vocabulary of column 'x'", lambda: Categorical("x", ("a", "a"))),
    "no rows": (UnfitBatch, "the table has no rows", lambda: TABLE.encode([])),
    "missing column": (
        UnfitBatch,
        "row 2 has no column 'sex'",
        lambda: TABLE.encode([{"age": 3, "job": "smith", "sex": "f"}, {"age": 3, "job": "smith"}]),
    ),
    "unknown category": (
        UnfitBatch,
        "row 1 has the unknown category 'pilot' in column 'job'; known are 'farmer', 'nurse', 'smith'",
        lambda: TABLE.encode([{"age": 3, "job": "pilot", "sex": "f"}]),
    ),
    "text for a number": (
        UnfitBatch,
        "row 1 has 'old' in column 'age', which holds numbers",
        lambda: TABLE.encode([{"age": "old", "job": "smith", "sex": "f"}]),
    ),
    "no number": (UnfitBatch, "row 1 has nan", lambda: TABLE.encode([{"age": float("nan"), "job": "x", "sex": "f"}])),
    "no description": (BadConfig, "describes no table", lambda: Tabular.from_description({"kind": "image"})),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_table_is_refused_with_the_reason(case: str) -> None:
    kind, words, make = BAD[case]
    assert callable(make)
    with pytest.raises(kind) as caught:
        make()
    assert words in str(caught.value)


def test_a_long_category_is_shown_short_in_the_schema_and_in_errors() -> None:
    long = "x" * 5000
    table = Tabular((Categorical("job", ("cook", long)), Categorical("n" * 5000, ("a", "b"))))
    assert len(str(table)) < 400
    assert "… (5,002 characters)" in str(table)
    with pytest.raises(UnfitBatch, match="5,003 characters") as caught:
        table.encode([{"job": long + "y", "n" * 5000: "a"}])
    assert len(str(caught.value)) < 500
