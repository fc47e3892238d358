"""What stands in a CSV file: numbers by all rows, classes as they are written, and what may mean two things refused."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pandas as pd
import pytest

from fedseal.errors import FedsealError, StorageFailure
from fedseal.modality import frame as module
from fedseal.modality.columns import Categorical, Continuous
from fedseal.modality.table import Table, read_table, read_tables

LABELS = ("y", "n")
KEPT = dict(read_table.__kwdefaults__ or {})


def csv(path: Path, names: str, *rows: str, sign: str = ",") -> Path:
    """Rows with a label, every other one "y"; columns by `sign`."""
    lines = [f"{row}{sign}{LABELS[number % 2]}" for number, row in enumerate(rows)]
    path.write_text("\n".join([f"{names}{sign}label", *lines]) + "\n")
    return path


def numbers(table: Table, name: str) -> Continuous:
    column = next(column for column in table.modality.columns if column.name == name)
    assert isinstance(column, Continuous)
    return column


@pytest.mark.parametrize(
    ("sign", "fields", "told"),
    [
        (",", ['"12,500"', "950", "870"], r"t.csv' writes a number as '12,500' \(row 1, column 'wbc'\)"),
        (",", ["650", "990"] * 40 + ['"12,500"'], r"'12,500' \(row 81, "),
        (",", ['"1,234,567"', "950"], r"'1,234,567'"),
        (",", ['"1,234.5"', "950"], r"'1,234.5'"),
        (",", ["12 500", "950"], r"'12 500'"),
        (",", ["12'500", "950"], r"'12'500'"),
        (";", ["12.500", "950"], r"'12.500'"),
        (";", ["1.234.567,8", "950"], r"'1.234.567,8'"),
        (";", ["3,4", "950", "12.5"], r"decimal commas \('3,4'\) and with points \('12.5'\)"),
    ],
)
def test_signs_between_thousands_are_refused_wherever_they_stand(
    tmp_path: Path, sign: str, fields: list[str], told: str
) -> None:
    rows = [f"{40 + number % 7}{sign}{field}" for number, field in enumerate(fields)]
    with pytest.raises(FedsealError, match=told):
        read_table(csv(tmp_path / "t.csv", f"age{sign}wbc", *rows, sign=sign), label="label")


@pytest.mark.parametrize(
    ("sign", "fields", "high", "note"),
    [
        (";", ["2", "9"] * 40 + ["3,4"], 9.0, True),
        (",", ["12.500", "950", "870"], 950.0, False),  # where commas separate columns, points are of decimals
        (";", ["12,500", "0,5", "7"], 12.5, True),  # no thousands begin with 0
        (";", ["12.500", "1.25", "7"], 12.5, False),
        (",", ["1e3", "-.5", "7."], 1000.0, False),
    ],
)
def test_the_decimal_sign_is_decided_over_all_rows(
    tmp_path: Path, sign: str, fields: list[str], high: float, note: bool
) -> None:
    rows = [f"{40 + number % 7}{sign}{field}" for number, field in enumerate(fields)]
    found = read_table(csv(tmp_path / "t.csv", f"age{sign}crp", *rows, sign=sign), label="label")
    assert numbers(found, "crp").high == high
    assert ("numbers have decimal commas" in found.notes) == note


def test_texts_that_hold_commas_say_nothing_of_the_decimal_sign(tmp_path: Path) -> None:
    rows = [f'{40.5 + number},"{("none", "1,2")[number % 2]}",a' for number in range(12)]
    found = read_table(
        csv(tmp_path / "t.csv", "age,findings,kind", *[f"{row}{n % 2}" for n, row in enumerate(rows)]), label="label"
    )
    assert numbers(found, "age").high == 51.5


def test_numbers_beside_words_are_words_with_a_note(tmp_path: Path) -> None:
    rows = [f"{40 + number % 7},{crp}" for number, crp in enumerate(["5.0", "<0.5", "1.2"] * 4)]
    found = read_table(csv(tmp_path / "t.csv", "age,crp", *rows), label="label")
    assert found.notes == ("column 'crp' is read as words, since '<0.5' is no number as '5.0' is",)


@pytest.mark.parametrize(("row", "fields"), [("70,4,7", 4), ("70", 2)])
def test_rows_of_another_width_are_refused_by_their_number(tmp_path: Path, row: str, fields: int) -> None:
    path = csv(tmp_path / "t.csv", "age,crp", "50,9", "51,8", row, "53,7")
    with pytest.raises(
        FedsealError, match=rf"t.csv' cannot be read as a table \(row 3 has {fields} fields, and .* 3\)"
    ):
        read_table(path, label="label")
    path = csv(tmp_path / "t.csv", "age,crp", "50,9,3", "51,8,4")
    with pytest.raises(FedsealError, match=r"row 1 has 4 fields"):
        read_table(path, label="label")


def coded(path: Path, *codes: str) -> Path:
    rows = [f"{40 + number},{codes[number % len(codes)]}" for number in range(12)]
    path.write_text("\n".join(["age,dx", *rows]) + "\n")
    return path


def test_classes_are_read_as_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a = coded(tmp_path / "a.csv", "250.00", "401.90", "038.9")
    b = coded(tmp_path / "b.csv", "250.00", "V45.81")
    assert read_tables([a, b], label="dx").classes == ("038.9", "250.00", "401.90", "V45.81")
    monkeypatch.setattr(module, "CHUNK", 1)  # whatever stands in a piece of the file
    assert read_table(b, label="dx").classes == ("250.00", "V45.81")


@pytest.mark.parametrize(("one", "other"), [("250.0", "250"), ("TRUE", "1"), ("07", "7")])
def test_one_class_in_two_ways_is_refused(tmp_path: Path, one: str, other: str) -> None:
    a, b = coded(tmp_path / "a.csv", one, "x"), coded(tmp_path / "b.csv", other, "x")
    with pytest.raises(FedsealError, match=r"in '.*a.csv' and the class '.*' in '.*b.csv' mean the same"):
        read_tables([a, b], label="dx")
    with pytest.raises(FedsealError, match=r"label column 'dx' has the classes '.*' and '.*', which mean the same"):
        read_table(coded(tmp_path / "c.csv", one, other, "x"), label="dx")


def categories(table: Table, name: str) -> tuple[str, ...]:
    column = next(column for column in table.modality.columns if column.name == name)
    assert isinstance(column, Categorical)
    return column.values


def test_truths_are_one_word_however_they_are_stored(tmp_path: Path) -> None:
    rows = [f"{40 + number}" for number in range(8)]
    a = csv(tmp_path / "a.csv", "age,smoker", *[f"{row},{('TRUE', 'FALSE')[n % 3 > 1]}" for n, row in enumerate(rows)])
    b = csv(
        tmp_path / "b.csv", "age,smoker", *[f"{row},{('True', 'UNKNOWN')[n % 3 > 1]}" for n, row in enumerate(rows)]
    )
    frame = pd.DataFrame({"age": range(40, 48), "smoker": [True, False] * 4, "label": ["y", "n"] * 4})
    frame.to_parquet(tmp_path / "c.parquet")
    found = read_tables([a, b, tmp_path / "c.parquet"], label="label")
    assert categories(found, "smoker") == ("False", "True", "UNKNOWN")


def test_names_in_two_forms_of_unicode_are_one(tmp_path: Path) -> None:
    word, name = "b\u00f6sartig", "gr\u00f6\u00dfe"
    for form in ("NFC", "NFD"):
        rows = [f"{40.5 + n},{word if n % 2 else 'gut'},{word if n % 2 else 'gut'}" for n in range(6)]
        text = "\n".join([f"{name},kind,label", *rows]) + "\n"
        (tmp_path / f"{form}.csv").write_text(unicodedata.normalize(form, text), "utf-8")
    found = read_tables([tmp_path / "NFC.csv", tmp_path / "NFD.csv"], label="label")
    assert (found.classes, categories(found, "kind")) == ((word, "gut"), (word, "gut"))
    own = read_table(tmp_path / "NFD.csv", label="label", continuous=[unicodedata.normalize("NFD", name)])
    assert numbers(own, name).high == 45.5


def test_none_among_words_is_one_and_what_stands_for_no_value_is_told(tmp_path: Path) -> None:
    rows = [f"{40 + n},{('None', 'Latex')[n % 2]}" for n in range(6)]
    assert categories(read_table(csv(tmp_path / "t.csv", "age,allergy", *rows), label="label"), "allergy") == (
        "Latex",
        "None",
    )
    path = csv(tmp_path / "t.csv", "age,allergy", *rows, "50,N/A", "None,Latex")
    with pytest.raises(FedsealError, match=r"1 in 'age' \('None' in row 8\), 1 in 'allergy' \('N/A' in row 7\)"):
        read_table(path, label="label")


@pytest.mark.parametrize("name", ["", "Unnamed: 0"])
def test_the_numbers_of_rows_that_pandas_writes_are_left_out(tmp_path: Path, name: str) -> None:
    path = csv(tmp_path / "t.csv", f"{name},age", *[f"{n},{40 + n * n}" for n in range(12)])
    found = read_table(path, label="label")
    assert [column.name for column in found.modality.columns] == ["age"]
    assert found.notes == ("columns without a name, as rows are numbered in, were left out: number 1",)


def test_a_column_that_numbers_the_rows_is_told(tmp_path: Path) -> None:
    path = csv(tmp_path / "t.csv", "id,age", *[f"{(7 * n) % 12 + 1},{40 + n * n}" for n in range(12)])
    assert read_table(path, label="label").notes == ("column 'id' numbers the rows",)


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FedsealError, match=r"t.csv' has two columns 'age'"):
        read_table(csv(tmp_path / "t.csv", "age,age", "1,2", "3,4"), label="label")


@pytest.mark.parametrize(
    ("encoding", "told"),
    [
        ("latin-1", r"t.csv' cannot be read as a table \(line 3 is not in UTF-8, and in Latin-1 .* 'M\u00fcller,n'\)"),
        ("utf-16", r"t.csv' cannot be read as a table \(it is in UTF-16\)"),
        ("utf-16-le", r"\(line 1 holds a byte of 0, as UTF-16 does and what is no text\)"),
    ],
)
def test_text_that_is_not_utf_8_is_refused_by_line(tmp_path: Path, encoding: str, told: str) -> None:
    """It was refused in the words of Python's decoder."""
    path = tmp_path / "t.csv"
    path.write_bytes("name,label\nMaier,y\nM\u00fcller,n\n".encode(encoding))
    with pytest.raises(StorageFailure, match=told) as caught:
        read_table(path, label="label")
    assert "save it as UTF-8" in caught.value.remedy


