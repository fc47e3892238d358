"""Reading tables: the schema that is inferred, what is done about flaws, and what is refused."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from fedseal.errors import BadConfig, FedsealError, MissingExtra, StorageFailure, UnfitBatch
from fedseal.modality import frame as module
from fedseal.modality.columns import Categorical, Continuous
from fedseal.modality.table import read_table

PEOPLE = pd.DataFrame(
    {
        "age": [31, 45, 28, 60, 39, 51],
        "income": [1200.5, 3100.25, 900.0, 2500.75, 1800.0, 2100.5],
        "job": ["nurse", "smith", "nurse", "farmer", "smith", "nurse"],
        "member": [True, False, True, True, False, False],
        "sick": ["no", "yes", "no", "no", "yes", "no"],
    }
)


def test_texts_and_truths_are_categories_and_numbers_are_numbers() -> None:
    table = read_table(PEOPLE, label="sick")
    kinds = {column.name: type(column) for column in table.modality.columns}
    assert kinds == {"age": Continuous, "income": Continuous, "job": Categorical, "member": Categorical}
    assert table.classes == ("no", "yes")
    assert table.batch.labels.tolist() == [0, 1, 0, 0, 1, 0]
    age, income = table.modality.columns[:2]
    assert isinstance(age, Continuous)
    assert isinstance(income, Continuous)
    assert (age.digits, income.digits, age.low, age.high) == (0, 2, 28, 60)
    assert table.modality.rows(table.batch.inputs)[1] == {
        "age": 45,
        "income": 3100.25,
        "job": "smith",
        "member": "False",
    }
    assert table.batch.inputs[:, 0].mean().abs() < 1e-6


def test_whole_numbers_that_come_back_often_are_codes_unless_said_otherwise() -> None:
    frame = pd.DataFrame({"code": [1, 2, 3] * 10, "age": range(30), "y": [0, 1] * 15})
    assert isinstance(read_table(frame, label="y").modality.columns[0], Categorical)
    assert isinstance(read_table(frame, label="y", continuous=["code"]).modality.columns[0], Continuous)
    assert isinstance(read_table(frame, label="y").modality.columns[1], Continuous)
    assert isinstance(read_table(frame, label="y", categorical=["age"]).modality.columns[1], Categorical)
    ordered = read_table(pd.DataFrame({"c": [10, 9, 2] * 10, "y": [0, 1] * 15}), label="y").modality.columns[0]
    assert isinstance(ordered, Categorical)
    assert ordered.values == ("2", "9", "10")


def test_a_file_reads_as_the_frame_does(tmp_path: Path) -> None:
    PEOPLE.to_csv(tmp_path / "t.csv", index=False)
    PEOPLE.to_csv(tmp_path / "t.tsv", index=False, sep="\t")
    PEOPLE.to_parquet(tmp_path / "t.parquet")
    expected = read_table(PEOPLE, label="sick")
    for name in ("t.csv", "t.tsv", "t.parquet"):
        found = read_table(tmp_path / name, label="sick")
        assert found.modality == expected.modality
        assert torch.equal(found.batch.inputs, expected.batch.inputs)
        assert str(found) == str(expected)


def _holes() -> pd.DataFrame:
    frame = PEOPLE.copy()
    frame["age"] = frame["age"].astype(float)
    frame.loc[0, "age"] = None
    frame.loc[[1, 2], "job"] = None
    return frame


def test_missing_values_are_refused_unless_told_what_to_do() -> None:
    with pytest.raises(UnfitBatch, match="missing values: 1 in 'age', 2 in 'job'; say what to do: missing='drop'"):
        read_table(_holes(), label="sick")
    dropped = read_table(_holes(), label="sick", missing="drop")
    assert len(dropped.batch) == 3
    assert dropped.notes == ("3 rows with missing values were left out (1 in 'age', 2 in 'job')",)
    filled = read_table(_holes(), label="sick", missing="fill")
    rows = filled.modality.rows(filled.batch.inputs)
    assert (rows[0]["age"], rows[1]["job"], rows[3]["job"]) == (45, "(missing)", "farmer")
    assert filled.notes == ("missing values were filled in (1 in 'age', 2 in 'job')",)


@pytest.mark.parametrize("mark", ["", "?", "NA", "nan"])
def test_the_usual_marks_of_a_missing_value_are_known(tmp_path: Path, mark: str) -> None:
    (tmp_path / "t.csv").write_text(f"age,sick\n3,no\n{mark},yes\n5,no\n")
    with pytest.raises(UnfitBatch, match="1 in 'age'"):
        read_table(tmp_path / "t.csv", label="sick")


def test_a_constant_column_is_left_out_with_a_note() -> None:
    table = read_table(PEOPLE.assign(country="here", year=2020), label="sick")
    assert [column.name for column in table.modality.columns] == ["age", "income", "job", "member"]
    assert table.notes == ("constant columns were left out: country, year",)
    assert "note: constant columns" in str(table)


def test_one_row_needs_the_schema_of_a_larger_table() -> None:
    larger = read_table(PEOPLE, label="sick")
    with pytest.raises(UnfitBatch, match=r"one row, which shows neither ranges nor vocabularies; .* like=read_table"):
        read_table(PEOPLE[1:2], label="sick")
    one = read_table(PEOPLE[1:2], label="sick", like=larger)
    assert torch.equal(one.batch.inputs, larger.batch.inputs[1:2])
    assert one.batch.labels.tolist() == [1]  # and not 0, as the only class of this table would be


def test_a_million_rows_are_thinned_fast() -> None:
    frame = pd.DataFrame({"place": np.arange(1_000_000), "kind": ["a", "b"] * 500_000, "y": [0, 0, 1, 1] * 250_000})
    started = time.perf_counter()
    table = read_table(frame, label="y")
    assert time.perf_counter() - started < 10
    assert len(table.batch) == 50_000
    places = table.modality.decode(table.batch.inputs)[:, 0]
    assert bool((places.diff() > 0).all())
    assert places.histc(10, 0, 1_000_000).sub(5_000).abs().max() < 350  # five standard deviations
    assert abs(int(table.batch.labels.sum()) - 25_000) < 560
    assert table.notes[0] == "50,000 rows of 1,000,000 were drawn; the schema is theirs"


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
def test_the_kept_rows_do_not_depend_on_how_the_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    pd.DataFrame({"place": range(500), "y": [0, 0, 0, 0, 0, 1, 1, 1, 1, 1] * 50}).to_csv(
        tmp_path / "t.csv", index=False
    )
    monkeypatch.setattr(module, "CHUNK", chunk)
    table = read_table(tmp_path / "t.csv", label="y", limit=100)
    frame = pd.DataFrame({"place": range(500), "y": [0, 0, 0, 0, 0, 1, 1, 1, 1, 1] * 50})
    whole = read_table(frame, label="y", limit=100)
    assert torch.equal(table.batch.inputs, whole.batch.inputs)
    assert len(set(table.modality.decode(table.batch.inputs)[:, 0].tolist())) == 100


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


LONG = pd.DataFrame({"name": [f"person {n}" for n in range(600)], "y": [0, 1] * 300})
REFUSED: dict[str, tuple[type[FedsealError], str, Callable[[Path], object]]] = {
    "no file": (StorageFailure, "there is no table", lambda at: read_table(at / "none.csv", label="y")),
    "a folder": (StorageFailure, "there is no table", lambda at: read_table(at, label="y")),
    "empty": (
        StorageFailure,
        "cannot be read as a table",
        lambda at: read_table(_written(at / "t.csv", b""), label="y"),
    ),
    "binary": (
        StorageFailure,
        "cannot be read as a table",
        lambda at: read_table(_written(at / "t.csv", bytes(range(256)) * 9), label="y"),
    ),
    "no parquet": (
        StorageFailure,
        "cannot be read as a table",
        lambda at: read_table(_written(at / "t.parquet", b"PAR1 and no more"), label="y"),
    ),
    "ragged": (
        StorageFailure,
        "cannot be read as a table",
        lambda at: read_table(_written(at / "t.csv", b"a,y\n1,2\n1,2,3,4\n"), label="y"),
    ),
    "names alone": (UnfitBatch, "has no rows", lambda at: read_table(_written(at / "t.csv", b"a,y\n"), label="y")),
    "no label": (
        BadConfig,
        "no column 'target'; its columns are age, income, job, member, sick",
        lambda at: read_table(PEOPLE, label="target"),
    ),
    "label as input": (BadConfig, "cannot be an input", lambda at: read_table(PEOPLE, label="sick", drop=["sick"])),
    "no such column": (BadConfig, "no column 'x'", lambda at: read_table(PEOPLE, label="sick", categorical=["x"])),
    "declared both": (
        BadConfig,
        "both categorical and continuous",
        lambda at: read_table(PEOPLE, label="sick", categorical=["age"], continuous=["age"]),
    ),
    "text as number": (
        UnfitBatch,
        "'job' is declared continuous and holds 'nurse'",
        lambda at: read_table(PEOPLE, label="sick", continuous=["job"]),
    ),
    "names of people": (UnfitBatch, "drop=['name']", lambda at: read_table(LONG, label="y")),
    "too many classes": (
        UnfitBatch,
        "'name' has 600 different values; name a column of 2 to 100 classes",
        lambda at: read_table(LONG, label="name"),
    ),
    "one class": (UnfitBatch, "'sick' has 1 different value;", lambda at: read_table(PEOPLE[2:4], label="sick")),
    "all constant": (
        UnfitBatch,
        "every column of the table is constant",
        lambda at: read_table(pd.DataFrame({"a": [1, 1], "y": [0, 1]}), label="y"),
    ),
    "two of a name": (
        UnfitBatch,
        "two columns 'a'",
        lambda at: read_table(pd.DataFrame([[1, 2, 0], [2, 3, 1]], columns=["a", "a", "y"]), label="y"),
    ),
    "every row has a hole": (
        UnfitBatch,
        "every row has a missing value",
        lambda at: read_table(PEOPLE.assign(age=None), label="sick", missing="drop"),
    ),
    "hole in the label": (
        UnfitBatch,
        "1 rows have no label",
        lambda at: read_table(PEOPLE.assign(sick=["no", None, "no", "no", "yes", "no"]), label="sick", missing="fill"),
    ),
    "no such treatment": (BadConfig, "'guess'", lambda at: read_table(PEOPLE, label="sick", missing="guess")),  # type: ignore[arg-type]
    "no rows wanted": (BadConfig, "1 rows are to be kept", lambda at: read_table(PEOPLE, label="sick", limit=1)),
    "another schema": (
        UnfitBatch,
        "no column 'age'",
        lambda at: read_table(PEOPLE.drop(columns="age"), label="sick", like=read_table(PEOPLE, label="sick")),
    ),
    "unknown category": (
        UnfitBatch,
        "row 1 has the unknown category 'nurse' in column 'job'; known are 'farmer', 'smith'",
        lambda at: read_table(PEOPLE, label="sick", like=read_table(PEOPLE[PEOPLE["job"] != "nurse"], label="sick")),
    ),
    "unknown class": (
        UnfitBatch,
        "unknown class 'maybe'; known are no, yes",
        lambda at: read_table(PEOPLE.assign(sick="maybe"), label="sick", like=read_table(PEOPLE, label="sick")),
    ),
    "no table": (BadConfig, "a table of type list", lambda at: read_table([1, 2], label="y")),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_refused_with_the_reason(case: str, tmp_path: Path) -> None:
    kind, words, read = REFUSED[case]
    with pytest.raises(kind) as caught:
        read(tmp_path)
    assert words in str(caught.value)


def test_without_pandas_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtra, match=r"pip install 'fedseal\[tables\]'"):
        read_table("t.csv", label="y")