def test_a_row_is_named_by_its_number_in_a_file_of_which_not_all_rows_are_kept(tmp_path: Path) -> None:
    """It was named by its number among those that were kept."""
    kept = module.read_frame(csv(tmp_path / "t.csv", "a", *map(str, range(40))), 10, [], "label")
    row = int(kept["a"].iloc[-1]) + 1
    fields = [str(number) for number in range(40)]
    for field, told in (("", rf"1 in 'a' \(row {row}\)"), ("1,234.5", rf"'1,234.5' \(row {row}, column 'a'\)")):
        fields[row - 1] = f'"{field}"'
        with pytest.raises(FedsealError, match=told):
            read_table(csv(tmp_path / "t.csv", "a", *fields), label="label", limit=10)


def test_several_tables_have_the_categories_of_all_rows_that_are_kept_of_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all rows together no more were kept than of one table, and a category of the others was refused."""
    monkeypatch.setattr("fedseal.modality.table.LIMIT", 40)
    monkeypatch.setattr("fedseal.modality.table.read_table.__kwdefaults__", {**KEPT, "limit": 40})
    files = [csv(tmp_path / f"{name}.csv", "job", *[f"{name}{row % 20}" for row in range(40)]) for name in "abc"]
    (jobs,) = read_tables(files, label="label").modality.columns
    assert isinstance(jobs, Categorical)
    assert len(jobs.values) == 60
